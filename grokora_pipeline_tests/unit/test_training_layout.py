"""The layout of a batch: every labelled token counted with its weight, no token computed twice without need."""

from collections import Counter
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from grokora_pipeline.training.layout import (
    Layout,
    Node,
    Row,
    build_forest,
    flat,
    in_batches,
    merge_chains,
    step_batches,
)

tokens = st.lists(st.integers(0, 2), min_size=2, max_size=9)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    """Rows over three token ids, so that prefixes, chains and duplicates are common."""
    made = []
    for ids in draw(st.lists(tokens, min_size=1, max_size=7)):
        first = draw(st.integers(1, len(ids) - 1))
        weight = draw(st.sampled_from([0.5, 1.0, 2.0]))
        weights = tuple(weight if index >= first else 0.0 for index in range(len(ids)))
        made.append(Row(tuple(ids), weights, draw(st.sampled_from(["a", "b", ""]))))
    return made


def contexts(given_rows: list[Row]) -> Counter[tuple[int, ...]]:
    """Loss weight of every (tokens before, token) pair, from the rows themselves."""
    found: Counter[tuple[int, ...]] = Counter()
    for row in given_rows:
        for index, weight in enumerate(row.weights):
            if weight:
                found[row.ids[: index + 1]] += weight  # type: ignore[assignment]
    return found


def nodes(node: Node) -> Iterator[Node]:
    for below in (*node.children, *node.leaves):
        yield below
        yield from nodes(below)


def laid_out(root: Node) -> Counter[tuple[int, ...]]:
    """The same from a layout: what each segment predicts after the tokens before it."""
    found: Counter[tuple[int, ...]] = Counter()
    for node in nodes(root):
        ids, targets, weights = node.segment()
        assert len(ids) == len(targets) == len(weights) == node.length
        for offset, (target, weight) in enumerate(zip(targets, weights, strict=True)):
            if weight:
                found[(*node.ids[: node.start + offset + 1], target)] += weight  # type: ignore[assignment]
    return found


@given(rows(), st.integers(1, 12))
def test_the_tree_weighs_every_labelled_token_as_the_rows_do(given_rows: list[Row], least_saving: int) -> None:
    tree = build_forest(merge_chains(given_rows), least_saving=least_saving)
    assert laid_out(tree) == contexts(given_rows)
    assert laid_out(flat(given_rows)) == contexts(given_rows)


@given(rows(), st.integers(1, 12))
def test_the_tree_never_computes_more_than_the_rows(given_rows: list[Row], least_saving: int) -> None:
    tree = build_forest(merge_chains(given_rows), least_saving=least_saving)
    assert tree.tokens <= flat(given_rows).tokens == sum(len(row.ids) for row in given_rows)


@given(rows())
def test_children_begin_where_their_parent_ends(given_rows: list[Row]) -> None:
    tree = build_forest(merge_chains(given_rows), least_saving=1)
    for node in (tree, *nodes(tree)):
        assert all(below.start == node.stop for below in (*node.children, *node.leaves))
        assert all(leaf.stop == len(leaf.ids) for leaf in node.leaves)


def test_the_steps_of_a_session_are_one_row() -> None:
    first = Row((1, 2, 3), (0, 0, 1.0))
    second = Row((1, 2, 3, 4, 5), (0, 0, 0, 0, 1.0))
    assert merge_chains([second, first]) == [Row((1, 2, 3, 4, 5), (0, 0, 1.0, 0, 1.0))]


def test_a_long_system_prompt_is_computed_once() -> None:
    system = tuple(range(100))
    batch = [Row((*system, 200 + n, 300 + n), (0.0,) * 101 + (1.0,)) for n in range(8)]
    tree = Layout("tree", 512).of(batch)
    assert [node.length for node in tree.children] == [99]
    assert tree.tokens == 99 + 8 * 3


@given(rows(), st.integers(1, 30))
def test_batches_hold_every_leaf_once_within_the_budget(given_rows: list[Row], budget: int) -> None:
    leaves = flat(given_rows).leaves
    batches = list(in_batches(leaves, budget))
    assert Counter(id(leaf) for batch in batches for leaf in batch) == Counter(id(leaf) for leaf in leaves)
    for batch in batches:
        assert len(batch) == 1 or max(leaf.length for leaf in batch) * len(batch) <= budget


def test_rows_of_unlike_length_share_a_pass_only_if_their_padding_costs_less_than_another_pass() -> None:
    lengths = [50, 52, 51, 300, 310, 90]
    leaves = flat([Row((9,) * length, (1.0,) * length) for length in lengths]).leaves
    assert [[leaf.length for leaf in batch] for batch in in_batches(leaves, 1024)] == [[50, 51, 52], [90], [300, 310]]


@given(rows(), st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_holds_every_row_once_in_a_seeded_order(given_rows: list[Row], size: int, epoch: int) -> None:
    batches = step_batches(given_rows, size, 7, epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(given_rows)))
    assert all(len(batch) == size for batch in batches[:-1])
    assert step_batches(given_rows, size, 7, epoch) == batches
