"""The split: nothing on both sides, sides that never change, and what a naive split would have leaked."""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import orjson
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from grokora_pipeline.datasets import duplicates
from grokora_pipeline.datasets.example import Example, ExampleMeta
from grokora_pipeline.datasets.examples import near_places
from grokora_pipeline.datasets.split import (
    SIDES,
    Assignment,
    Side,
    Split,
    SplitOptions,
    naive_leaks,
    read_assignment,
    split_examples,
    straddling,
)
from grokora_pipeline.sessions.turns import Status

# texts whose neighbours in this list are near duplicates, so that 0 ~ 1 ~ 2 is a chain
CHAIN = [" ".join(f"w{n}" for n in range(start, start + 120)) for start in range(0, 40, 4)]


def example(session: str, task: str, text: str, status: str = "success", step: int = 0) -> Example:
    """An example that is like one of a dataset."""
    prompt, answer = [{"role": "user", "content": text}], {"role": "assistant", "content": "ok"}
    meta = ExampleMeta(
        example_id=duplicates.example_id(prompt, answer),
        session_id=session,
        task_key=task,
        status=cast(Status, status),
        step=step,
    )
    return Example(prompt, [answer], None, meta)


def clustered(examples: Sequence[Example], threshold: float = 0.9) -> list[Example]:
    """The examples, each text once, with their clusters, as build_examples gives them."""
    unique = sorted({one.id: one for one in examples}.values(), key=lambda one: one.id)
    places = near_places(unique, threshold)
    for one, first in zip(unique, duplicates.clusters(places, len(unique)), strict=True):
        one.meta["cluster"] = unique[first].id[:16]
    return unique


def near(examples: Sequence[Example], threshold: float) -> list[tuple[str, str]]:
    """The example ids of near duplicates."""
    ordered = sorted(examples, key=lambda one: one.id)
    return [(ordered[first].id, ordered[second].id) for first, second in near_places(ordered, threshold).tolist()]


def divide(
    examples: Sequence[Example], previous: Assignment | None = None, seed: int = 1, threshold: float = 0.9
) -> Split:
    """The split with the default share."""
    return split_examples(examples, SplitOptions(seed=seed), near(examples, threshold), previous)


def leaks(examples: Sequence[Example], split: Split, threshold: float = 0.9) -> list[str]:
    """What is on both sides and was not divided on purpose; near duplicates are looked for anew."""
    return straddling(examples, split.sides, near(examples, threshold), split.divided_keys)


Rows = Callable[..., list[Example]]
ROWS = st.lists(
    st.tuples(
        st.integers(0, 9), st.integers(0, 5), st.integers(0, len(CHAIN) + 12), st.sampled_from(["success", "unknown"])
    ),
    min_size=1,
    max_size=30,
)


def from_rows(rows: list[tuple[int, int, int, str]]) -> list[Example]:
    """Examples of few sessions, tasks and texts, so that they are connected in many ways."""
    return [
        example(f"s{session}", f"t{task}" if task else "", CHAIN[text] if text < len(CHAIN) else f"text {text}", status)
        for session, task, text, status in rows
    ]


@settings(max_examples=80)
@given(ROWS, ROWS, ROWS, st.booleans())
def test_sides_never_change_and_nothing_straddles_while_logs_are_added(
    first: list[tuple[int, int, int, str]],
    second: list[tuple[int, int, int, str]],
    third: list[tuple[int, int, int, str]],
    earlier: bool,  # whether the logs that are added are older than those that were there
) -> None:
    previous = Assignment()
    rows: list[tuple[int, int, int, str]] = []
    for more in (first, second, third):
        rows = more + rows if earlier else rows + more
        examples = clustered(from_rows(rows))
        split = divide(examples, previous)
        assert leaks(examples, split) == []
        assert all(previous.examples[name] == side for name, side in split.sides.items() if name in previous.examples)
        assert split.sides.keys() | set(split.held_back) == {one.id for one in examples}
        assert split.sides.keys().isdisjoint(split.held_back)
        previous = Assignment.from_json(orjson.loads(orjson.dumps(asdict(split.assignment))))


CHANGES = st.sampled_from(["redact", "grow", "rename", "cap", "threshold"])


