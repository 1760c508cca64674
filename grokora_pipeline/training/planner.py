"""What a layout costs, and how many tokens a forward pass of it should hold. No torch.

Cost, in tokens through the linear layers: a pass costs `PASS_TOKENS`, since starting its kernels takes as long as so
many tokens; a token costs 1, and its attention keys / (6 h) x `ATTENTION` on top (a decoder layer of hidden size h has
about 12 h^2 weights, 24 h^2 operations a token, and its attention 4 h a key).
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from grokora_pipeline.training.layout import LEAST_SAVING, Layout, Node, Row, in_batches

# cpu: fitted to measured steps of the sample's agents (2 cores); cuda: an assumption, not measured yet.
PASS_TOKENS = {"cpu": LEAST_SAVING, "cuda": 512}
ATTENTION = {"cpu": 2.0, "cuda": 1.0}
BUDGETS = (4096, 2048, 1024, 512, 256, 128, 64, 1)
_STEPS = 20  # so many steps of the schedule stand for all


def passes(node: Node, layout: Layout) -> Iterator[tuple[int, int]]:
    """(tokens with padding, keys each looks at) of every forward pass of a laid-out batch."""
    for child in node.children:
        yield child.length, child.stop
        yield from passes(child, layout)
    for batch in in_batches(node.leaves, layout.token_budget):
        yield batch_size(batch)


def batch_size(batch: Sequence[Node]) -> tuple[int, int]:
    """(tokens with padding, keys each looks at) of a pass over leaves."""
    width = max(leaf.length for leaf in batch)
    return width * len(batch), width + batch[0].start


def cost(steps: Sequence[Sequence[Row]], layout: Layout, hidden: int, device: str) -> float:
    """Predicted cost of the steps in one layout (see the module's text)."""
    every = (each for rows in steps[:_STEPS] for each in passes(layout.of(rows), layout))
    return sum(PASS_TOKENS[device] + tokens * (1 + ATTENTION[device] * keys / (6 * hidden)) for tokens, keys in every)


def token_budgets(
    steps: Sequence[Sequence[Row]], kind: Literal["tree", "padded"], hidden: int, device: str
) -> dict[int, float]:
    """Token budgets of a forward pass and what the steps cost with them, cheapest first. Costs within a tenth count as
    equal, and the largest of equal ones comes first."""
    costs = {tokens: cost(steps, Layout(kind, tokens), hidden, device) for tokens in BUDGETS}
    least = min(costs.values())
    return dict(sorted(costs.items(), key=lambda item: round(5 * item[1] / least)))
