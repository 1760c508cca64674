"""The asset `session_logs`: it audits before it publishes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from grokora_pipeline.agents import AgentSpec, load_agents
from grokora_pipeline.assets import session_logs as link
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.sources import source_assets
from grokora_pipeline.sessions.table import SCHEMA
from grokora_pipeline.settings import Settings
from grokora_pipeline_tests.unit.session_logs import call, write_lines


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Logs of two days, an agent and an empty store."""
    write_lines(tmp_path / "logs" / "a.jsonl", [call("s", step, f"p{step}", "a") for step in (0, 1)])
    settings = Settings(home=tmp_path, logs=tmp_path / "logs", store=str(tmp_path / "store"), settle_seconds=0)
    return Project(settings, (AgentSpec(name="actor", description="acts"),))


def materialize(project: Project, instance: dg.DagsterInstance) -> tuple[bool, list[bool]]:
    """Whether the asset was made, and what `no_secret_survives` said, if it was asked."""
    assets: list[dg.AssetsDefinition | dg.SourceAsset] = [*source_assets(project), link.session_logs_asset(project)]
    run = dg.materialize(assets, instance=instance, resources=project.resources(), raise_on_error=False)
    checks = [event for event in run.get_asset_check_evaluations() if event.check_name == "no_secret_survives"]
    return run.success, [event.passed for event in checks]


def scanned(monkeypatch: pytest.MonkeyPatch, days_with_a_secret: set[str]) -> list[list[str]]:
    """Let the audit find a secret in some days; returns the days that it was asked about, call by call."""
    asked: list[list[str]] = []

    def surviving(folder: Path, days: Sequence[str]) -> list[dict[str, Any]]:
        asked.append(list(days))
        hits = sorted(days_with_a_secret & set(days))
        return [{"turn_id": day, "source_file": "a.jsonl", "line": 1, "rule": "made up"} for day in hits]

    monkeypatch.setattr(link, "surviving_secrets", surviving)
    return asked


def test_a_secret_that_the_audit_finds_is_never_published_however_often_it_is_tried(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scanned(monkeypatch, {"2026-01-02"})
    with dg.DagsterInstance.ephemeral() as instance:
        assert [materialize(project, instance) for _ in range(2)] == [(False, [False])] * 2
    assert asked == [["2026-01-01", "2026-01-02"]] * 2
    assert project.store.current("session_logs") is None


def test_current_stays_at_the_clean_version_while_a_later_day_holds_a_secret(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scanned(monkeypatch, {"2026-01-03"})
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialize(project, instance) == (True, [True])
        clean = project.store.require("session_logs").version
        write_lines(project.settings.logs / "b.jsonl", [call("t", 2, "p", "a")])
        assert [materialize(project, instance) for _ in range(2)] == [(False, [False])] * 2
        assert project.store.require("session_logs").version == clean
        (project.settings.logs / "b.jsonl").unlink()
        assert materialize(project, instance) == (True, [True])
    assert asked == [["2026-01-01", "2026-01-02"], ["2026-01-03"], ["2026-01-03"]]  # a clean day is scanned once


def test_days_that_nobody_audited_are_audited_even_if_they_did_not_change(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned(monkeypatch, set())
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialize(project, instance) == (True, [True])
        (project.store.require("session_logs").path / link.AUDIT).unlink()
        scanned(monkeypatch, {"2026-01-01"})
        assert materialize(project, instance) == (False, [False])


def test_calls_of_an_agent_that_agents_yaml_does_not_know_are_named_with_the_lines_to_add(project: Project) -> None:
    lines = [call("t", step, f"p{step}", "a", agent="Airline Bot") for step in range(3)]
    lines += [call("v", 0, "r", "a", agent="airline-bot"), call("w", 0, "s", "a", agent="base")]
    write_lines(project.settings.logs / "b.jsonl", [*lines, call("u", 0, "q", "a", agent=None)])
    lost = {"id": "r", "trace_id": "r", "run_type": "llm", "inputs": {"messages": []}}  # nobody's, and nobody's to be
    answer = {"message": {"role": "assistant", "content": "d"}}
    write_lines(project.settings.logs / "c.jsonl", [lost | {"outputs": answer}])
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([link.session_logs_asset(project)], instance=instance, resources=project.resources())
    (check,) = [one for one in run.get_asset_check_evaluations() if one.check_name == "every_call_has_an_agent"]
    assert not check.passed
    assert check.description == (
        "6 calls belong to no agent: Airline Bot (3), without a name (1), airline-bot (1), base (1); the metadata "
        "`agents.yaml` holds the lines to add."
    )
    block = str(check.metadata["agents.yaml"].value)
    agents = project.settings.home / "suggested.yaml"
    agents.write_text(block.removeprefix("```yaml\n").removesuffix("\n```"), encoding="utf-8")
    assert [agent.name for agent in load_agents(agents)] == ["airline_bot", "agent", "airline_bot_2", "base_agent"]
    assert load_agents(agents)[0].is_named("Airline Bot")


def test_a_day_that_holds_nothing_but_copies_is_audited_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = call("s", 0, "p0", "a") | {"started_at": "2026-02-02T00:00:00Z"}
    write_lines(project.settings.logs / "z.jsonl", [copied])
    asked = scanned(monkeypatch, {"2026-02-02"})
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialize(project, instance) == (False, [False])
    assert asked == [["2026-01-01", "2026-01-02", "2026-02-02"]]


def test_the_column_schema_of_the_asset_names_every_column_of_the_table() -> None:
    schema = link._COLUMNS["dagster/column_schema"].value
    assert [column.name for column in schema.columns] == SCHEMA.names