@settings(max_examples=80)
@given(ROWS, st.lists(CHANGES, min_size=1, max_size=4))
def test_no_change_of_logs_or_options_moves_a_session_or_a_task(
    rows: list[tuple[int, int, int, str]], changes: list[str]
) -> None:
    """A new redaction gives every example a new id; a session or a task that was seen before stays where it was."""
    examples, threshold = clustered(from_rows(rows)), 0.9
    split = divide(examples)
    for number, change in enumerate(changes):
        if change == "redact":
            renewed = [(one.meta, f"{one.prompt[0]['content']} redaction{number}") for one in examples]
            examples = [example(m["session_id"], m["task_key"], text, m["status"]) for m, text in renewed]
        elif change == "grow":
            examples = [*examples, *from_rows([(n, 0, 40 + 10 * number + n, "success") for n in range(10)])]
        elif change == "rename":
            for one in examples:
                one.meta["session_id"] += "'"
        elif change == "cap":
            examples = examples[::2] or examples
        else:
            threshold = 0.7 if threshold == 0.9 else 0.9
        examples = clustered(examples, threshold)
        before, split = split, divide(examples, split.assignment, threshold=threshold)
        assert leaks(examples, split, threshold) == []
        for one in examples:
            if one.id in split.sides:
                expected = before.assignment.side_of(one)
                assert expected is None or split.sides[one.id] == expected


@given(ROWS, st.integers(0, 3))
def test_the_split_depends_on_the_examples_and_the_seed_alone(rows: list[tuple[int, int, int, str]], seed: int) -> None:
    examples = clustered(from_rows(rows))
    shuffled = examples[:]
    random.Random(1).shuffle(shuffled)
    assert divide(examples, seed=seed).sides == divide(shuffled, seed=seed).sides


def test_the_share_is_kept_for_each_outcome() -> None:
    rng = random.Random(2)
    examples = []
    for session in range(200):
        status = "success" if session % 4 else "failure"
        examples += [
            example(f"s{session}", "", f"{session} {n} {rng.random()}", status) for n in range(1 + session % 7)
        ]
    split = divide(clustered(examples), seed=7)
    assert abs(split.validation_share - 0.2) < 0.03
    for status in ("success", "failure"):
        sides = [split.sides[one.id] for one in examples if one.meta["status"] == status]
        assert abs(sides.count("validation") / len(sides) - 0.2) < 0.03


def test_a_new_example_that_would_tie_both_sides_is_held_back() -> None:
    left, bridge, right = (example(name, "", text) for name, text in zip("abc", CHAIN[:3], strict=True))
    sides: dict[str, Side] = {left.id: "train", right.id: "validation"}
    examples = clustered([left, right, bridge])
    split = divide(examples, Assignment(examples=sides))
    assert (split.sides, split.held_back) == (sides, [bridge.id])
    tied = clustered([left, right, example("a", "shared", "new text"), example("c", "shared", "another new text")])
    split = divide(tied, Assignment(examples=sides))
    assert len(split.held_back) == 1
    assert leaks(tied, split) == []


@pytest.mark.parametrize("many", [3, 12])
def test_of_near_duplicates_across_the_split_few_are_held_back(many: int) -> None:
    examples = [example(f"s{n}", "", f"text {n}") for n in range(60)]
    plain = divide(examples)
    trained, validated = (sorted(name for name, one in plain.sides.items() if one == side) for side in SIDES)
    pairs = [(name, validated[0]) for name in trained[:many]]
    split = split_examples(examples, SplitOptions(seed=1), pairs)
    # one row of validation is worth four of training, which has four times as many
    assert split.held_back == (trained[:3] if many == 3 else validated[:1])
    assert straddling(examples, split.sides, pairs) == []
    assert split.sides == {name: side for name, side in plain.sides.items() if name not in split.held_back}
    later = split_examples(examples, SplitOptions(seed=1), pairs[1:], plain.assignment)
    assert later.held_back == [name for name, _ in pairs[1:]]  # a side of validation, once given, stays


def test_a_new_session_follows_the_old_one_that_it_resembles() -> None:
    old = [example("a", "t1", "one"), example("b", "t2", "two")]
    previous = Assignment(examples={old[0].id: "validation", old[1].id: "train"})
    new = example("c", "t1", "three")
    assert divide(clustered([*old, new]), previous).sides[new.id] == "validation"


def test_an_example_in_training_that_touches_validation_leaves_it() -> None:
    first, second = example("a", "same task", "one"), example("b", "same task", "two")
    previous = Assignment(examples={first.id: "validation", second.id: "train"})
    split = divide(clustered([first, second]), previous)
    assert (split.sides, split.held_back) == ({first.id: "validation"}, [second.id])


def test_sessions_keep_their_sides_if_a_new_redaction_changes_every_text() -> None:
    old = clustered([example(f"s{n}", "", f"text {n} password") for n in range(60)])
    before = divide(old)
    new = clustered([example(f"s{n}", "", f"text {n} <SECRET:password:1>") for n in range(60)])
    after = divide(new, before.assignment)
    sides = [
        {one.meta["session_id"]: split.sides[one.id] for one in rows} for rows, split in ((old, before), (new, after))
    ]
    assert sides[0] == sides[1]
    assert 0 < list(sides[0].values()).count("validation") < 60


def shared_prompt(sessions: int, first: int = 0) -> list[Example]:
    """Sessions that share 800 words of user prompt and differ in twenty."""
    shared = " ".join(f"word{n}" for n in range(800))
    own = [" ".join(f"s{session}w{n}" for n in range(20)) for session in range(first, first + sessions)]
    return [example(f"s{first + n}", "", f"{shared} {text}") for n, text in enumerate(own)]


