"""The champion asset: who is put in service, what keeps an adapter out, and that a rollback shows in the UI."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.chain import all_assets
from grokora_pipeline.assets.champion import BLOCKING, report_rollback
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.eval_report import EvaluationConfig, _history, _ranks
from grokora_pipeline.assets.swarm_report import SwarmConfig
from grokora_pipeline.settings import Settings
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.stores import publish_files

AGENT = AgentSpec(name="actor", description="Acts.", main_metric="exact_match")
KEY = dg.AssetKey(["actor", "champion"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in which the adapter v1 is proven better than the base."""
    made = Store(str(tmp_path))
    publish_files(made, "actor/tokenized_split", "s1", {"report.json": {"straddling": 0}})
    _evaluated(made, "v1")
    return made


def project(store: Store) -> Project:
    return Project(Settings(store=store.url), (AGENT,))


def _evaluated(store: Store, adapter: str, champion: str | None = None, value: float = 0.9) -> None:
    entry = {"value": 0.8, "low": 0.7, "high": 0.9, "p_value": 0.001, "detectable": 0.1, "higher_is_better": True}
    report = {
        "main_metric": "exact_match",
        "rows": 40,
        "systems": {
            "adapter": {"metrics": {"exact_match": {"value": value, "low": 0.8, "high": 1.0}}},
            "base": {"metrics": {"exact_match": {"value": 0.1}}},
        },
        "comparisons": {"adapter_vs_base": {"exact_match": entry}, "adapter_vs_champion": {"exact_match": entry}},
        "leaked_rows": {"adapter": 0},
        "training": {"knobs": {"rank": 16}},
        "versions": {"adapter": adapter, "champion": champion},
    }
    publish_files(store, "actor/lora_adapter", adapter, {"report.json": {}})
    publish_files(store, "actor/eval_report", f"report-{adapter}", {"report.json": report})


def _decide(store: Store, instance: dg.DagsterInstance) -> dict[str, Any]:
    """Materialize the champion alone; gives its metadata."""
    result = dg.materialize(
        all_assets(project(store)), selection=[KEY], instance=instance, resources=project(store).resources()
    )
    (event,) = result.asset_materializations_for_node("actor__champion")
    return {name: value.value for name, value in event.metadata.items()}


def _checked(instance: dg.DagsterInstance, asset: list[str], name: str, passed: bool) -> None:
    check = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(asset), check_name=name, passed=passed, metadata={}, blocking=True
    )
    instance.report_runless_asset_event(check)


def test_a_proven_adapter_is_put_in_service_with_its_evidence(store: Store) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        told = _decide(store, instance)
    assert told["champion"] == "v1"
    assert told["promoted"] is True
    record = Registry(store).record("actor")
    assert record is not None
    assert record["reason"] == told["decision"]
    assert record["decision"]["rule"]["alpha"] == 0.05


@pytest.mark.parametrize(
    ("asset", "check"),
    [
        (["session_logs"], "no_secret_survives"),
        (["actor", "task_dataset"], "schema"),
        (["actor", "tokenized_split"], "no_straddling_group"),
    ],
)
def test_a_blocking_check_that_failed_in_another_run_keeps_the_adapter_out(
    store: Store, asset: list[str], check: str
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _checked(instance, asset, check, passed=False)
        assert _decide(store, instance)["decision"] == f"Not promoted: the check {check} fails."
        assert Registry(store).in_service("actor") is None
        (kept,) = Registry(store).events("actor")
        assert (kept["action"], kept["decision"]["promote"], kept["decision"]["rule"]["alpha"]) == ("keep", False, 0.05)
        _checked(instance, asset, check, passed=True)
        assert _decide(store, instance)["promoted"] is True


@pytest.mark.parametrize("held", [True, False])
def test_a_check_that_a_run_beside_only_plans_leaves_its_last_verdict(store: Store, held: bool) -> None:
    """A run that is queued, under way or cut off has planned its checks already."""
    every = dg.Definitions(all_assets(project(store)), resources=project(store).resources())
    with dg.DagsterInstance.ephemeral() as instance:
        _checked(instance, ["session_logs"], "no_secret_survives", passed=held)
        instance.create_run_for_job(every.resolve_implicit_global_asset_job_def())
        assert _decide(store, instance)["promoted"] is held


def test_no_blocking_check_before_the_champion_is_forgotten() -> None:
    chain = [asset for asset in all_assets(Project(Settings(), (AGENT,))) if isinstance(asset, dg.AssetsDefinition)]
    specs = [spec for asset in chain for spec in asset.check_specs if spec.blocking]
    before = {(spec.asset_key.to_user_string(), spec.name) for spec in specs}
    after = {("actor/merged_model", "same_logits")}
    assert before - after == {(asset.format(agent="actor"), name) for asset, name in BLOCKING}


def test_a_check_that_blocks_nothing_or_another_agent_does_not_matter(store: Store) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _checked(instance, ["session_logs"], "nothing_quarantined", passed=False)
        _checked(instance, ["observer", "task_dataset"], "schema", passed=False)
        assert _decide(store, instance)["promoted"] is True


def test_the_champion_stays_where_the_report_is_about_another_one(store: Store) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _decide(store, instance)
        _evaluated(store, "v2", champion=None)
        told = _decide(store, instance)
        assert told["champion"] == "v1"
        assert "not v1" in told["decision"]
        _evaluated(store, "v3", champion="v1")
        assert _decide(store, instance)["champion"] == "v3"


def test_a_rollback_is_a_materialization_too(store: Store) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        _decide(store, instance)
        report_rollback(project(store), instance, "actor", Registry(store).rollback("actor"))
        event = instance.get_latest_materialization_event(KEY)
        assert event is not None
        assert event.asset_materialization is not None
        assert event.asset_materialization.metadata["champion"].value == "base"
        assert "rolled back before" in _decide(store, instance)["decision"]


def test_earlier_reports_are_told_oldest_first(store: Store) -> None:
    _evaluated(store, "v2", value=0.95)
    told = _history(project(store), AGENT, "actor/eval_report")
    assert [(entry["value"], entry["rank"]) for entry in told] == [(0.9, 16), (0.95, 16)]
    assert "adapter v1" in told[0]["label"]
    assert _history(project(store), AGENT.model_copy(update={"main_metric": "rougeL"}), "actor/eval_report") == []


def test_the_ranks_that_were_tried_are_told_where_the_main_metric_is_still_the_same(store: Store) -> None:
    rows = [{"rank": 8, "seeds": 2, "metric": 0.4}, {"rank": 64, "seeds": 2, "metric": None}]
    assert _ranks(project(store), AGENT) == []
    publish_files(store, "actor/rank_report", "r1", {"report.json": {"metric": "exact_match", "ranks": rows}})
    assert _ranks(project(store), AGENT) == [{"label": "rank 8, 2 seeds", "rank": 8, "value": 0.4}]
    assert _ranks(project(store), AGENT.model_copy(update={"main_metric": "rougeL"})) == []


def test_what_is_not_configured_depends_on_the_preset() -> None:
    assert EvaluationConfig().resolved(sample=True)["max_rows"] < EvaluationConfig().resolved(sample=False)["max_rows"]
    assert EvaluationConfig(few_shot=0).resolved(sample=False)["few_shot"] == 0
    full = SwarmConfig(seeds=[1]).resolved(sample=False)
    assert (full["tasks"], full["seeds"], full["ablation"]) == (50, [1], True)
