"""Exact duplicates, near duplicates and contradictions among examples.

The key of an example is its full prompt and completion. Similarity of two examples depends on these two alone, never on
the rest of the data, so that what was no near duplicate yesterday is none tomorrow.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from grokora_pipeline.models.messages import message_text
from grokora_pipeline.sessions.turns import Message

PERMUTATIONS = 128
SHINGLE = 5  # words
_WORD = re.compile(r"\w+|[^\w\s]")
Signatures = npt.NDArray[np.uint64]


def example_id(prompt: Sequence[Message], completion: Message) -> str:
    """SHA-256 over prompt and completion, without the ids of tool calls, which are random."""
    messages = [_without_ids(message) for message in (*prompt, completion)]
    return hashlib.sha256(orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)).hexdigest()


def prompt_id(prompt: Sequence[Message]) -> str:
    """SHA-256 over the prompt alone."""
    return hashlib.sha256(
        orjson.dumps([_without_ids(message) for message in prompt], option=orjson.OPT_SORT_KEYS)
    ).hexdigest()


def _without_ids(message: Message) -> Message:
    if "tool_calls" not in message and "tool_call_id" not in message:
        return message
    plain = {key: value for key, value in message.items() if key != "tool_call_id"}
    if isinstance(plain.get("tool_calls"), list):
        plain["tool_calls"] = [call.get("function") for call in plain["tool_calls"] if isinstance(call, dict)]
    return plain


def plain_text(messages: Iterable[Message]) -> str:
    """What an example says: texts and tool calls of all messages but the system's, which every call repeats."""
    parts = []
    for message in messages:
        if message.get("role") != "system":
            parts.append(message_text(message))
            parts += [
                f"{call['function'].get('name')} {call['function'].get('arguments')}"
                for call in message.get("tool_calls") or ()
                if isinstance(call, dict) and isinstance(call.get("function"), dict)
            ]
    return "\n".join(parts)


def signatures(texts: Sequence[str]) -> Signatures:
    """MinHash signatures, (texts, 128), of the sets of five-word shingles (Broder 1997), by datasketch."""
    from datasketch import MinHash

    base = MinHash(num_perm=PERMUTATIONS, seed=1)
    table = np.empty((len(texts), PERMUTATIONS), dtype=np.uint64)
    for row, text in enumerate(texts):
        sketch = base.copy()
        sketch.update_batch(list(_shingles(text)))
        table[row] = sketch.hashvalues
    return table


def _shingles(text: str) -> set[bytes]:
    words = _WORD.findall(text.lower())
    last = max(1, len(words) - SHINGLE + 1)
    return {" ".join(words[start : start + SHINGLE]).encode("utf-8", "replace") for start in range(last)}


def near_pairs(table: Signatures, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of rows whose estimated Jaccard similarity is at least `threshold`, by banded locality-sensitive hashing.

    Bands of four rows: two texts of similarity 0.9 miss each other in all 32 bands with probability 1e-15.
    """
    seen: set[tuple[int, int]] = set()
    width = 4
    for band in range(0, PERMUTATIONS, width):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for row, part in enumerate(table[:, band : band + width]):
            buckets[part.tobytes()].append(row)
        for rows in buckets.values():
            for place, second in enumerate(rows):
                for first in rows[:place]:
                    pair = (first, second)
                    if pair in seen:
                        continue
                    seen.add(pair)
                    if float(np.mean(table[first] == table[second])) >= threshold:
                        yield pair


class Groups:
    """Disjoint sets with path halving."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def find(self, item: int) -> int:
        """The set that an item is in."""
        parents = self._parents
        while parents[item] != item:
            parents[item] = item = parents[parents[item]]
        return item

    def join(self, first: int, second: int) -> None:
        """Make two sets one."""
        first, second = self.find(first), self.find(second)
        self._parents[max(first, second)] = min(first, second)


def clusters(table: Signatures, threshold: float) -> list[int]:
    """The near-duplicate cluster of each row: the smallest row that it is connected to."""
    groups = Groups(len(table))
    for first, second in near_pairs(table, threshold):
        groups.join(first, second)
    return [groups.find(row) for row in range(len(table))]


def contradictions(
    rows: Iterable[tuple[str, Sequence[Message], Message]], shown: int = 5
) -> tuple[int, list[dict[str, Any]]]:
    """How many prompts have different answers, and some of them: rows are (prompt id, prompt, completion)."""
    answers: dict[str, dict[str, None]] = defaultdict(dict)
    prompts: dict[str, str] = {}
    for key, prompt, completion in rows:
        answers[key][plain_text([completion])[:300]] = None
        prompts.setdefault(key, plain_text(prompt[-1:])[-300:])
    several = [key for key, found in answers.items() if len(found) > 1]
    examples: list[dict[str, Any]] = [
        {"prompt_end": prompts[key], "answers": list(answers[key])[:4]} for key in several[:shown]
    ]
    return len(several), examples
