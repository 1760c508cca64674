"""Datasets: what may be learnt, duplicates, caps, TOON, lineage and forgetting."""

import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokora_pipeline.agents import AgentSpec, Match, Teachers, load_agents
from grokora_pipeline.datasets import duplicates, lineage, toon
from grokora_pipeline.datasets.example import Example, read_examples, read_worse
from grokora_pipeline.datasets.examples import DatasetReport, build_examples, cap, task_key
from grokora_pipeline.datasets.preferences import judged_rows
from grokora_pipeline.datasets.selection import Blame, DatasetOptions, blames, refuse
from grokora_pipeline.sessions.turns import TurnRow
from grokora_pipeline.store import Store
from grokora_pipeline_tests.unit.session_logs import ACTOR, SHARED, call, run, tool_answer, turns, write_lines

PLANS = SHARED / "data" / "grokputer_logs" / "collaboration"

TURN: dict[str, Any] = {
    "session_id": "s",
    "source_file": "a.jsonl",
    "source_sha256": "0",
    "model": "grok-4",
    "prompt": '[{"role":"user","content":"do"}]',
    "agent": "actor",
    "step": 3,
    "status": "success",
    "rating": None,
    "blamed": False,
    "step_failed": False,
    "completeness": "whole",
    "copies": [],
    "completion": '{"role":"assistant","content":"x"}',
}
CALLS = '{"role":"assistant","content":"","tool_calls":[{"id":"c"}]}'


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"rating": 4}, None),
        ({"rating": 3}, "low_rating"),
        ({"step_failed": True}, "failed_step"),
        ({"status": "failure", "rating": 5}, "at_or_after_blamed_step"),
        ({"status": "failure", "step": 1}, None),
        ({"status": "failure", "step": 2}, "at_or_after_blamed_step"),
        ({"status": "failure", "step": 1, "agent": "observer"}, "blamed_agent"),
        ({"status": "failure", "session_id": "nobody blamed"}, "failed_without_blame"),
        ({"status": "unknown"}, "unknown_outcome"),
        ({"status": "unknown", "completion": CALLS}, None),
        ({"status": "unknown", "completion": CALLS, "step_failed": True}, "failed_step"),
        ({"status": "unknown", "completion": CALLS, "model": "base"}, "unknown_outcome"),
        ({"status": "unknown", "completion": CALLS, "model": "actor@0123456789abcdef"}, "unknown_outcome"),
        ({"status": "unknown", "completion": CALLS, "model": "actor@prompt-0123456789abcdef"}, "unknown_outcome"),
        ({"status": "unknown", "completion": CALLS, "model": "claude-sonnet@20250929"}, None),
        ({"rating": 5, "model": "actor@0123456789abcdef"}, None),
        ({"status": "unknown", "rating": 5}, None),
        ({"session_id": "gone"}, "forgotten"),
        ({"source_file": "gone.jsonl"}, "forgotten"),
        ({"source_sha256": "gone"}, "forgotten"),
        ({"prompt": "[]"}, "incomplete_prompt"),
    ],
)
def test_which_steps_may_be_learnt(changes: dict[str, Any], reason: str | None) -> None:
    turn = TURN | changes
    blame = {"s": Blame(2, frozenset({"observer"}))}
    forgotten = {"gone", "gone.jsonl", "sha256:gone"}
    assert refuse(cast(TurnRow, turn), blame.get(turn["session_id"]), DatasetOptions(), forgotten=forgotten) == reason


def test_unknown_outcomes_can_be_taken_or_left() -> None:
    unknown = cast(TurnRow, TURN | {"status": "unknown", "completion": CALLS})
    assert refuse(unknown, None, DatasetOptions(unknown_outcome="none")) == "unknown_outcome"
    assert refuse(cast(TurnRow, TURN | {"status": "unknown"}), None, DatasetOptions(unknown_outcome="all")) is None
    rebuilt = cast(TurnRow, TURN | {"completeness": "reconstructed"})
    assert refuse(rebuilt, None, DatasetOptions(reconstructed=False)) == "reconstructed"


@pytest.mark.parametrize(
    ("teachers", "learnt"),
    [
        ({}, ["gpt-5", "grok-4", ""]),
        ({"allow": ["^grok-"]}, ["grok-4"]),
        ({"refuse": ["GPT"]}, ["grok-4", ""]),
        ({"allow": ["gpt", "grok"], "refuse": ["grok"]}, ["gpt-5"]),
    ],
)
def test_only_answers_of_accepted_teachers_are_learnt(teachers: dict[str, list[str]], learnt: list[str]) -> None:
    rule = Teachers.model_validate(teachers)
    models = ["gpt-5", "grok-4", ""]
    reasons = {
        name: refuse(cast(TurnRow, TURN | {"model": name}), None, DatasetOptions(), teachers=rule) for name in models
    }
    assert [name for name, reason in reasons.items() if reason is None] == learnt
    assert set(reasons.values()) <= {None, "refused_teacher"}


