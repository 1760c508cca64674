"""`A/export`: what a run with an engine writes and shows; a run without any makes nothing and is no failure."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.export import WORKER, export_asset
from grokora_pipeline.settings import Settings
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.workers import materialize

CARD = {"target": "vllm", "command": "./serve.sh", "proof": "not run", "bytes": 7}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    report = {
        "main_metric": "rougeL",
        "rows": 24,
        "versions": {"adapter": "1"},
        "systems": {
            name: {"metrics": {"rougeL": {"value": value, "low": value - 0.1, "high": value + 0.1}}}
            for name, value in (("adapter", 0.8), ("base", 0.2))
        },
    }
    files: dict[str, tuple[str, Any]] = {
        "base_model": ("base_model.json", {"path": ".", "model_id": "org/m", "revision": "c0", "licence": "mit"}),
        **{f"actor/{name}": ("x", {}) for name in ("tokenized_split", "task_dataset", "lora_adapter")},
        "actor/eval_report": ("report.json", report),
    }
    for key, (name, document) in files.items():
        publish_files(store, key, "1", {name: document})
    return store


def export(store: Store, plans: list[dict[str, Any]], name: str = "", **config: Any) -> dg.ExecuteInProcessResult:
    """Make the asset by a worker that writes a card and no model, and keeps its plans."""

    def work(module: str, plan: dict[str, Any], output: Path) -> dict[str, Any]:
        assert module == WORKER
        output.mkdir(parents=True, exist_ok=True)
        (output / "README.md").write_text("---\nlicense: mit\n---\n# The champion of `actor` for vLLM\n")
        plans.append(plan)
        return CARD

    agent = AgentSpec(name="actor", description="acts", payload_format="toon")
    project = Project(Settings(store=store.url), (agent,), name)
    return materialize(project, [export_asset(project, agent)], work, **config)


def test_without_an_engine_or_a_champion_nothing_is_made_and_nothing_fails(store: Store) -> None:
    for config in ({}, {"to": "vllm"}):
        result = export(store, [], **config)
        assert result.success
        assert result.get_asset_materialization_events() == []


@pytest.mark.parametrize("name", ["", "night"])
def test_an_export_is_an_artifact_with_its_card_and_is_not_written_twice(store: Store, name: str) -> None:
    Registry(store).promote("actor", "1", "better than the base", {})
    plans = list[dict[str, Any]]()
    first, second = (export(store, plans, name, to="vllm", prompts=0) for _ in range(2))
    (event,) = first.get_asset_materialization_events()
    assert event.asset_key is not None
    assert event.asset_key.path == [*filter(None, [name]), "actor", "export"]
    metadata = event.materialization.metadata
    assert metadata["command"].value == "./serve.sh"
    assert metadata["card"].value == "# The champion of `actor` for vLLM\n"  # without the hub's YAML
    assert len(plans) == 1, "the second run found the first one's files"
    assert second.success
    assert plans[0]["toon"], "so that an engine that writes no TOON refuses it"
    assert plans[0]["metrics"] == "rougeL 0.800 (0.700 to 0.900) on 24 held-out rows, the base's 0.200 (0.100 to 0.300)"
    assert plans[0]["evidence"] == "better than the base"
    assert store.require("actor/export").read_json("export.json") == CARD
    changed = export(store, plans, name, to="vllm", prompts=0, kind="q8_0")
    assert changed.get_asset_materialization_events()[0].materialization.tags != event.materialization.tags
