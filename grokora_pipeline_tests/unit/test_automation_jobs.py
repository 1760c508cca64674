"""The jobs that a person starts: what each makes, and what it leaves alone."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml

from grokora_pipeline.agents import AgentSpec, Improve
from grokora_pipeline.assets.chain import all_assets
from grokora_pipeline.assets.common import Project
from grokora_pipeline.automation.history import AGENT_TAG
from grokora_pipeline.automation.jobs import jobs, rollback_job
from grokora_pipeline.automation.schedules import schedules
from grokora_pipeline.settings import PROJECT_ROOT, Settings
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.stores import publish_files

PROJECT = Project(Settings(), (AgentSpec(name="actor", description="Acts."),))
LINKS = ("task_dataset", "tokenized_split", "lora_adapter", "eval_report", "champion", "merged_model")
Instance = dg.DagsterInstance


def nothing(key: Sequence[str], group: str | None = None) -> dg.AssetsDefinition:
    @dg.asset(key=key, group_name=group)
    def made() -> None: ...

    return made


def definitions(*more: str) -> dg.Definitions:
    assets = [nothing(["actor", link], "actor") for link in (*LINKS, *more)]
    assets += [nothing([name]) for name in ("session_logs", "base_model")]
    return dg.Definitions(assets=assets, jobs=jobs(PROJECT, [spec for asset in assets for spec in asset.specs]))


def made_by(defs: dg.Definitions, job: str) -> set[str]:
    return {key.path[-1] for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys}


def test_ranks_are_tried_and_champions_exported_on_demand_only() -> None:
    defs = definitions("rank_trial", "rank_report", "export")
    assert made_by(defs, "rank_experiment") == {"rank_trial", "rank_report"}
    assert defs.resolve_job_def("rank_experiment").run_config == {
        "ops": {"actor__rank_trial": {"config": {"ranks": [8, 16, 32, 64]}}}
    }
    for job in ("retrain_all", "retrain_actor", "ingest", "evaluate_only"):
        assert made_by(defs, job).isdisjoint({"rank_trial", "rank_report", "export"})
    assert made_by(defs, "export_champions") == {"export"}
    assert defs.resolve_job_def("export_champions").run_config == {"ops": {"actor__export": {"config": {"to": "gguf"}}}}
    assert made_by(defs, "retrain_all") >= {*LINKS, "session_logs", "base_model"}


IMPROVED = AgentSpec(name="actor", description="Acts.", improve=Improve(verify="schema", schedule="0 1 * * 0"))


def test_improvement_is_a_job_of_its_own_with_a_schedule_that_is_off() -> None:
    project = Project(Settings(), (IMPROVED,))
    specs = [spec for asset in all_assets(project) if isinstance(asset, dg.AssetsDefinition) for spec in asset.specs]
    defs = dg.Definitions(
        assets=all_assets(project),
        jobs=jobs(project, specs),
        schedules=schedules(project, specs),
        resources=project.resources(),
    )
    assert made_by(defs, "improve_actor") == {"improvement"}
    for job in ("retrain_all", "retrain_actor"):
        assert "improvement" not in made_by(defs, job)
    schedule = defs.resolve_schedule_def("improve_actor_regularly")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    moment = datetime(2026, 11, 29, tzinfo=UTC)
    data = schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=moment))
    assert data.run_requests is not None
    config = dict(data.run_requests[0].run_config)
    assert dg.validate_run_config(defs.resolve_job_def("improve_actor"), config)
    assert "improvement" not in {
        spec.key.path[-1]
        for asset in all_assets(PROJECT)
        if isinstance(asset, dg.AssetsDefinition)
        for spec in asset.specs
    }


def test_without_rank_assets_there_is_no_such_job() -> None:
    assert "rank_experiment" not in {job.name for job in definitions().resolve_all_job_defs()}


def test_ingest_and_evaluation_train_nothing() -> None:
    assert made_by(definitions(), "ingest") == {"session_logs", "base_model", "task_dataset", "tokenized_split"}
    assert made_by(definitions(), "evaluate_only") == {"eval_report", "champion"}


def test_the_queue_lets_one_training_of_an_agent_go_at_a_time_whoever_starts_it() -> None:
    runs = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())["concurrency"]["runs"]
    limit = {"key": AGENT_TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
    assert limit in runs["tag_concurrency_limits"]
    assert definitions().resolve_job_def("retrain_actor").tags[AGENT_TAG] == "actor"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(Store(str(tmp_path / "store")))
    for version in ("first", "second"):
        publish_files(made.store, "actor/lora_adapter", version)
        made.promote("actor", version, "better", {})
    return made


def run_rollback(instance: Instance, registry: Registry, agent: str, to: str = "") -> dg.ExecuteInProcessResult:
    rollback = rollback_job(Project(Settings(store=registry.store.url), PROJECT.agents))
    config = {"ops": {"roll_back": {"config": {"agent": agent, "to": to}}}}
    return rollback.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def test_a_rollback_puts_the_champion_before_back_and_shows_it(registry: Registry) -> None:
    instance = Instance.ephemeral()
    assert run_rollback(instance, registry, "actor").success
    champion = registry.in_service("actor")
    assert champion is not None
    assert champion.version == "first"
    event = instance.get_latest_materialization_event(dg.AssetKey(["actor", "champion"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["champion"].value == "first"


@pytest.mark.parametrize(("agent", "to", "says"), [("actro", "", "no agent 'actro'"), ("actor", "x", "no adapter 'x'")])
def test_a_wrong_rollback_is_one_sentence_and_changes_nothing(
    registry: Registry, agent: str, to: str, says: str
) -> None:
    result = run_rollback(Instance.ephemeral(), registry, agent, to)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data is not None
    assert says in (failure.step_failure_data.user_failure_data.description or "")
    champion = registry.in_service("actor")
    assert champion is not None
    assert champion.version == "second"
