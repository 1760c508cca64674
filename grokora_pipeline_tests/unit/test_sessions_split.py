"""The split: nothing on both sides, sides that never change, and what a naive split would have leaked."""

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from grokora_pipeline.datasets import duplicates
from grokora_pipeline.datasets.examples import Example
from grokora_pipeline.datasets.split import Side, components, naive_leaks, split_examples, straddling

# texts whose neighbours in this list are near duplicates, so that 0 ~ 1 ~ 2 is a chain
CHAIN = [" ".join(f"w{n}" for n in range(start, start + 120)) for start in range(0, 40, 4)]


def example(session: str, task: str, text: str, status: str = "success") -> Example:
    """An example that is like one of a dataset."""
    prompt, answer = [{"role": "user", "content": text}], {"role": "assistant", "content": "ok"}
    meta = {
        "example_id": duplicates.example_id(prompt, answer),
        "session_id": session,
        "task_key": task,
        "status": status,
    }
    return Example(prompt, [answer], None, meta)


def clustered(examples: Sequence[Example]) -> list[Example]:
    """The examples, each text once, with their clusters, as build_examples gives them."""
    unique = list({one.id: one for one in examples}.values())
    texts = [duplicates.plain_text([*one.prompt, *one.completion]) for one in unique]
    for one, first in zip(unique, duplicates.clusters(duplicates.signatures(texts), 0.9), strict=True):
        one.meta["cluster"] = unique[first].id[:16]
    return unique


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


@settings(max_examples=80, deadline=None)
@given(ROWS, ROWS, ROWS, st.booleans())
def test_sides_never_change_and_nothing_straddles_while_logs_are_added(
    first: list[tuple[int, int, int, str]],
    second: list[tuple[int, int, int, str]],
    third: list[tuple[int, int, int, str]],
    earlier: bool,  # whether the logs that are added are older than those that were there
) -> None:
    previous: dict[str, Side] = {}
    rows: list[tuple[int, int, int, str]] = []
    for more in (first, second, third):
        rows = more + rows if earlier else rows + more
        examples = clustered(from_rows(rows))
        split = split_examples(examples, seed=3, previous=previous)
        assert straddling(examples, split.sides) == []
        assert all(previous[name] == side for name, side in split.sides.items() if name in previous)
        assert split.sides.keys() | set(split.held_back) == {one.id for one in examples}
        assert split.sides.keys().isdisjoint(split.held_back)
        previous |= split.sides


@given(ROWS, st.integers(0, 3))
def test_the_split_depends_on_the_examples_and_the_seed_alone(rows: list[tuple[int, int, int, str]], seed: int) -> None:
    examples = clustered(from_rows(rows))
    shuffled = examples[:]
    random.Random(1).shuffle(shuffled)
    assert split_examples(examples, seed=seed).sides == split_examples(shuffled, seed=seed).sides


def test_the_share_is_kept_for_each_outcome() -> None:
    rng = random.Random(2)
    examples = []
    for session in range(200):
        status = "success" if session % 4 else "failure"
        examples += [
            example(f"s{session}", "", f"{session} {n} {rng.random()}", status) for n in range(1 + session % 7)
        ]
    split = split_examples(clustered(examples), seed=7)
    assert abs(split.validation_share - 0.2) < 0.03
    for status in ("success", "failure"):
        sides = [split.sides[one.id] for one in examples if one.meta["status"] == status]
        assert abs(sides.count("validation") / len(sides) - 0.2) < 0.03


def test_a_new_example_that_would_tie_both_sides_is_held_back() -> None:
    left, bridge, right = (example(name, "", text) for name, text in zip("abc", CHAIN[:3], strict=True))
    old = clustered([left, right])
    assert len(components(old)) == 2
    previous: dict[str, Side] = {left.id: "train", right.id: "validation"}
    examples = clustered([left, right, bridge])
    split = split_examples(examples, seed=1, previous=previous)
    assert len(components(examples)) == 1
    assert (split.sides, split.held_back) == (previous, [bridge.id])
    tied = clustered([left, right, example("a", "shared", "new text"), example("c", "shared", "another new text")])
    split = split_examples(tied, seed=1, previous=previous)
    assert len(split.held_back) == 1
    assert straddling(tied, split.sides) == []


def test_a_new_session_follows_the_old_one_that_it_resembles() -> None:
    old = clustered([example("a", "t1", "one"), example("b", "t2", "two")])
    previous: dict[str, Side] = {old[0].id: "validation", old[1].id: "train"}
    new = example("c", "t1", "three")
    split = split_examples(clustered([*old, new]), seed=1, previous=previous)
    assert split.sides[new.id] == "validation"


def test_an_example_in_training_that_touches_validation_leaves_it() -> None:
    first, second = example("a", "same task", "one"), example("b", "same task", "two")
    previous: dict[str, Side] = {first.id: "validation", second.id: "train"}
    split = split_examples(clustered([first, second]), seed=1, previous=previous)
    assert (split.sides, split.held_back) == ({first.id: "validation"}, [second.id])


def test_the_check_sees_each_kind_of_straddle() -> None:
    rows = [example("a", "t", "x"), example("a", "u", "y"), example("b", "t", "z"), example("c", "", CHAIN[0])]
    rows.append(example("d", "", CHAIN[0] + " end"))
    order: list[Side] = ["train", "validation", "validation", "train", "validation"]
    sides = {one.id: side for one, side in zip(rows, order, strict=True)}
    kinds = sorted(text.split(" ")[0] for text in straddling(rows, sides))
    assert kinds == ["near", "session_id", "task_key"]


def test_a_naive_split_is_shown_to_leak() -> None:
    examples = clustered([example(f"s{n // 10}", "", f"text {n}") for n in range(100)])
    leaks = naive_leaks(examples, seed=7, share=0.2)
    assert leaks["validation_rows"] == 20
    assert leaks["leaked_rows"] == leaks["session_id"] >= 18


def test_small_datasets_have_both_sides() -> None:
    split = split_examples(clustered([example("a", "", "one"), example("b", "", "two")]), seed=1)
    assert sorted(split.sides.values()) == ["train", "validation"]
    assert len(split_examples(clustered([example("a", "", "one")]), seed=1).sides) == 1
    assert split_examples([], seed=1).sides == {}