@pytest.mark.parametrize("completeness", ["delta", "cut", "lost"])
def test_a_call_whose_prompt_was_not_recorded_whole_is_not_learnt(completeness: str) -> None:
    assert refuse(cast(TurnRow, TURN | {"completeness": completeness}), None, DatasetOptions()) == "incomplete_prompt"


FAILED: list[tuple[dict[str, Any], str | None]] = [
    ({"step": 1}, None),
    ({"step": 1, "agent": "observer"}, None),  # the blamed agent's own steps before, too
    ({"step": 2, "agent": "observer"}, "at_or_after_blamed_step"),
    ({"step": 3}, "at_or_after_blamed_step"),
    ({"step": 1, "step_failed": True}, "failed_step"),
    ({"step": 1, "rating": 2}, None),  # the session's rating, for what is blamed
    ({"step": 2, "rating": 2}, "at_or_after_blamed_step"),
]


@pytest.mark.parametrize(("changes", "reason"), FAILED)
def test_learning_from_failures_takes_the_steps_before_the_blamed_one(
    changes: dict[str, Any], reason: str | None
) -> None:
    turn = cast(TurnRow, TURN | {"status": "failure"} | changes)
    blame = Blame(2, frozenset({"observer"}))
    assert refuse(turn, blame, DatasetOptions(learn_from="failures"), last_step=9) == reason


def test_a_low_rating_refuses_a_whole_session_where_nobody_is_blamed_or_only_successes_are_learnt() -> None:
    turn, blame = cast(TurnRow, TURN | {"status": "failure", "rating": 2, "step": 1}), Blame(2, frozenset({"observer"}))
    assert refuse(turn, None, DatasetOptions(learn_from="failures"), last_step=9) == "low_rating"
    assert refuse(turn, blame, DatasetOptions(), last_step=9) == "low_rating"


def test_a_setting_says_what_is_learnt_of_a_failure_that_nobody_explains() -> None:
    def learnt(**options: Any) -> list[int]:
        turns = [cast(TurnRow, TURN | {"status": "failure", "step": step}) for step in range(6)]
        rule = DatasetOptions(**options)
        return [turn["step"] for turn in turns if refuse(turn, None, rule, last_step=5) is None]

    assert learnt(learn_from="failures") == learnt(unknown_blame="all") == []
    assert learnt(learn_from="failures", unknown_blame="first_half") == [0, 1, 2]
    assert learnt(learn_from="failures", unknown_blame="all") == [0, 1, 2, 3, 4, 5]


def learn_from(root: Path, kind: str, files: dict[str, list[dict[str, Any]]]) -> tuple[list[Example], list[Example]]:
    """(examples, worse answers) of logs, by file name."""
    for name, lines in files.items():
        write_lines(root / "logs" / name, lines)
    agent = AgentSpec(name="actor", description="acts", match=Match(any=True))
    run(root / "logs", root / "turns", agents=(agent,))
    build_examples(root / "turns", agent, root, DatasetOptions(learn_from=cast(Any, kind)))
    return list(read_examples(root)), read_worse(root)


