"""Which tokens of a batch are computed, and how often: rows that share a prefix are laid out as a tree. No torch.

A row that is a prefix of another (the steps of one session) is merged into it; what several rows share is a node that
is computed once, and its keys and values serve all rows below it. Token weights add up, so the loss stays what row by
row training has: sum over rows and labelled tokens of weight x nll.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import numpy as np

from grokora_pipeline.models.sequences import first_difference

LEAST_SAVING = 48  # a node of its own must save so many tokens: a forward pass more costs about as much


@dataclass(frozen=True, slots=True)
class Row:
    """One example: token ids, the loss weight of each token (0 where no loss is taken) and its session.

    `judged` is "better", "worse" or "" for an answer that is learnt as it is; the two rows of a pair share `pair`. The
    answer begins at token `answer_at`; 0: at the first that carries loss.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    group: str = ""
    judged: str = ""
    pair: str = ""
    answer_at: int = 0

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> "Row":
        """A row of the tokenized split. The first token has nothing before it, so it carries no loss."""
        weight = float(columns["weight"])
        weights = [weight * mask for mask in columns["completion_mask"]]
        weights[:1] = [0.0]
        texts = {name: str(columns.get(name, "")) for name in ("group", "judged", "pair")}
        return cls(tuple(columns["input_ids"]), tuple(weights), answer_at=int(columns.get("answer_at", 0)), **texts)

    @property
    def prompt(self) -> int:
        """How many tokens come before the answer."""
        learnt = (index for index, weight in enumerate(self.weights) if weight)
        return self.answer_at or next(learnt, len(self.ids))


