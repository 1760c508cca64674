"""Rank trials as assets: what a run with ranks makes, and that a run without any makes nothing and is no failure."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets import rank_trial
from grokora_pipeline.assets.common import Project
from grokora_pipeline.settings import Settings
from grokora_pipeline.store import Store
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.workers import materialize

AGENT = AgentSpec(name="actor", description="acts", main_metric="exact_match")


def work(module: str, plan: dict[str, Any], output: Path) -> dict[str, Any]:
    """What workers do that train nothing: a larger rank has a larger adapter and the same loss."""
    output.mkdir(parents=True, exist_ok=True)
    if module == "grokora_pipeline.evaluation":
        return {"systems": {"adapter": {"metrics": {"exact_match": {"value": 0.5}}}}}
    (output / "adapter_model.safetensors").write_bytes(b"x" * 2**17 * plan["knobs"]["rank"])
    figures = {"validation_loss": 1.0 + plan["knobs"]["seed"] / 100, "trainable_share": 0.01}
    figures |= {"peak_memory_mib": 100.0, "tokens_per_second": 9.0, "wall_seconds": 2.0}
    return {**figures, "knobs": plan["knobs"]}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store(str(tmp_path))
    for key in ("base_model", "actor/tokenized_split", "actor/task_dataset"):
        publish_files(store, key, "1", {"base_model.json": {"path": "."}})

    def plan(project: Project, agent: AgentSpec, knobs: dict[str, Any]) -> dict[str, Any]:
        return {"agent": agent.name, "knobs": knobs, "versions": {"base_model": "1"}}

    monkeypatch.setattr(rank_trial, "training_plan", plan)
    return store


def try_ranks(store: Store, **config: Any) -> dg.ExecuteInProcessResult:
    """Make the trials and their report."""
    project = Project(Settings(store=store.url), (AGENT,))
    made = [rank_trial.rank_trial_asset(project, AGENT), rank_trial.rank_report_asset(project, AGENT)]
    return materialize(project, made, work, **config)


def test_without_ranks_nothing_is_made_and_nothing_fails(store: Store) -> None:
    result = try_ranks(store)
    assert result.success
    assert result.get_asset_materialization_events() == []
    assert store.current("actor/rank_report") is None


def test_ranks_of_the_config_are_tried_and_compared(store: Store) -> None:
    result = try_ranks(store, ranks=[8, 16], seeds=[7, 8])
    trial, report = result.get_asset_materialization_events()
    rows = [dict(record.data) for record in trial.materialization.metadata["ranks"].value.records]  # type: ignore[union-attr]
    assert [(row["rank"], row["seeds"], row["adapter_mib"], row["metric"]) for row in rows] == [
        (8, 2, 1.0, 0.5),
        (16, 2, 2.0, 0.5),
    ]
    assert trial.materialization.metadata["gpu_seconds"].value == 8
    assert report.materialization.metadata["ranks_not_tried"].value == "32, 64"
    assert store.require("actor/rank_report").read_json("report.json")["recommendation"]["rank"] == 8


def test_a_rank_that_no_report_compares_is_refused(store: Store) -> None:
    (failure, *_) = [event for event in try_ranks(store, ranks=[7]).all_events if event.is_step_failure]
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert "The rank 7 cannot be tried; choose from 8, 16, 32, 64." in (told.description or "")
