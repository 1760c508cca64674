"""Where two sequences differ: of token ids that share a cached prefix, or of a text and the one that was expected."""

from collections.abc import Sequence


def first_difference(one: Sequence[object], other: Sequence[object]) -> int:
    """The index of the first items that differ; the shorter length if one sequence begins with the other."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
