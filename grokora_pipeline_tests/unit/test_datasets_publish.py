"""`grokora publish`: what is written loads elsewhere and says the same; secrets and forgotten rows stay home."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from grokora_pipeline.agents import AgentSpec, Teachers
from grokora_pipeline.cli import commands
from grokora_pipeline.datasets.example import Example, read_examples
from grokora_pipeline.datasets.examples import build_examples
from grokora_pipeline.datasets.lineage import forget
from grokora_pipeline.datasets.publish import publish
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.sessions.redaction import measured, redactor
from grokora_pipeline.settings import get_settings
from grokora_pipeline.store import Store
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.unit.session_logs import call, run, tool_answer, turns, write_lines

AGENT = AgentSpec(name="actor", description="Acts on the desktop.", min_examples=1)
TOOL = {"type": "function", "function": {"name": "open", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a dataset of five sessions of two calls: a tool is called, then its result is answered."""
    store = Store(str(tmp_path / "store"))
    lines = []
    for n in range(5):
        request: dict[str, Any] = {
            "model": "claude-x" if n else "grok-4",
            "tools": [TOOL],
            "messages": [{"role": "system", "content": "Act."}, {"role": "user", "content": f"open number {n}"}],
        }
        answer = tool_answer("open", {"number": n})
        result = {"role": "tool", "tool_call_id": "c1", "content": f"opened {n}"}
        outcome = {"status": "success"}
        lines.append(call(f"s{n}", 0, "", answer, outcome=outcome) | {"request": request})
        second = {**request, "messages": [*request["messages"], answer, result]}
        lines.append(call(f"s{n}", 1, "", f"number {n} is open", outcome=outcome) | {"request": second})
    write_lines(tmp_path / "logs" / "night.jsonl", lines)
    with store.stage("session_logs") as staged:
        run(tmp_path / "logs", staged / "logs")
        store.publish("session_logs", "t1", staged / "logs")
    publish_rows(store, "d1")
    return store


def publish_rows(store: Store, version: str, rows: list[Example] | None = None) -> None:
    """Make `actor/task_dataset` from the turns, or of the rows given."""
    with store.stage("actor/task_dataset") as staged:
        report = build_examples(store.require("session_logs").path, AGENT, staged, DatasetOptions())
        document = {"turns": report.turns, "dropped": report.dropped, "duplicates": report.duplicates}
        (staged / "report.json").write_bytes(orjson.dumps(document))
        if rows is not None:
            (staged / "examples.jsonl").write_bytes(b"".join(row.to_line() for row in rows))
        store.publish("actor/task_dataset", version, staged)


def give_sides(store: Store, sides: dict[str, str]) -> None:
    """A split that says which example is on which side."""
    publish_files(store, "actor/tokenized_split", f"p{len(sides)}", {"examples.json": sides})


def dataset(store: Store) -> list[Example]:
    """The examples of the current dataset."""
    return list(read_examples(store.require("actor/task_dataset").path))


def test_the_hubs_own_loader_reads_what_was_published_side_by_side(store: Store, tmp_path: Path) -> None:
    rows = dataset(store)
    give_sides(store, {row.id: "validation" if number < 2 else "train" for number, row in enumerate(rows[:-1])})
    published = publish(store, AGENT, tmp_path / "out")
    assert published.rows == {"train": len(rows) - 3, "validation": 2}
    assert published.left_out == {"held_back": 1}
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))  # by the card's YAML
    assert {side: len(loaded[side]) for side in loaded} == published.rows
    first = loaded["validation"][0]
    assert [message["content"] for message in first["messages"]][:2] == ["Act.", rows[0].prompt[1]["content"]]
    assert orjson.loads(first["tools"]) == [TOOL]
    assert not {str(row.meta["session_id"]) for row in rows} & {*loaded["train"]["session"]}


def test_our_reader_of_atif_gets_the_same_prompts_and_answers_back(store: Store, tmp_path: Path) -> None:
    publish(store, AGENT, tmp_path / "out")
    run(tmp_path / "out" / "atif", tmp_path / "again")
    back = {(row["prompt"], orjson.dumps(orjson.loads(row["completion"]))) for row in turns(tmp_path / "again")}
    assert {(_plain(prompt), _plain([orjson.loads(answer)])) for prompt, answer in back} == {
        (_plain(orjson.dumps(row.prompt)), _plain(row.completion)) for row in dataset(store)
    }
    steps = orjson.loads(next((tmp_path / "out" / "atif" / "train").iterdir()).read_bytes())["steps"]
    assert [step["step_id"] for step in steps] == [*range(1, len(steps) + 1)]


def _plain(messages: Any) -> str:
    """Role, text and calls of messages, whatever else they carry."""
    messages = orjson.loads(messages) if isinstance(messages, str | bytes) else messages
    parts = [
        [
            one["role"],
            one.get("content") or "",
            [
                [call["function"]["name"], orjson.loads(call["function"]["arguments"])]
                for call in one.get("tool_calls", ())
            ],
        ]
        for one in messages
    ]
    return orjson.dumps(parts).decode()