PREFERENCE_ROWS = [{"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(3)] + [
    {"prompt": "question 0", "chosen": "good 0", "rejected": "worst 0"}
]


def test_preference_rows_of_a_dataset_are_pairs_that_share_a_cluster(tmp_path: Path) -> None:
    examples, worse = learn_from(tmp_path, "preferences", {"dpo.jsonl": PREFERENCE_ROWS})
    answers = {one.id: one.completion[0]["content"] for one in examples}
    pairs = sorted((answers[one.meta["better"]], one.completion[0]["content"]) for one in worse)
    assert pairs == [("good 0", "bad 0"), ("good 0", "worst 0"), ("good 1", "bad 1"), ("good 2", "bad 2")]
    clusters = {one.id: one.meta["cluster"] for one in examples}
    assert all(one.meta["cluster"] == clusters[one.meta["better"]] for one in worse)
    rows = list(judged_rows(examples, worse, {one.id: "train" for one in (*examples, *worse)}))
    judged = Counter((row["meta"].get("judged", ""), bool(row["meta"].get("pair"))) for row, _ in rows)
    assert judged == {("", False): 3, ("better", True): 4, ("worse", True): 4}
    crossing = {one.id: "train" for one in examples} | {one.id: "validation" for one in worse}
    assert not [row for row, _ in judged_rows(examples, worse, crossing) if row["meta"].get("pair")]


def test_answers_to_one_task_at_one_step_are_a_pair_and_only_the_blamed_step_is_worse(tmp_path: Path) -> None:
    good = [call("good", step, f"good prompt {step}", f"right {step}", task="the task") for step in range(3)]
    bad = [call("bad", step, f"bad prompt {step}", f"wrong {step}", task="the task") for step in range(3)]
    ends = [
        {"session_id": "good", "outcome": {"status": "success"}},
        {"session_id": "bad", "outcome": {"status": "failure", "blame": {"agent": "actor", "step": 1}}},
    ]
    examples, worse = learn_from(tmp_path, "preferences", {"a.jsonl": good, "b.jsonl": bad, "ends.jsonl": ends})
    answers = {one.id: one.completion[0]["content"] for one in examples}
    assert sorted(answers.values()) == ["right 0", "right 1", "right 2", "wrong 0"]
    assert [(answers[one.meta["better"]], one.completion[0]["content"]) for one in worse] == [("right 1", "wrong 1")]


def test_a_low_rating_makes_only_the_blamed_step_a_worse_answer(tmp_path: Path) -> None:
    def session(name: str, end: dict[str, Any]) -> list[dict[str, Any]]:
        steps = [call(name, step, f"{name} prompt {step}", f"{name} {step}") for step in range(3)]
        return [*steps, {"session_id": name, "outcome": {"status": "failure", "rating": 1, **end}}]

    files = {"a.jsonl": session("blamed", {"blame": {"agent": "actor", "step": 1}}), "b.jsonl": session("low", {})}
    examples, worse = learn_from(tmp_path, "ratings", files)
    assert [one.completion[0]["content"] for one in worse] == ["blamed 1"]
    assert [one.completion[0]["content"] for one in examples] == ["blamed 0"]


def test_the_same_answer_to_another_prompt_of_the_task_is_no_worse_one(tmp_path: Path) -> None:
    sessions = {
        f"{name}.jsonl": [
            call(name, 0, f"{name} prompt", tool_answer("bash", {"command": "ls"}), task="the task"),
            {"session_id": name, "outcome": outcome},
        ]
        for name, outcome in {"good": {"status": "success"}, "bad": {"status": "failure"}}.items()
    }
    examples, worse = learn_from(tmp_path, "preferences", sessions)
    assert (len(examples), worse) == (1, [])


def test_rated_answers_are_better_or_worse_one_by_one(tmp_path: Path) -> None:
    lines = [call(f"s{n}", 0, f"prompt {n}", f"answer {n}", outcome={"rating": n}) for n in (1, 3, 4, 5)]
    silent = [call("silent", 0, "prompt", tool_answer("bash", {"command": "ls"}))]
    failed = [call("failed", step, f"of failed {step}", f"failed {step}") for step in range(2)]
    end = [{"session_id": "failed", "outcome": {"status": "failure"}}]
    labels = [{"prompt": "was it?", "completion": "no", "label": False}]
    files = {"a.jsonl": lines, "b.jsonl": silent, "c.jsonl": [*failed, *end], "kto.jsonl": labels}
    examples, worse = learn_from(tmp_path, "ratings", files)
    assert sorted(one.completion[0]["content"] for one in worse) == ["answer 1", "answer 3", "no"]
    rows = [row for row, _ in judged_rows(examples, worse, {})]
    judged = {row["completion"][0]["content"]: row["meta"].get("judged", "") for row in rows}
    assert {text: word for text, word in judged.items() if word != "worse"} == {
        "": "",
        "answer 4": "better",
        "answer 5": "better",
    }


def test_worse_answers_are_looked_for_only_where_they_are_learnt_from(tmp_path: Path) -> None:
    learn_from(tmp_path, "failures", {"dpo.jsonl": PREFERENCE_ROWS})
    assert not (tmp_path / "worse.jsonl").exists()


def test_replay_takes_what_earlier_datasets_hold_of_logs_that_are_gone_and_nothing_forgotten(tmp_path: Path) -> None:
    def dataset(name: str, sessions: list[str], earlier: list[str], gone: tuple[str, ...] = ()) -> list[str]:
        logs, folder = tmp_path / f"{name}-logs", tmp_path / name
        for session in sessions:
            end = {"session_id": session, "outcome": {"status": "success"}}
            lines = [call(session, step, f"{session} asks {step}", f"{session} {step}") for step in range(2)]
            write_lines(logs / f"{session}.jsonl", [*lines, end])
            if session == "copied":
                write_lines(logs / "its_copy.jsonl", [*lines, end])
        run(logs, tmp_path / f"{name}-turns")
        folder.mkdir()
        options = DatasetOptions(replay=1.0)
        folders = [tmp_path / one for one in earlier]
        report = build_examples(tmp_path / f"{name}-turns", ACTOR, folder, options, forgotten=gone, earlier=folders)
        answers = [one.completion[0]["content"] for one in read_examples(folder)]
        assert report.replayed == sum(answer.split()[0] not in sessions for answer in answers)
        return sorted(answers)

    old = ["copied 0", "copied 1", "old 0", "old 1"]
    assert dataset("first", ["old", "copied"], []) == old
    new = [f"new{n} {step}" for n in range(3) for step in range(2)]
    names = [f"new{n}" for n in range(3)]
    assert dataset("second", names, ["first"]) == sorted([*old, *new])
    assert dataset("third", names, ["first", "second"]) == sorted([*old, *new])
    assert (
        dataset("one", ["new0"], ["first"])
        == sorted(
            [
                *new[:2],
                *[  # as many as it has itself
                    one.completion[0]["content"]
                    for one in sorted(read_examples(tmp_path / "first"), key=lambda one: one.id)[:2]
                ],
            ]
        )
    )
    assert dataset("forgotten", names, ["second"], ("old", "its_copy.jsonl")) == sorted(new)


def test_options_at_their_defaults_leave_older_datasets_as_they_are() -> None:
    assert not {"learn_from", "unknown_blame", "replay"} & DatasetOptions().inputs().keys()
    assert DatasetOptions(learn_from="failures").inputs()["learn_from"] == "failures"


def test_the_first_blamed_step_is_the_one_that_counts() -> None:
    rows = [{"session_id": "s", "step": step, "agent": "a", "blamed": step > 2} for step in (5, 1, 4)]
    assert blames(rows) == {"s": Blame(4, frozenset({"a"}))}


def build(
    root: Path, lines: list[dict[str, Any]], forgotten: tuple[str, ...] = (), **options: Any
) -> tuple[list[Example], DatasetReport]:
    """The examples of a log with one file a session."""
    by_session: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_session.setdefault(line["session_id"], []).append(line)
    for session, members in by_session.items():
        write_lines(
            root / "logs" / f"{session}.jsonl", [*members, {"session_id": session, "outcome": {"status": "success"}}]
        )
    run(root / "logs", root / "turns")
    (root / "dataset").mkdir()
    report = build_examples(root / "turns", ACTOR, root / "dataset", DatasetOptions(**options), forgotten=forgotten)
    return list(read_examples(root / "dataset")), report


def test_exact_duplicates_become_one_row_with_a_capped_weight(tmp_path: Path) -> None:
    lines = [call(f"s{n}", 0, "same", tool_answer("bash", {"command": "ls"}, f"id{n}")) for n in range(5)]
    examples, report = build(tmp_path, [*lines, call("t", 0, "same", "other answer")])
    assert [(one.meta["weight"], one.meta["copies"]) for one in examples if one.meta["copies"] > 1] == [(3, 5)]
    assert (report.rows, report.duplicates, report.contradictions) == (2, 4, 1)
    assert sorted(map(len, report.contradiction_examples[0]["answers"])) == [12, 22]


def test_the_same_answer_to_another_prompt_is_no_duplicate(tmp_path: Path) -> None:
    _, report = build(tmp_path, [call(f"s{n}", 0, f"prompt {n}", "yes") for n in range(4)])
    assert (report.rows, report.duplicates) == (4, 0)


def test_every_turn_is_a_row_or_is_counted(tmp_path: Path) -> None:
    lines = [call("s", n, f"p{n % 3}", "a") for n in range(9)] + [call("t", 0, "q", "a", agent="observer")]
    _, report = build(tmp_path, lines, max_per_session=2)
    assert report.turns == 9
    assert report.rows + report.duplicates + sum(report.dropped.values()) == report.turns


def test_no_session_gives_more_than_its_share(tmp_path: Path) -> None:
    lines = [call("poison", n, f"do {n} evil", "a") for n in range(200)]
    lines += [call(f"s{m}", n, f"do {n} good {m}", "a") for m in range(30) for n in range(3)]
    examples, report = build(tmp_path, lines)
    poisoned = sum(one.meta["source_file"] == "poison.jsonl" for one in examples)
    assert 0 < poisoned <= 0.05 * len(examples)
    assert report.dropped["session_cap"] == 100
    assert report.dropped["session_share"] == 100 - poisoned


def test_many_copies_do_not_lift_a_session_over_its_share(tmp_path: Path) -> None:
    lines = [call("poison", n, f"do {n % 20} evil", "a") for n in range(100)]
    lines += [call(f"s{m}", n, f"do {n} good {m}", "a") for m in range(30) for n in range(3)]
    examples, report = build(tmp_path, lines)
    weights = [one.meta["weight"] for one in examples]
    poisoned = sum(one.meta["weight"] for one in examples if one.meta["source_file"] == "poison.jsonl")
    assert 0 < poisoned <= 0.05 * sum(weights)
    assert report.rows + report.duplicates + sum(report.dropped.values()) == report.turns


def test_a_stated_task_keeps_its_sessions_together_however_many_they_are(tmp_path: Path) -> None:
    stated = [call(f"s{n}", 0, f"{n} do it", "a", task=f"task {n % 3}") for n in range(36)]
    examples, _ = build(tmp_path / "stated", stated)
    assert {one.meta["task_key"] for one in examples} == {task_key(f"task {n}") for n in range(3)}
    asked = [call(f"s{n}", 0, "Continue the task.", f"answer {n}") for n in range(36)]
    examples, _ = build(tmp_path / "asked", asked)
    assert {one.meta["task_key"] for one in examples} == {""}


def test_caps_do_not_depend_on_how_the_logs_are_cut(tmp_path: Path) -> None:
    lines = [call(f"s{n}", 0, f"do {n}", "a", outcome={"status": "success"}) for n in range(300)]
    rows = {}
    for files in (1, 30):
        root = tmp_path / str(files)
        for n in range(files):
            write_lines(root / "logs" / f"{n}.jsonl", lines[n::files])
        run(root / "logs", root / "turns")
        rows[files] = build_examples(root / "turns", ACTOR, root, DatasetOptions()).rows
    assert rows == {1: 300, 30: 300}


def test_one_more_small_log_never_takes_a_dataset_below_the_minimum(tmp_path: Path) -> None:
    large = [call("large", n, f"do {n}", "a") for n in range(99)]
    small = [call(f"s{m}", 0, f"do {m} small", "a") for m in range(19)]
    before, _ = build(tmp_path / "before", [*large, *small[:-1]])
    after, report = build(tmp_path / "after", [*large, *small])
    assert len(before) == 117
    assert len(after) == ACTOR.min_examples
    assert report.capped == {"session_share": 118 - ACTOR.min_examples}


@pytest.mark.parametrize(
    "stated",
    [
        {"task_id": 0},
        {"metadata": {"task": "Book a flight."}},
        {"metadata": {"task_id": "airline-7", "task": "worded for this trial"}, "task": "worded"},
    ],
)
def test_trials_of_one_stated_task_have_one_task_key_however_they_begin(tmp_path: Path, stated: dict[str, Any]) -> None:
    lines = [call(f"s{n}", 0, f"trial {n} begins with its own words", "a", **stated) for n in range(4)]
    examples, _ = build(tmp_path, [*lines, call("other", 0, "another", "a", task_id="other")])
    keys = [one.meta["task_key"] for one in examples]
    assert sorted(Counter(keys).values()) == [1, 4]
    assert all(keys)


@pytest.mark.parametrize("verdict", [{"rating": 1}, {"rating": "1"}, {"status": "failure"}, {"status": "cancelled"}])
def test_the_steps_of_a_badly_rated_or_failed_session_are_learnt_from_no_file(
    tmp_path: Path, verdict: dict[str, Any]
) -> None:
    for name in ("good", "bad"):
        write_lines(tmp_path / "logs" / f"{name}.jsonl", [call(name, n, f"{name} {n}", "a") for n in range(3)])
    ends = [{"session_id": "good", "outcome": {"status": "success"}}, {"session_id": "bad", "outcome": verdict}]
    write_lines(tmp_path / "logs" / "verdicts" / "feedback.jsonl", ends)
    run(tmp_path / "logs", tmp_path / "turns")
    report = build_examples(tmp_path / "turns", ACTOR, tmp_path, DatasetOptions(unknown_outcome="all"))
    assert {one.meta["session_id"] for one in read_examples(tmp_path)} == {"good"}
    assert sum(report.dropped.values()) == 3


SIZES = st.lists(st.integers(1, 150), min_size=1, max_size=30)


@settings(max_examples=60)
@given(SIZES, st.integers(1, 60), st.integers(1, 80), st.integers(1, 200))
def test_one_more_session_never_means_fewer_examples_below_the_minimum(
    sizes: list[int], more: int, minimum: int, per_session: int
) -> None:
    def kept(sizes: list[int]) -> int:
        rows = [
            Example(
                [], [], None, {"example_id": f"{n}-{k}", "session_id": f"s{n}", "task_key": "", "weight": 1 + k % 3}
            )
            for n, size in enumerate(sizes)
            for k in range(size)
        ]
        return len(cap(rows, DatasetOptions(max_per_session=per_session), minimum, DatasetReport()))

    before, after = kept(sizes), kept([*sizes, more])
    assert after >= min(before, minimum)
    assert after >= min(sum(sizes) + more, minimum)


def test_a_task_that_many_sessions_repeat_is_capped(tmp_path: Path) -> None:
    lines = [call(f"s{n}", 0, f"do {n}", "a", task="the same" if n < 100 else f"task {n}") for n in range(120)]
    examples, report = build(tmp_path, lines, max_per_task=60)
    assert [one.meta["task_key"] for one in examples].count(task_key("the same")) == 60
    assert report.capped == {"task_cap": 40}


def test_a_log_under_three_names_weighs_once(tmp_path: Path) -> None:
    lines = [call("s", 0, "p", "a", outcome={"status": "success"})]
    for name in ("a", "b", "c"):
        write_lines(tmp_path / "logs" / f"{name}.jsonl", lines)
    run(tmp_path / "logs", tmp_path / "turns")
    build_examples(tmp_path / "turns", ACTOR, tmp_path, DatasetOptions())
    (example,) = read_examples(tmp_path)
    assert (example.meta["copies"], example.meta["weight"]) == (1, 1)


def test_examples_carry_where_they_come_from_in_a_fixed_order(tmp_path: Path) -> None:
    lines = [call(f"s{n}", n, f"task {n}", "a", task=f"Task, {n % 2}!") for n in range(6)]
    examples, _ = build(tmp_path, lines)
    assert [one.meta["started_at"] for one in examples] == sorted(one.meta["started_at"] for one in examples)
    meta = examples[0].meta
    assert {
        "turn_id",
        "session_id",
        "task_key",
        "cluster",
        "weight",
        "status",
        "rating",
        "source_file",
        "line",
    } <= meta.keys()
    assert {one.meta["task_key"] for one in examples} == {task_key("task 0"), task_key("TASK  1")}
    first = (tmp_path / "dataset" / "examples.jsonl").read_bytes()
    build_examples(tmp_path / "turns", ACTOR, tmp_path / "dataset", DatasetOptions())
    assert (tmp_path / "dataset" / "examples.jsonl").read_bytes() == first


def test_near_duplicates_share_a_cluster_and_others_do_not(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(80)]
    texts = [" ".join(words), " ".join([*words, "end"]), " ".join(reversed(words))]
    examples, report = build(tmp_path, [call(f"s{n}", n, text, "a") for n, text in enumerate(texts)])
    clusters = [one.meta["cluster"] for one in sorted(examples, key=lambda one: one.meta["step"])]
    assert clusters[0] == clusters[1] != clusters[2]
    assert (report.near_duplicate_clusters, report.in_near_duplicate_clusters) == (1, 2)


def test_a_forgotten_session_stays_forgotten_when_another_machines_takes_its_name(tmp_path: Path) -> None:
    store, logs = Store(str(tmp_path / "store")), tmp_path / "logs"
    write_lines(logs / "b" / "a.jsonl", [call("s", 0, "b", "b", started_at="2026-01-02T00:00:00Z", outcome="success")])
    run(logs, tmp_path / "one")
    lineage.forget(store, "s", lineage.other_names(tmp_path / "one", "s"))
    write_lines(logs / "a" / "a.jsonl", [call("s", 0, "a", "a", started_at="2026-01-01T00:00:00Z", outcome="success")])
    run(logs, tmp_path / "two")
    assert {row["session_id"] for row in turns(tmp_path / "two") if row["source_file"] == "b/a.jsonl"} != {"s"}
    forgotten = lineage.forgotten(store)
    assert build_examples(tmp_path / "two", ACTOR, tmp_path, DatasetOptions(), forgotten=forgotten).rows == 0


@given(st.lists(st.text(alphabet="abc ", max_size=60), min_size=2, max_size=8))
def test_similarity_of_two_of_a_few_texts_does_not_depend_on_the_others(texts: list[str]) -> None:
    together = duplicates.signatures(texts, str)
    alone = [duplicates.signatures([text], str)[0] for text in texts]
    assert all((row == one).all() for row, one in zip(together, alone, strict=True))


def test_estimated_similarity_is_near_the_exact_one() -> None:
    words = [f"w{n}" for n in range(200)]
    first, second = " ".join(words), " ".join(words[:190] + ["x"] * 10)
    shingles = [set(duplicates.shingles(text).tolist()) for text in (first, second)]
    exact = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
    table = duplicates.signatures([first, second], str)
    assert float((table[0] == table[1]).mean()) == pytest.approx(exact, abs=0.1)


def near(texts: list[str], threshold: float = 0.9) -> set[tuple[int, int]]:
    """The near duplicates among texts, as pairs of their places."""
    pairs = duplicates.near_pairs(duplicates.signatures(texts, str), threshold).tolist()
    return {(min(pair), max(pair)) for pair in pairs}


@pytest.mark.parametrize(
    "sentence",
    [
        "我想预订明天早上从北京飞往上海的航班并选择靠窗的座位然后把行程发送到我的邮箱里请确认价格",
        "明日の朝に北京から上海まで飛ぶ便を予約して窓側の席を選び旅程をメールで送ってください",
        "ฉันต้องการจองเที่ยวบินจากกรุงเทพไปเชียงใหม่พรุ่งนี้เช้าและเลือกที่นั่งริมหน้าต่าง",
        "Я хочу забронировать рейс из Москвы в Казань завтра утром и выбрать место у окна в первом ряду",
        "أريد حجز رحلة من القاهرة إلى دبي صباح الغد واختيار مقعد بجانب النافذة في الصف الأول",
    ],
)
def test_near_duplicates_are_seen_in_any_script(sentence: str) -> None:
    text = " ".join([sentence] * 3)
    assert near([text, text[:-1], "".join(reversed(text))], 0.8) == {(0, 1)}


def test_what_every_row_says_does_not_make_rows_alike() -> None:
    shared = " ".join(f"word{n}" for n in range(800))
    own = [" ".join(f"r{row}w{n}" for n in range(20)) for row in range(60)]
    texts = [f"{shared} {text}" for text in own]
    copy = f"{shared} {own[7]}"
    assert near([*texts, copy]) == {(7, 60)}


def test_near_duplicates_agree_with_exact_jaccard_where_it_is_clear() -> None:
    rng = random.Random(4)
    vocabulary = [f"v{n}" for n in range(500)]
    bases = [rng.choices(vocabulary, k=150) for _ in range(40)]
    texts = [" ".join(base) for base in bases]
    texts += [" ".join([*base[:149], "end"]) for base in bases]  # Jaccard above 0.97
    texts += [" ".join([*base[:75], *rng.choices(vocabulary, k=75)]) for base in bases]  # below 0.5
    assert near(texts) == {(n, n + 40) for n in range(40)}


def test_clusters_do_not_chain() -> None:
    chain = [" ".join(f"w{n}" for n in range(start, start + 120)) for start in range(0, 80, 4)]
    pairs = duplicates.near_pairs(duplicates.signatures(chain, str), 0.9)
    representatives = duplicates.clusters(pairs, len(chain))
    assert len(set(representatives)) > 4
    tied = {(int(high), int(low)) for high, low in pairs}
    assert all((row, first) in tied for row, first in enumerate(representatives) if row != first)


ELEMENTS = [{"id": n, "role": "button", "text": f"Save {n}", "x": 10 * n, "y": 20} for n in range(8)]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
)


