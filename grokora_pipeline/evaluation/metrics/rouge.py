"""ROUGE-1, ROUGE-2 and ROUGE-L F-measures (Lin 2004), equal to Google's `rouge_score` without stemming.

That package is the reference in the tests; importing it takes seconds, since it brings nltk and scipy. Its own tokens
are ASCII words alone, so that two equal Chinese answers score 0; here every script has words (see `models.words`).
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from grokora_pipeline.models.words import words


@lru_cache(maxsize=4096)
def rouge(prediction: str, reference: str) -> dict[str, float]:
    """F-measures in 0-1 by name."""
    ours, theirs = words(prediction), words(reference)
    scores = {"rougeL": _f_measure(common_subsequence(ours, theirs), len(ours), len(theirs))}
    for n in (1, 2):
        # not strict: the slices that make the n-grams are of unequal length
        a, b = (Counter(zip(*(tokens[start:] for start in range(n)), strict=False)) for tokens in (ours, theirs))
        scores[f"rouge{n}"] = _f_measure((a & b).total(), a.total(), b.total())
    return scores


def _f_measure(shared: int, predicted: int, expected: int) -> float:
    return 2 * shared / (predicted + expected) if shared else 0.0


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence, a row of the table being the bits of one integer (Hyyrö 2004)."""
    # Python's integers have any number of bits, so that a megabyte's row is one addition instead of a table
    positions: dict[str, int] = {}
    for position, word in enumerate(left):
        positions[word] = positions.get(word, 0) | 1 << position
    whole = (1 << len(left)) - 1
    row = whole
    for word in right:
        match = row & positions.get(word, 0)
        row = (row + match | row - match) & whole
    return len(left) - row.bit_count()