def test_the_card_names_teachers_their_terms_and_the_measured_recall(store: Store, tmp_path: Path) -> None:
    publish(store, AGENT, tmp_path / "out", licence="cc-by-4.0")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card
    assert "| claude-x | 8 | the terms of Anthropic" in card
    assert measured.RECALL in card
    assert measured.COMMAND in card
    assert "10 rows of 5 sessions and 1 log files" in card


def test_the_cards_figures_belong_to_the_rules_that_run() -> None:
    assert measured.MEASURED_VERSION == redactor.VERSION, "measure again and write the figures into measured.py"


@pytest.mark.parametrize("where", ["prompt", "arguments", "tools"])
def test_one_secret_anywhere_keeps_everything_home(store: Store, tmp_path: Path, where: str) -> None:
    rows = dataset(store)
    secret = "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5"
    if where == "prompt":
        rows[0].prompt[1]["content"] += f" with {secret}"
    elif where == "tools":
        rows[0].tools = [{**TOOL, "function": {**TOOL["function"], "description": f"e.g. {secret}"}}]  # type: ignore[dict-item]
    else:
        calling = next(row for row in rows if row.completion[0].get("tool_calls"))
        calling.completion[0]["tool_calls"][0]["function"]["arguments"] = orjson.dumps(
            {"password": "Tr0ub4dor&3"}
        ).decode()
    publish_rows(store, "d2", rows)
    with pytest.raises(GrokoraError, match=r"nothing is published: night.jsonl:\d+") as refusal:
        publish(store, AGENT, tmp_path / "out")
    assert secret not in str(refusal.value)
    assert not (tmp_path / "out").exists()
    assert not [*tmp_path.glob(".out.*")]


def test_a_session_forgotten_after_the_dataset_was_made_is_not_published(store: Store, tmp_path: Path) -> None:
    forget(store, "s1")
    assert publish(store, AGENT, tmp_path / "out").left_out == {"forgotten": 2}
    forget(store, "night.jsonl")
    with pytest.raises(GrokoraError, match=r"No row .* is left to publish \(forgotten 10\)"):
        publish(store, AGENT, tmp_path / "other")


def test_a_teacher_that_is_refused_since_the_dataset_was_made_is_not_published(store: Store, tmp_path: Path) -> None:
    agent = AGENT.model_copy(update={"teachers": Teachers(refuse=("^claude",))})
    assert publish(store, agent, tmp_path / "out").left_out == {"refused_teacher": 8}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "claude-x" not in card
    assert "- 8 refused_teacher" in card
    assert "2 rows of 1 sessions" in card


def test_a_secret_in_a_name_or_in_the_agents_description_keeps_everything_home(store: Store, tmp_path: Path) -> None:
    secret = "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5"
    described = AGENT.model_copy(update={"description": f"Logs in with {secret}."})
    with pytest.raises(GrokoraError, match=r"nothing is published: the description of actor in agents.yaml \(github"):
        publish(store, described, tmp_path / "out")
    for number, place in enumerate(("name of a tool", "member of a schema", "teacher")):
        rows = dataset(store)
        function: dict[str, Any] = {"name": "open", "parameters": {"type": "object", "properties": {}}}
        if place == "teacher":
            rows[0].meta["model"] = secret
        else:
            changed: dict[str, Any] = {"name": secret} if "tool" in place else {"parameters": {secret: {}}}
            function |= changed
            rows[0].tools = [{"type": "function", "function": function}]
        publish_rows(store, f"secret{number}", rows)
        with pytest.raises(GrokoraError, match="nothing is published"):
            publish(store, AGENT, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_publisher_or_a_teacher_is_called_does_not_change_the_card(store: Store, tmp_path: Path) -> None:
    for licence in ("mit\nconfigs: []", "", "a: b"):
        with pytest.raises(GrokoraError, match="is no licence identifier"):
            publish(store, AGENT, tmp_path / "out", licence=licence)
    rows = dataset(store)
    for row in rows:
        row.meta["model"] = "a|b\n---\nc {licence}"
    publish_rows(store, "d2", rows)
    publish(store, AGENT, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| a/b --- c {licence} | 10 | terms not known here |" in card
    assert card.count("\n---\n") == 1


def test_an_output_that_cannot_be_written_leaves_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):  # which the command says in one sentence
        publish(store, AGENT, tmp_path / "file" / "out")
    publish_rows(store, "d2", [])
    with pytest.raises(GrokoraError, match=r"No row of actor/task_dataset/d2 is left to publish \(none\)"):
        publish(store, AGENT, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "logs", "store"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def own_settings() -> Iterator[None]:
    """The settings are read again: a module that was collected before may have read the checkout's."""
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.usefixtures("own_settings")
def test_a_folder_with_files_is_never_overwritten(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    monkeypatch.setenv("GROKORA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GROKORA_AGENTS", str(tmp_path / "agents.yaml"))
    (tmp_path / "agents.yaml").write_text("agents: {actor: {description: Acts.}}")
    arguments = ["publish", "actor", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(commands.app, arguments)
    assert "never overwritten" in str(result.exception)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    result = CliRunner().invoke(commands.app, [*arguments[:-1], str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    assert "10 rows for train" in result.output