@pytest.mark.parametrize("frame", ["{0}", "Screen:\n```json\n{0}\n```\nGo on.", "Elements: {0}\nWhat now?"])
def test_toon_saves_characters_and_loses_nothing(frame: str) -> None:
    from toon_format import decode

    savings = toon.Savings(count_tokens=lambda text: len(text.split(",")))
    text = toon.encode_text(frame.replace("{0}", orjson.dumps(ELEMENTS).decode()), savings)
    assert savings.payloads == 1
    assert savings.characters_after < 0.6 * savings.characters_before
    start = text.index("[8]")
    assert decode("\n".join(text[start:].splitlines()[:9])) == ELEMENTS


@given(JSON)
def test_a_payload_is_only_encoded_where_decoding_gives_it_back(value: object) -> None:
    from toon_format import decode

    encoded = toon.encode_payload(orjson.dumps(value).decode())
    assert encoded is None or orjson.dumps(decode(encoded)) == orjson.dumps(value)


@pytest.mark.parametrize(
    "payload",
    [
        '[{"id": 12345678901234567890123, "x": 1}, {"id": 2, "x": 1}, {"id": 3, "x": 1}]',
        '{"a": 1, "a": 2, "rows": [{"x": 1, "y": 2}, {"x": 3, "y": 4}, {"x": 5, "y": 6}]}',
        '[{"a": NaN, "b": 1, "c": "some text"}, {"a": 1, "b": 2, "c": "more text"}]',
        "[" * 5000 + "]" * 5000,
    ],
)
def test_a_payload_that_toon_could_not_give_back_is_left_alone(payload: str) -> None:
    encoded = toon.encode_payload(payload)
    assert encoded is None or "12345678901234567890123" in encoded


