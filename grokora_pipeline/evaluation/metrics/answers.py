"""What the scoring functions look at: an answer beside the expected one, and the values read out of both."""

import ast
import json
import re
from dataclasses import dataclass, field
from typing import Any

from grokora_pipeline.agents import AnswerType
from grokora_pipeline.models.messages import Message

_FENCE = re.compile(r"```[\w+-]*[^\S\n]*\n(.*?)\n?```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer beside the expected one. Both are assistant messages; log text in them is untrusted.

    `boxes` holds, for each expected call, the target's [left, top, right, bottom] in pixels, or None where only the
    exact coordinate counts. `nll` is the summed negative log-likelihood (nats) of the expected completion.
    `finished`: it ended by itself (finish reason `stop`), and was not cut at the limit.
    """

    prediction: Message
    reference: Message
    tools: list[dict[str, Any]] | None = None
    schema: dict[str, Any] | None = None
    answer_type: AnswerType = "text"
    boxes: list[list[float] | None] = field(default_factory=list)
    nll: float | None = None
    reference_tokens: int = 0
    new_tokens: int | None = None
    finished: bool | None = None
    seconds: float | None = None


Path = tuple[str | int, ...]
Leaf = tuple[Path, str]


def leaves(value: Any, path: Path = ()) -> list[Leaf]:
    """The leaf fields of a JSON value as (path, canonical JSON of the leaf); an empty container is a leaf itself."""
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in leaves(child, (*path, str(key)))]
    if isinstance(value, list) and value:
        return [leaf for index, child in enumerate(value) for leaf in leaves(child, (*path, index))]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return [(path, json.dumps(value, sort_keys=True))]


def code_tree(text: str) -> str | None:
    """The syntax tree of a Python answer (of its first fenced block, where it has one), without positions; None when
    it does not parse."""
    fenced = _FENCE.search(text)
    try:
        return ast.dump(ast.parse(fenced.group(1) if fenced else text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
