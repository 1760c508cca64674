"""What the scoring functions look at: an answer beside the expected one, and the values read out of both."""

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grokora_pipeline.agents import AnswerType
from grokora_pipeline.models.messages import Message

_FENCE = re.compile(r"```[\w+-]*[^\S\n]*\n(.*?)\n?```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer beside the expected one. Both are assistant messages; log text in them is untrusted.

    `nll` is the summed negative log-likelihood (nats) of the expected completion.
    `finished`: it ended by itself (finish reason `stop`), and was not cut at the limit.
    """

    prediction: Message
    reference: Message
    tools: list[dict[str, Any]] | None = None
    schema: dict[str, Any] | None = None
    answer_type: AnswerType = "text"
    nll: float | None = None
    reference_tokens: int = 0
    new_tokens: int | None = None
    finished: bool | None = None


MOST_PAIRS = 10_000  # of items of two lists that are compared with each other; longer lists match by index
Path = tuple[str | int, ...]
Leaf = tuple[Path, str]


def leaves(value: Any, path: Path = (), beside: Any = None) -> list[Leaf]:
    """The leaf fields of a JSON value as (path, canonical JSON of the leaf); an empty container is a leaf itself.

    `beside` is the value that it will be compared with: a list's items then have the index of the item that they match
    there, so that one item too many does not make all that follow it wrong.
    """
    if isinstance(value, dict) and value:
        fields = beside if isinstance(beside, dict) else {}
        return [leaf for key, child in value.items() for leaf in leaves(child, (*path, str(key)), fields.get(key))]
    if isinstance(value, list) and value:
        others = beside if isinstance(beside, list) else []
        indices = matching(value, others) if others else range(len(value))
        return [
            leaf
            for index, child in zip(indices, value, strict=True)
            for leaf in leaves(child, (*path, index), others[index] if index < len(others) else None)
        ]
    if isinstance(value, float) and value.is_integer():  # 1.0 and 1 are one number in JSON
        value = int(value)
    return [(path, json.dumps(value, sort_keys=True))]


def matching(predicted: Sequence[Any], expected: Sequence[Any]) -> list[int]:
    """For each predicted item the index of the expected one it stands for; of others, an index behind all of these.

    Both keep their order, as in an edit distance (Needleman & Wunsch 1970): a click at [20, 10] is not one at [10, 20].
    """
    if len(predicted) * len(expected) > MOST_PAIRS or predicted == expected:
        return list(range(len(predicted)))
    ours, theirs = (
        [(Counter(fields), {path for path, _ in fields}) for fields in map(leaves, items)]
        for items in (predicted, expected)
    )
    # most of all equal leaves count, then equal names of fields, then that there is an item at all
    alike = [[1e-6 + (a & b).total() + 1e-3 * len(mine & other) for b, other in theirs] for a, mine in ours]
    # best[i][j]: of the first i given and the first j expected items
    best = [[0.0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i, row in enumerate(alike, 1):
        for j, pair in enumerate(row, 1):
            best[i][j] = max(best[i - 1][j - 1] + pair, best[i - 1][j], best[i][j - 1])
    indices, i, j = [len(theirs) + index for index in range(len(ours))], len(ours), len(theirs)
    while i and j:
        if best[i][j] == best[i - 1][j - 1] + alike[i - 1][j - 1]:
            i, j = i - 1, j - 1
            indices[i] = j
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return indices


def code_tree(text: str) -> str | None:
    """The syntax tree of a Python answer (of its first fenced block, if it has one), without positions; None when
    it does not parse."""
    fenced = _FENCE.search(text)
    try:
        return ast.dump(ast.parse(fenced.group(1) if fenced else text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