def test_toon_leaves_system_prompts_answers_and_plain_text_alone() -> None:
    payload = orjson.dumps(ELEMENTS).decode()
    for role in ("system", "assistant"):
        assert toon.encode_message({"role": role, "content": payload}) == {"role": role, "content": payload}
    assert toon.encode_text("f(x) = {x | x > 0} [a, b]") == "f(x) = {x | x > 0} [a, b]"


def test_an_agent_with_toon_gets_toon_prompts_and_the_same_example_ids(tmp_path: Path) -> None:
    lines = [call("s", 0, f"Elements: {orjson.dumps(ELEMENTS).decode()}", "ok")]
    plain, _ = build(tmp_path, lines)
    (tmp_path / "toon").mkdir()
    report = build_examples(
        tmp_path / "turns", ACTOR.model_copy(update={"payload_format": "toon"}), tmp_path / "toon", DatasetOptions()
    )
    encoded = list(read_examples(tmp_path / "toon"))
    assert report.toon["payloads"] == 1
    assert "[8]{id,role,text,x,y}:" in encoded[0].prompt[0]["content"]
    assert encoded[0].id == plain[0].id


def test_an_example_leads_back_to_its_line_and_a_file_forward_to_its_examples(tmp_path: Path) -> None:
    examples, _ = build(tmp_path, [call("s", n, f"p{n}", "a") for n in range(3)])
    one = examples[1]
    turns, logs = tmp_path / "turns", tmp_path / "logs"
    name, (found,) = lineage.find_turns(turns, one.meta["turn_id"][:12], logs)
    assert (name, found["source_file"], found["line"]) == ("", "s.jsonl", one.meta["line"])
    line = orjson.loads((logs / found["source_file"]).read_bytes().splitlines()[found["line"] - 1])
    assert line["request"]["messages"] == one.prompt
    for query in ("s.jsonl", "./s.jsonl", str(logs / "s.jsonl")):
        name, rows = lineage.find_turns(turns, query, logs)
        assert (name, len(rows)) == ("s.jsonl", 3)
    assert lineage.find_turns(turns, "s", logs)[0] == "s"
    for query in ("", one.meta["turn_id"][:3], "../s.jsonl", "*"):
        assert lineage.find_turns(turns, query, logs)[1] == []