def one_task(sessions: int, first: int = 0) -> list[Example]:
    """Sessions that all state the same task."""
    return [example(f"s{n}", "the task", f"text {n}") for n in range(first, first + sessions)]


def alike(sessions: int, first: int = 0) -> list[Example]:
    """Sessions that are near duplicates of each other, too few to tell what they share from what differs."""
    return [example(f"s{n}", "", f"{CHAIN[0]} {n}") for n in range(first, first + sessions)]


def one_session(steps: int, first: int = 0) -> list[Example]:
    """One giant session."""
    return [example("giant", "", f"text {n}", step=n) for n in range(first, first + steps)]


@pytest.mark.parametrize(
    ("rows", "count", "divided"),
    [
        (shared_prompt, 100, ""),
        (one_task, 200, "task the task (200 of 200"),
        (alike, 20, "near duplicates of"),
        (one_session, 300, "session giant (300 of 300"),
    ],
)
def test_ordinary_data_never_end_on_one_side(rows: Rows, count: int, divided: str) -> None:
    examples = clustered(rows(count))
    split = divide(examples)
    assert 0.1 <= split.validation_share <= 0.3
    assert split.held_back == []
    assert leaks(examples, split) == []
    assert [line.startswith(divided) for line in split.divided] == [True] * bool(divided)


@pytest.mark.parametrize(("rows", "count"), [(shared_prompt, 60), (one_task, 60), (alike, 16), (one_session, 200)])
def test_what_was_divided_stays_divided_and_new_examples_join_both_sides(rows: Rows, count: int) -> None:
    first = divide(clustered(rows(count)))
    examples = clustered([*rows(count), *rows(count, count)])
    second = divide(examples, first.assignment)
    assert first.sides.items() <= second.sides.items()
    assert second.held_back == []
    new = [second.sides[one.id] for one in rows(count, count) if one.id in second.sides]
    assert set(new) == {"train", "validation"}


def test_a_store_whose_examples_were_all_trained_gets_a_validation_side_from_new_sessions() -> None:
    old = one_task(100)
    previous = Assignment(examples={one.id: "train" for one in old})
    split = divide(clustered([*old, *one_task(40, 100)]), previous)
    assert {split.sides[one.id] for one in old} == {"train"}
    assert split.validation_share > 0.1


def test_small_groups_are_not_divided_while_others_can_be_held_out() -> None:
    rows = one_task(70) + [example(f"x{n}", f"task {n % 6}", f"other text {n}") for n in range(30)]
    split = divide(clustered(rows))
    assert split.divided == []
    assert {split.sides[one.id] for one in rows[:70]} == {"train"}
    assert split.validation_share == pytest.approx(0.2, abs=0.05)


def test_the_assignment_of_an_older_store_is_read_with_its_sessions(tmp_path: Path) -> None:
    rows = one_task(3)
    sides: dict[str, Side] = {rows[0].id: "train", rows[1].id: "validation"}
    (tmp_path / "assignment.json").write_bytes(orjson.dumps(sides))
    groups = {"train": Dataset.from_dict({"group": ["s0"]}), "validation": Dataset.from_dict({"group": ["s1"]})}
    DatasetDict(groups).save_to_disk(str(tmp_path))
    assert read_assignment(tmp_path) == Assignment(examples=sides, sessions={"s0": "train", "s1": "validation"})


def test_the_check_sees_each_kind_of_straddle() -> None:
    rows = [example("a", "t", "x"), example("a", "u", "y"), example("b", "t", "z"), example("c", "", CHAIN[0])]
    rows.append(example("d", "", CHAIN[0] + " end"))
    order: list[Side] = ["train", "validation", "validation", "train", "validation"]
    sides = {one.id: side for one, side in zip(rows, order, strict=True)}
    kinds = sorted(text.split(" ")[0] for text in straddling(rows, sides, near(rows, 0.9)))
    assert kinds == ["near", "session_id", "task_key"]
    assert straddling(rows, sides, near(rows, 0.99))[-1].startswith("task_key")


def test_a_naive_split_is_shown_to_leak() -> None:
    examples = clustered([example(f"s{n // 10}", "", f"text {n}") for n in range(100)])
    counts = naive_leaks(examples, seed=7, share=0.2)
    assert counts["validation_rows"] == 20
    assert counts["leaked_rows"] == counts["session_id"] >= 18


def test_small_datasets_have_both_sides() -> None:
    split = divide(clustered([example("a", "", "one"), example("b", "", "two")]))
    assert sorted(split.sides.values()) == ["train", "validation"]
    assert len(divide(clustered([example("a", "", "one")])).sides) == 1
    assert divide([]).sides == {}