@dataclass(slots=True)
class Node:
    """The tokens [start, stop) of `ids`, computed after its parent's; what hangs below begins at `stop`.

    `weights[i]` weighs the prediction of token i by position i - 1, so a node owns the weights (start, stop]. `prompt`:
    of a whole row, its tokens before the answer.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    start: int
    stop: int
    prompt: int = 0
    children: list["Node"] = field(default_factory=list)
    leaves: list["Node"] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens computed for this node alone."""
        return self.stop - self.start

    @property
    def tokens(self) -> int:
        """Tokens computed for this node and all below it."""
        return self.length + sum(node.tokens for node in (*self.children, *self.leaves))

    def segment(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
        """(input ids, the id that follows each, its weight), all of `length`; nothing follows a row's last token."""
        following = slice(self.start + 1, self.stop + 1)
        targets, weights = self.ids[following], self.weights[following]
        rest = self.length - len(targets)
        return self.ids[self.start : self.stop], targets + (0,) * rest, weights + (0.0,) * rest


def merge_chains(rows: Sequence[Row]) -> list[Row]:
    """The rows without those that are a prefix of (or equal to) another; their weights move into that other row."""
    merged: list[Row] = []
    for row in sorted(rows, key=lambda row: row.ids):
        if merged and row.ids[: len(merged[-1].ids)] == merged[-1].ids:
            shorter = merged.pop()
            padded = shorter.weights + (0.0,) * (len(row.ids) - len(shorter.ids))
            weights = tuple(a + b for a, b in zip(row.weights, padded, strict=True))
            merged.append(Row(row.ids, weights, row.group))
        else:
            merged.append(row)
    return merged


def build_forest(rows: Sequence[Row], *, least_saving: int = LEAST_SAVING) -> Node:
    """The prefix tree over rows that `merge_chains` returned. Its root is empty; a node saves `least_saving` tokens."""
    root = Node((), (), 0, 0)
    if rows:
        _hang(root, sorted(rows, key=lambda row: row.ids), least_saving)
    return root


def _node(rows: Sequence[Row], start: int, least_saving: int) -> Node:
    """The node of all rows, which agree up to `start`. It ends one token before they differ: that token is computed
    by each child again, so that every child predicts its first own token itself."""
    # The rows are sorted, so what the first and the last have in common all have.
    shared = first_difference(rows[0].ids, rows[-1].ids)
    stop = max(start, shared - 1)
    weights = rows[0].weights[: stop + 1]
    for row in rows[1:]:
        weights = tuple(a + b for a, b in zip(weights, row.weights, strict=False))
    node = Node(rows[0].ids, weights, start, stop)
    for _, group in groupby(rows, key=lambda row: row.ids[shared : shared + 1]):
        _hang(node, list(group), least_saving)
    return node


def _hang(node: Node, rows: Sequence[Row], least_saving: int) -> None:
    if len(rows) > 1:
        child = _node(rows, node.stop, least_saving)
        if child.length * (len(rows) - 1) >= least_saving:
            node.children.append(child)
            return
        for inner in (*child.children, *child.leaves):  # not worth a pass: they compute the child's tokens themselves
            inner.start = node.stop
        node.children += child.children
        node.leaves += child.leaves
        return
    row = rows[0]
    node.leaves.append(Node(row.ids, row.weights, node.stop, len(row.ids)))


def in_batches(leaves: Sequence[Node], token_budget: int, pass_tokens: int = LEAST_SAVING) -> Iterator[list[Node]]:
    """Leaves of like length in batches of at most `token_budget` tokens with their padding (at least one leaf each).

    The leaves are sorted by length and cut where that costs least: a batch costs its tokens, padding included, and
    `pass_tokens` for the pass itself (a shortest path over the places where one can cut).
    """
    ordered = sorted(leaves, key=lambda leaf: (leaf.length, leaf.ids))
    cheapest, cut = [0.0], [0]  # of the first so many leaves: the least cost, and where their last batch begins
    for stop, leaf in enumerate(ordered, start=1):
        starts = range(max(0, stop - max(1, token_budget // max(1, leaf.length))), stop)
        costs = [cheapest[start] + leaf.length * (stop - start) + pass_tokens for start in starts]
        least = min(costs)
        cheapest.append(least)
        cut.append(starts[costs.index(least)])
    batches, stop = list[list[Node]](), len(ordered)
    while stop:
        batches.append(ordered[cut[stop] : stop])
        stop = cut[stop]
    yield from reversed(batches)


def flat(rows: Sequence[Row]) -> Node:
    """No sharing at all: every row is a leaf of an empty root."""
    leaves = [Node(row.ids, row.weights, 0, len(row.ids), row.prompt) for row in rows]
    return Node((), (), 0, 0, leaves=leaves)


def step_batches(rows: Sequence[Row], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row indices of every optimiser step of an epoch: sessions in a seeded order, the rows of a session together.

    The rows of a pair are never parted: a step holds fewer than `size` rows rather than half a pair, and more if `size`
    is 1.
    """
    units: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        units.setdefault(row.pair or f"row {index}", []).append(index)
    sessions: dict[str, list[list[int]]] = {}
    for name, unit in units.items():
        sessions.setdefault(rows[unit[0]].group or name, []).append(unit)
    every = list(sessions.values())
    shuffled = np.random.default_rng([seed, epoch]).permutation(len(every))
    batches: list[list[int]] = []
    for unit in (unit for session in shuffled for unit in every[session]):
        if not batches or len(batches[-1]) + len(unit) > size:
            batches.append([])
        batches[-1] += unit
    return batches


@dataclass(slots=True)
class Layout:
    """How batches are computed; `token_budget` bounds the tokens of one forward pass.

    `kind`: tree (a shared prefix once, a pass a node) or padded (rows of like length, a pass a batch). `attention`:
    `short` (see `training/attention.py`), or the implementation that the model was loaded with. `loss_chunk`: so many
    tokens have logits at once; 0: all of a pass. `halvings`: how often a pass ran out of memory. `least_saving` and
    `pass_tokens`: what a node must save, and what a pass costs, in tokens; a self-test shares and pads all it can.
    """

    kind: Literal["tree", "padded"]
    token_budget: int
    attention: str = "sdpa"
    loss_chunk: int = 0
    halvings: int = 0
    least_saving: int = LEAST_SAVING
    pass_tokens: int = LEAST_SAVING

    def of(self, rows: Sequence[Row]) -> Node:
        """The rows of a batch, laid out."""
        tree = self.kind == "tree"
        return build_forest(merge_chains(rows), least_saving=self.least_saving) if tree else flat(rows)