def test_a_name_with_personal_data_is_found_as_it_was_typed(tmp_path: Path) -> None:
    write_lines(tmp_path / "logs" / "ana@example.org" / "a.jsonl", [call("eva@example.org", 0, "p", "a")])
    run(tmp_path / "logs", tmp_path / "turns")
    file, _ = lineage.find_turns(tmp_path / "turns", "ana@example.org/a.jsonl", tmp_path / "logs")
    session, _ = lineage.find_turns(tmp_path / "turns", "eva@example.org", tmp_path / "logs")
    assert file.startswith("<PII:email:1>/a.jsonl~")
    assert session.startswith("<PII:email:1>~")


def test_a_forgotten_session_is_in_no_later_dataset(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    assert lineage.forgotten(store) == ()
    assert (lineage.forget(store, "s1"), lineage.forget(store, "s1")) == (True, False)
    lines = [call(f"s{n}", 0, f"p{n}", "a") for n in range(3)]
    examples, report = build(tmp_path, lines, forgotten=lineage.forgotten(store))
    assert {one.meta["session_id"] for one in examples} == {"s0", "s2"}
    assert report.dropped == {"forgotten": 1}


@pytest.mark.parametrize("which", ["original", "copy"])
def test_a_forgotten_file_takes_its_copies_with_it_and_stays_forgotten_under_another_name(
    tmp_path: Path, which: str
) -> None:
    store, logs = Store(str(tmp_path / "store")), tmp_path / "logs"
    lines = [call("s", 0, "p", "a", outcome={"status": "success"})]
    for name in ("original", "copy"):
        write_lines(logs / f"{name}.jsonl", lines)
    run(logs, tmp_path / "turns")
    name, _ = lineage.find_turns(tmp_path / "turns", f"{which}.jsonl", logs)
    assert lineage.forget(store, name, lineage.other_names(tmp_path / "turns", name))
    (logs / "original.jsonl").rename(logs / "later.jsonl")
    (logs / "copy.jsonl").unlink()
    run(logs, tmp_path / "renamed")
    for folder in ("turns", "renamed"):
        forgotten = lineage.forgotten(store)
        assert build_examples(tmp_path / folder, ACTOR, tmp_path, DatasetOptions(), forgotten=forgotten).rows == 0


@given(st.lists(st.text(min_size=1).filter(lambda text: text.isprintable() or "\n" in text), min_size=1, max_size=5))
def test_the_forget_list_keeps_every_name(names: list[str]) -> None:
    with TemporaryDirectory() as folder:
        store = Store(folder)
        for name in names:
            lineage.forget(store, name)
        assert set(lineage.forgotten(store)) == set(names)


@pytest.mark.skipif(not PLANS.is_dir(), reason="needs ../shared/data/grokputer_logs")
def test_an_agent_as_the_default_file_words_it_learns_the_first_rounds_of_collaboration_plans(tmp_path: Path) -> None:
    default = Path(__file__).resolve().parents[2] / "data" / "agents.yaml"
    said = default.read_text(encoding="utf-8").split("agents:\n")[0].replace("\n# ", " ").replace("`", "")
    assert "match: {names: [grok, claude]} and unknown_outcome: all" in said
    entries = {"description": "Plans.", "match": {"names": ["grok", "claude"]}, "unknown_outcome": "all"}
    planner = AgentSpec.model_validate({"name": "planner", **entries})
    run(PLANS, tmp_path / "turns", agents=[*load_agents(default), planner])
    options = DatasetOptions(unknown_outcome=planner.unknown_outcome)
    report = build_examples(tmp_path / "turns", planner, tmp_path, options)
    examples = list(read_examples(tmp_path))
    # a side's errors, and a first round that nothing separates from the next, are no answers
    assert (len(examples), report.dropped) == (8, {})
    for example in examples:
        plan = (PLANS / example.meta["source_file"]).read_text(encoding="utf-8")
        task = plan.split("## Task Description\n\n")[1].split("\n\n---")[0]
        assert [one["content"] for one in example.prompt] == [f"**COORDINATOR** (Round 1):\n\n{task}"]
        answer = example.completion[0]["content"]
        assert f"'s Contributions\n\n{answer}" in plan
        assert "round 2" not in answer
