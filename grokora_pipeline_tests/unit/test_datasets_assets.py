"""The assets `task_dataset` and `tokenized_split`: what refuses a publication, what makes them stale, what they say."""

from pathlib import Path
from typing import Any

import dagster as dg
import orjson
import pytest

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets import tokenized_split as split_module
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.task_dataset import task_dataset_asset
from grokora_pipeline.assets.tokenized_split import missing_examples, tokenized_split_asset
from grokora_pipeline.datasets.example import read_examples
from grokora_pipeline.models.base import facts
from grokora_pipeline.settings import Settings
from grokora_pipeline.training.preferences import complete_pairs
from grokora_pipeline.training.tokenize import load_split
from grokora_pipeline_tests.tiny import tiny_base
from grokora_pipeline_tests.unit.session_logs import call, run, write_lines

AGENT = AgentSpec(name="actor", description="Acts.", min_examples=10)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def project(tmp_path: Path, base: Path) -> Project:
    """A project whose store has a base model and the turns of thirty sessions, ten of them longer than the rest."""
    project = Project(Settings(store=str(tmp_path / "store")), (AGENT,))
    store = project.store
    with store.stage("base_model") as staged:
        record = {**facts(base, "tiny", "local"), "path": str(base)}
        (staged / "base_model.json").write_bytes(orjson.dumps(record))
        store.publish("base_model", "b1", staged)
    texts = [f"do {n} " + " ".join(f"w{n}x{k}" for k in range(100 if n < 10 else 5)) for n in range(30)]
    lines = [call(f"s{n}", 0, text, f"done {n}", outcome={"status": "success"}) for n, text in enumerate(texts)]
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    with store.stage("session_logs") as staged:
        run(tmp_path / "logs", staged / "turns-of-the-run")
        store.publish("session_logs", "t1", staged / "turns-of-the-run")
    return project


