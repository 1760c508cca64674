"""The sample logs: reproducible, within their limits, and shaped like the real ones."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.sandbox.clauses import PRIMITIVES, read_clause
from grokora_pipeline.sandbox.record import plan_sessions, record
from grokora_pipeline.sandbox.roles import AGENTS
from grokora_pipeline.sandbox.tasks import HELD_OUT_FAMILIES
from grokora_pipeline.sandbox.words import HELD_OUT

CHECKOUT = Path(__file__).resolve().parents[2]
SAMPLE_LOGS = CHECKOUT / "data" / "session_logs"
AUTHENTIC = CHECKOUT.parent / "shared" / "data" / "grokputer_logs"


def _tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("logs")
    assert record(root, seed=7, sessions=480) == 480
    return root


def test_the_committed_sample_is_what_seed_7_writes(logs: Path) -> None:
    assert _tree(logs) == _tree(SAMPLE_LOGS)


def test_hash_seed_time_zone_and_locale_do_not_change_a_byte(tmp_path: Path) -> None:
    record(tmp_path / "here", seed=3, sessions=60)
    code = "import sys; from pathlib import Path; from grokora_pipeline.sandbox.record import record; "
    environment = {**os.environ, "PYTHONHASHSEED": "1234", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(
        [sys.executable, "-c", code + "record(Path(sys.argv[1]), seed=3, sessions=60)", str(tmp_path / "there")],
        check=True, env=environment, cwd=CHECKOUT,
    )  # fmt: skip
    assert _tree(tmp_path / "here") == _tree(tmp_path / "there")


def test_another_seed_writes_other_sessions(tmp_path: Path, logs: Path) -> None:
    record(tmp_path, seed=8, sessions=40)
    assert not set(_tree(tmp_path).values()) & set(_tree(logs).values())


def test_the_sample_fits_its_budget(logs: Path) -> None:
    assert sum(map(len, _tree(logs).values())) <= 4 * 2**20


def _lines(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("cp1252")
    lines = list[dict[str, Any]]()
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _sessions(root: Path) -> list[tuple[list[dict[str, Any]], dict[str, Any] | None]]:
    read = [_lines(path) for path in sorted(root.glob("recordings/*/*.jsonl"))]
    return [
        ([line for line in lines if "request" in line], next((x["outcome"] for x in lines if "outcome" in x), None))
        for lines in read
    ]


def _agent(line: dict[str, Any]) -> str:
    named = line.get("agent") or line.get("workload_id")
    return str(named or line["request"]["messages"][0]["content"].split()[3])


def _usable(root: Path) -> list[dict[str, Any]]:
    """The calls that may be learnt from: those of good sessions, and those before the blamed step of bad ones."""
    kept = list[dict[str, Any]]()
    for calls, outcome in _sessions(root):
        if outcome is None or (outcome["status"] == "success" and (outcome["rating"] or 5) < 4):
            continue
        blame = outcome.get("blame", {"agent": "", "step": -1})
        failed = outcome["status"] == "failure"
        kept += [x for x in calls if not failed or (x["step"] < blame["step"] and _agent(x) != blame["agent"])]
    return kept


def test_each_agent_has_enough_distinct_examples_to_learn_from(logs: Path) -> None:
    usable = _usable(logs)
    assert 1500 <= len(usable) <= 2600
    distinct = {
        json.dumps([_agent(x), x["request"]["messages"], x["response"]["choices"][0]["message"]]) for x in usable
    }
    counts = Counter(json.loads(row)[0] for row in distinct)
    assert set(counts) == set(AGENTS)
    assert min(counts.values()) >= 230
    assert len(usable) > len(distinct)


def _asked(line: dict[str, Any]) -> list[str]:
    """The primitives that a call is about, from the command in its question or, for a plan, in its answer."""
    question, answer = line["request"]["messages"][1]["content"], line["response"]["choices"][0]["message"]
    if _agent(line) == "coordinator":
        commands = [subtask["params"]["command"] for subtask in json.loads(answer["content"])]
    elif _agent(line) == "observer":
        commands = [question.rpartition("\nCommand: ")[2]]
    else:
        commands = [part.removeprefix("Subtask: ") for part in question.split("\n") if part.startswith("Subtask: ")]
    return [clause.primitive.name for command in commands if (clause := read_clause(command))]


def test_what_is_learnt_holds_every_primitive_of_every_role(logs: Path) -> None:
    rows: dict[str, Counter[str]] = {agent: Counter() for agent in AGENTS}
    for line in _usable(logs):
        rows[_agent(line)].update(_asked(line))
    located = {name for name, primitive in PRIMITIVES.items() if primitive.target}
    judged = {name for name, primitive in PRIMITIVES.items() if primitive.tool != "bash"}
    for agent, primitives in {"coordinator": set(PRIMITIVES), "actor": set(PRIMITIVES), "observer": located,
                              "validator": judged}.items():  # fmt: skip
        least = min(primitives, key=lambda name: rows[agent][name])
        assert rows[agent][least] >= 8, (agent, least, rows[agent][least])


def test_the_sample_shows_what_is_not_there_and_actions_that_had_no_effect(logs: Path) -> None:
    answers = [(_agent(line), line["response"]["choices"][0]["message"]["content"]) for line in _usable(logs)]
    observations = [json.loads(text) for agent, text in answers if agent == "observer"]
    verdicts = [json.loads(text) for agent, text in answers if agent == "validator"]
    judged = [verdict["valid"] for verdict in verdicts if "valid" in verdict]
    assert 0.08 <= sum(seen["coordinates"] is None for seen in observations) / len(observations) <= 0.2
    assert 0.12 <= judged.count(False) / len(judged) <= 0.3


def test_about_one_session_in_seven_fails_and_most_of_them_say_who_and_where(logs: Path) -> None:
    outcomes = [outcome for _, outcome in _sessions(logs)]
    failed = [outcome for outcome in outcomes if outcome and outcome["status"] == "failure"]
    assert 0.11 <= len(failed) / len(outcomes) <= 0.19
    blamed = [outcome["blame"]["agent"] for outcome in failed if "blame" in outcome]
    assert set(blamed) == set(AGENTS)
    assert len(blamed) < len(failed)


def test_the_blamed_step_is_a_call_of_the_blamed_agent(logs: Path) -> None:
    for calls, outcome in _sessions(logs):
        if outcome and "blame" in outcome and any(x["step"] == outcome["blame"]["step"] for x in calls):
            assert _agent(calls[outcome["blame"]["step"]]) == outcome["blame"]["agent"]


def test_the_sample_holds_what_real_logs_hold(logs: Path) -> None:
    recordings = [_lines(path) for path in sorted(logs.glob("recordings/*/*.jsonl"))]
    verdict_only = [line for lines in recordings for line in lines if set(line) == {"session_id", "outcome"}]
    unnamed = [line for lines in recordings for line in lines if "agent" in line and line["agent"] is None]
    aliased = [line for lines in recordings for line in lines if "workload_id" in line and "timestamp" in line]
    ratings = {line["outcome"]["rating"] for lines in recordings for line in lines if "outcome" in line}
    assert verdict_only
    assert unnamed
    assert aliased
    assert {1, 2, 4, 5, None} <= ratings


def test_two_files_are_cut_short_and_one_is_not_utf_8(logs: Path) -> None:
    broken = Counter[str]()
    for name, payload in _tree(logs).items():
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            broken["cp1252"] += 1
            text = payload.decode("cp1252")
        if name.endswith((".json", ".jsonl")):
            try:
                [json.loads(part) for part in (text.splitlines() if name.endswith("l") else [text])]
            except json.JSONDecodeError:
                broken["cut"] += 1
    assert broken == {"cut": 2, "cp1252": 1}


def test_tasks_are_repeated_word_by_word_and_in_other_words() -> None:
    tasks = [session.task for session in plan_sessions(7, 480)]
    assert len({task.seed for task in tasks}) < len({(task.seed, task.text) for task in tasks}) < len(tasks)


def test_fake_secrets_are_planted_and_say_that_they_are_fake(logs: Path) -> None:
    text = b"\n".join(_tree(logs).values()).decode("cp1252")
    keys = re.findall(r"(?:xai-|API_KEY=|PASSWORD=|client_secret=\w{6}|password: |//bot:)(\w{4})", text)
    assert len(keys) > 10
    assert set(keys) == {"FAKE"}
    assert "example.org" in text


def test_no_held_out_name_word_or_family_is_in_the_sample(logs: Path) -> None:
    text = b"\n".join(_tree(logs).values()).decode("cp1252").lower()
    held_out = [str(word).lower() for group in astuple(HELD_OUT) for word in group]
    assert [word for word in held_out if re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", text)] == []
    families = {x["request"]["metadata"]["family"] for calls, _ in _sessions(logs) for x in calls}
    assert not families & set(HELD_OUT_FAMILIES)


def _keys(value: object, path: str = "") -> set[str]:
    """Every key path of a JSON value with the types seen there."""
    if isinstance(value, dict):
        return {f"{path}: object"}.union(*(_keys(inner, f"{path}.{key}") for key, inner in value.items()))
    if isinstance(value, list):
        return {f"{path}: array"}.union(*(_keys(inner, f"{path}[]") for inner in value))
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    return {f"{path}: {kind}"}


# Where the keys depend on the tool, the agent or chance, and not on the layout.
_OPEN = re.compile(r"\.(result|params|agent_states|agent_message_counts|agent_errors|errors\[\]|errors)(\.|\[|:)")


def _closed(paths: set[str]) -> set[str]:
    return {path for path in paths if not _OPEN.search(path.replace(".result:", ".result."))}


def _read(folder: Path, pattern: str) -> list[Any]:
    found = list[Any]()
    for path in sorted(folder.glob(pattern)):
        try:
            found.append(json.loads(path.read_text()))
        except json.JSONDecodeError:
            continue
    return found


@pytest.mark.skipif(not AUTHENTIC.is_dir(), reason="needs ../shared/data/grokputer_logs")
@pytest.mark.parametrize("name", ["session.json", "metrics.json"])
@pytest.mark.parametrize(("layout", "ours"), [("v1_iterations", "v1"), ("v1_rated", "v1.1"), ("v2_swarm", "v2")])
def test_grokputer_layouts_have_the_keys_and_types_of_authentic_logs(
    logs: Path, layout: str, ours: str, name: str
) -> None:
    authentic = set().union(*(_keys(value) for value in _read(AUTHENTIC / layout, f"*/{name}")))
    mine = [value for value in _read(logs / "grokputer", f"s*/{name}") if _layout(value, logs) == ours]
    assert len(mine) >= 5
    for value in mine:
        assert _closed(_keys(value)) <= _closed(authentic)
    required = set.intersection(
        *({p.split(":")[0] for p in _keys(v) if "[]" not in p} for v in _read(AUTHENTIC / layout, f"*/{name}"))
    )
    assert all(required <= {path.split(":")[0] for path in _keys(value)} for value in mine)


def _layout(value: dict[str, Any], logs: Path) -> str:
    if value["session_id"].startswith("swarm"):
        return "v2"
    text = (logs / "grokputer" / value["session_id"] / "summary.txt").read_text()
    return "v1.1" if "[OK]" in text else "v1"


@pytest.mark.skipif(not AUTHENTIC.is_dir(), reason="needs ../shared/data/grokputer_logs")
@pytest.mark.parametrize("name", ["session.log", "summary.txt"])
@pytest.mark.parametrize("layout", ["v1_iterations", "v1_rated", "v2_swarm"])
def test_text_logs_have_only_kinds_of_lines_that_authentic_logs_have(logs: Path, layout: str, name: str) -> None:
    def kinds(text: str) -> set[str]:
        lines = [re.sub(r"^(\d{4}-\S+ \S+ - \w+ - |\[[\d:.]+\] )", "", line) for line in text.splitlines()]
        heads = [re.match(r"\s*(\[\w+[\w ]*\]( \w+)?|[A-Za-z ]+:?|[-=]+|- [\w ]+:|)", line) for line in lines]
        return {re.sub(r"\d+", "n", head.group().strip()) for head in heads if head} - _FREE

    authentic = set().union(
        *(kinds(path.read_text(encoding="utf-8")) for path in (AUTHENTIC / layout).glob(f"*/{name}"))
    )
    prefix = "swarm_" if layout == "v2_swarm" else "session_"
    for path in (logs / "grokputer").glob(f"{prefix}*/{name}"):
        if prefix == "swarm_" or (layout == "v1_rated") == ("[OK]" in path.read_text()):
            assert kinds(path.read_text()) <= authentic


_FREE = {
    "- scan_vault:",
    "- bash:",
    "- computer:",
    "[TOOL] click",
    "[TOOL] type",
    "[TOOL] key",
    "[TOOL] scroll",
    "[TOOL] bash",
}