def materialize(
    project: Project, agent: AgentSpec, instance: dg.DagsterInstance, **config: dict[str, Any]
) -> dg.ExecuteInProcessResult:
    """One run of the two assets; `config` by asset name."""
    ops = {f"{agent.name}__{name}": {"config": values} for name, values in config.items()}
    assets = [task_dataset_asset(project, agent), tokenized_split_asset(project, agent)]
    return dg.materialize(
        assets, instance=instance, resources=project.resources(), run_config={"ops": ops}, raise_on_error=False
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The check results of a run by name."""
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def test_a_split_is_published_with_its_checks_and_remembers_sessions(project: Project) -> None:
    result = materialize(project, AGENT, dg.DagsterInstance.ephemeral())
    assert result.success
    assert all(checks(result)[name].passed for name in ("schema", "caps", "no_straddling_group", "undivided_groups"))
    assignment = project.store.require("actor/tokenized_split").read_json("assignment.json")
    assert set(assignment["sessions"]) == {f"s{n}" for n in range(30)}
    assert set(assignment["sessions"].values()) == {"train", "validation"}


def test_pairs_are_rows_beside_the_examples_on_one_side_of_the_split_and_do_not_count_as_examples(
    project: Project, tmp_path: Path
) -> None:
    store = project.store
    rows = [{"agent": "actor", "prompt": f"what is {n}?", "chosen": f"it is {n}", "rejected": "no"} for n in range(30)]
    write_lines(tmp_path / "pairs" / "dpo.jsonl", rows)
    with store.stage("session_logs") as staged:
        run(tmp_path / "pairs", staged / "turns-of-the-run")
        store.publish("session_logs", "t2", staged / "turns-of-the-run")
    agent = AGENT.model_copy(update={"learn_from": "preferences"})
    result = materialize(project, agent, dg.DagsterInstance.ephemeral())
    assert result.success
    assert checks(result)["no_straddling_group"].passed
    split = store.require("actor/tokenized_split")
    sides = load_split(split.path)
    assert [sum(row.judged == word for side in sides for row in side) for word in ("", "better", "worse")] == [30] * 3
    for side in sides:
        assert side
        assert complete_pairs(side) == side
    assert checks(result)["enough_examples"].metadata["trainable"].value == 30
    assert set(split.read_json("examples.json")) == {
        one.id for one in read_examples(store.require("actor/task_dataset").path)
    }


def test_a_misspelt_value_in_the_launchpad_is_refused(project: Project) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="tool_call"):
        materialize(project, AGENT, dg.DagsterInstance.ephemeral(), task_dataset={"unknown_outcome": "tool_call"})
    assert project.store.current("actor/task_dataset") is None


def test_the_split_uses_the_similarity_that_the_dataset_was_made_with(project: Project) -> None:
    result = materialize(project, AGENT, dg.DagsterInstance.ephemeral(), task_dataset={"near_duplicate": 0.98})
    assert result.success
    assert project.store.require("actor/task_dataset").read_json("report.json")["near_duplicate"] == 0.98


def test_examples_that_are_too_long_do_not_count_and_the_check_says_what_a_longer_limit_keeps(project: Project) -> None:
    agent = AGENT.model_copy(update={"min_examples": 25, "training": {"max_length": 64}})
    result = materialize(project, agent, dg.DagsterInstance.ephemeral())
    enough = checks(result)["enough_examples"]
    assert not enough.passed
    assert "5 of 25 examples are missing" in str(enough.description)
    assert "would keep 30" in str(enough.description)
    assert project.store.current("actor/tokenized_split") is None
    assert missing_examples(project, agent) == 5
    longer = agent.model_copy(update={"training": {"max_length": 2048}})
    assert missing_examples(project, longer) == 0
    assert materialize(project, longer, dg.DagsterInstance.ephemeral()).success
    assert project.store.current("actor/tokenized_split") is not None


def test_turns_that_are_left_out_because_nobody_told_the_outcome_are_reported(project: Project, tmp_path: Path) -> None:
    write_lines(tmp_path / "more" / "a.jsonl", [call(f"s{n}", 0, f"do {n}", "done") for n in range(12)])
    with project.store.stage("session_logs") as staged:
        run(tmp_path / "more", staged / "made")
        project.store.publish("session_logs", "t2", staged / "made")
    outcomes = checks(materialize(project, AGENT, dg.DagsterInstance.ephemeral()))["known_outcomes"]
    assert not outcomes.passed
    assert "12 of 12 turns ended: 12 left out" in str(outcomes.description)


def test_a_check_says_what_a_cap_cost(project: Project, tmp_path: Path) -> None:
    lines = [call(f"s{n % 2}", n, f"do {n}", f"done {n}") for n in range(40)]
    verdicts = [{"session_id": f"s{n}", "outcome": {"status": "success"}} for n in range(2)]
    write_lines(tmp_path / "more" / "a.jsonl", [*lines, *verdicts])
    with project.store.stage("session_logs") as staged:
        run(tmp_path / "more", staged / "made")
        project.store.publish("session_logs", "t2", staged / "made")
    caps = checks(materialize(project, AGENT, dg.DagsterInstance.ephemeral(), task_dataset={"max_per_session": 5}))[
        "caps"
    ]
    assert not caps.passed
    assert caps.description == "The caps left out 30 of 40 examples (session_cap 30)."


def test_a_side_that_outgrew_its_share_stays_and_a_check_says_so(project: Project) -> None:
    instance = dg.DagsterInstance.ephemeral()
    assert materialize(project, AGENT, instance).success
    check = checks(materialize(project, AGENT, instance, tokenized_split={"validation_share": 0.05}))[
        "undivided_groups"
    ]
    assert not check.passed
    assert "Validation holds 20% of the examples instead of 5%" in str(check.description)


def test_a_check_that_was_not_made_yields_no_result(project: Project) -> None:
    agent = AGENT.model_copy(update={"min_examples": 99})
    result = materialize(project, agent, dg.DagsterInstance.ephemeral())
    assert result.success
    assert checks(result).keys().isdisjoint({"no_straddling_group", "undivided_groups", "fits_context"})
    assert not checks(result)["enough_examples"].passed


def test_a_split_that_leaks_is_not_published(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = dg.DagsterInstance.ephemeral()
    assert materialize(project, AGENT, instance).success
    published = project.store.require("actor/tokenized_split").version
    monkeypatch.setattr(split_module, "straddling", lambda *_: ["session_id s1"])
    for _ in range(2):
        result = materialize(project, AGENT, instance, tokenized_split={"seed": 11})
        assert not result.success
        assert not checks(result)["no_straddling_group"].passed
        assert project.store.require("actor/tokenized_split").version == published


def test_what_changes_no_example_makes_nothing_stale(project: Project) -> None:
    same = AGENT.model_copy(
        update={"description": "Else.", "min_examples": 77, "main_metric": "rougeL", "training": {"rank": 4}}
    )
    other = AGENT.model_copy(update={"unknown_outcome": "none"})
    for asset in (task_dataset_asset, tokenized_split_asset):
        assert _code(asset(project, same)) == _code(asset(project, AGENT))
    assert _code(task_dataset_asset(project, other)) != _code(task_dataset_asset(project, AGENT))


def _code(asset: dg.AssetsDefinition) -> str | None:
    return next(iter(asset.specs)).code_version
