"""Exact duplicates, near duplicates and contradictions among examples.

The key of an example is its full prompt and completion. Near duplicates are told by what differs: shingles that stand
in many rows (a user prompt that every session repeats) say nothing about any two of them and are left out.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from grokora_pipeline.models.messages import Message, message_text
from grokora_pipeline.models.words import words

PERMUTATIONS = 128
SHINGLE = 5  # tokens
# A shingle of more than a tenth of the rows, and of more than 20 rows, tells no two of them apart. A cluster over such
# a shingle could take half of the validation share by itself; below 20 rows a share of the rows is chance.
COMMON_SHARE, COMMON_ROWS = 0.1, 20
SAMPLE = 2000  # rows from which the common shingles are counted: a share of 0.1 is then known to +- 0.007
MISS = 1e-5  # the largest chance that two rows exactly at the threshold meet in no band
NEIGHBOURS = 4  # rows of a band's bucket, the most similar ones, that a row is compared with beside the first
_BLOCK = 8192  # rows compared at once: 4 MiB of signatures a side
Hashes = npt.NDArray[np.uint32]
Signatures = npt.NDArray[np.uint32]
Pairs = npt.NDArray[np.int64]
Item = TypeVar("Item")


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


class _TokenHashes(dict[str, int]):
    """64-bit hash by token. Python's own `hash` differs from process to process, and a dataset must not."""

    def __missing__(self, token: str) -> int:
        if len(self) > 200_000:  # about 30 MB
            self.clear()
        digest = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[token] = int.from_bytes(digest, "little")
        return value


def shingles(text: str, hashes: dict[str, int] | None = None) -> Hashes:
    """The five-token shingles (Broder 1997) of a text as 32-bit hashes, in order; a shorter text is one shingle."""
    hashes = _TokenHashes() if hashes is None else hashes
    names = words(text, signs=True)
    names += [""] * (SHINGLE - len(names))
    tokens = np.fromiter(map(hashes.__getitem__, names), dtype=np.uint64, count=len(names))
    last = len(tokens) - SHINGLE + 1
    mixed = np.zeros(last, dtype=np.uint64)
    for start in range(SHINGLE):  # multiplications wrap around: arithmetic modulo 2**64
        mixed ^= tokens[start : start + last]
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def common_shingles(texts: Iterable[str]) -> Hashes:
    """The sorted shingles of more than COMMON_SHARE of the texts; none for a few texts."""
    hashes = _TokenHashes()
    sets = [np.unique(shingles(text, hashes)) for text in texts]
    if len(sets) <= COMMON_ROWS:
        return np.empty(0, dtype=np.uint32)
    values, counts = np.unique(np.concatenate(sets), return_counts=True)
    common: Hashes = values[counts > max(COMMON_ROWS, COMMON_SHARE * len(sets))]
    return common


def signatures(rows: Sequence[Item], text_of: Callable[[Item], str]) -> Signatures:
    """MinHash signatures, (rows, 128), by datasketch, of the shingles that are not common to many of the rows.

    The common ones are counted over evenly spaced rows, so rows should come in an order that says nothing about them,
    such as that of their hashes. A row of common shingles alone keeps them all: nothing else could tell which others it
    is like. Texts are made one at a time, since all of them together may be larger than memory.
    """
    from datasketch import MinHash

    common = common_shingles(text_of(row) for row in rows[:: -(-len(rows) // SAMPLE) or 1])
    hashes = _TokenHashes()
    base = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)
    table = np.empty((len(rows), PERMUTATIONS), dtype=np.uint32)
    for number, row in enumerate(rows):
        every = own = shingles(text_of(row), hashes)
        if len(common):
            own = every[common[np.searchsorted(common, every) % len(common)] != every]
        sketch = base.copy()
        sketch.update_batch((own if len(own) else every).tolist())
        table[number] = sketch.hashvalues
    return table


def near_pairs(table: Signatures, threshold: float) -> Pairs:
    """(pairs, 2) rows, the larger one first, whose estimated Jaccard similarity is at least `threshold`; sorted.

    Banded locality-sensitive hashing, one band in memory at a time. Within a bucket a row is compared with the bucket's
    first row and with its NEIGHBOURS in the order of their signatures, which are the most similar ones: work and
    memory are linear however many rows are alike, and of a large cluster not every pair is listed, but every row is
    tied to the first. (datasketch.MinHashLSH keeps a Python set a bucket: 650 MB for 100,000 different rows.)
    """
    rows = len(table)
    width = max((r for r in range(1, 33) if (1 - threshold**r) ** (PERMUTATIONS // r) <= MISS), default=1)
    nearest = np.arange(
        rows
    )  # the first row that each is known to be like; rows that are like the same one are not compared
    pairs = np.empty(0, dtype=np.int64)
    for start in range(0, PERMUTATIONS - width + 1 if rows else 0, width):
        turned = np.ascontiguousarray(np.roll(table, -start, axis=1)[:, :32])
        order = np.argsort(turned.view(f"V{turned.itemsize * 32}").ravel(), kind="stable")
        keys = turned[order, :width]
        opens = np.ones(rows, dtype=bool)
        opens[1:] = (keys[1:] != keys[:-1]).any(axis=1)
        bucket = np.cumsum(opens) - 1
        firsts = np.minimum.reduceat(order, np.flatnonzero(opens))[bucket]
        for step in range(min(NEIGHBOURS, rows - 1) + 1):
            partner = np.roll(order, step) if step else firsts
            root = nearest[order]
            tied = (root == nearest[partner]) & (nearest[root] == root)
            places = np.flatnonzero((bucket == np.roll(bucket, step)) & ~tied)
            high, low = np.maximum(order, partner)[places], np.minimum(order, partner)[places]
            similar = _similar(table, high, low, threshold)
            high, low = high[similar], low[similar]
            np.minimum.at(nearest, high, low)
            pairs = np.union1d(pairs, high * rows + low)
    return np.stack([pairs // max(1, rows), pairs % max(1, rows)], axis=1)


def _similar(table: Signatures, left: Pairs, right: Pairs, threshold: float) -> npt.NDArray[np.bool_]:
    """Whether each row of `left` is like the one of `right`; signatures are gathered block by block."""
    similar = np.empty(len(left), dtype=bool)
    for start in range(0, len(left), _BLOCK):
        part = slice(start, start + _BLOCK)
        similar[part] = (table[left[part]] == table[right[part]]).mean(axis=1) >= threshold
    return similar


def clusters(pairs: Pairs, rows: int) -> list[int]:
    """The near-duplicate cluster of each row: its representative, the first row that it is like, or itself.

    A member is like its representative, not merely like another member: clusters do not chain.
    """
    representative = np.arange(rows)
    ends = np.searchsorted(pairs[:, 0], np.arange(rows + 1))
    for row, (start, end) in enumerate(pairwise(ends)):
        likes = pairs[start:end, 1]
        likes = likes[representative[likes] == likes]
        if len(likes):
            representative[row] = likes[0]
    return [int(row) for row in representative]


def contradictions(
    rows: Iterable[tuple[str, Sequence[Message], Message]], shown: int = 5
) -> tuple[int, list[dict[str, Any]]]:
    """How many prompts have different answers, and some of them: rows are (prompt id, prompt, completion)."""
    answers: dict[str, dict[str, None]] = defaultdict(dict)
    prompts: dict[str, str] = {}
    for key, prompt, completion in rows:
        answers[key][plain_text([completion])[:300]] = None
        prompts.setdefault(key, plain_text(prompt[-1:])[-300:])
    several = [key for key, texts in answers.items() if len(texts) > 1]
    examples: list[dict[str, Any]] = [
        {"prompt_end": prompts[key], "answers": list(answers[key])[:4]} for key in several[:shown]
    ]
    return len(several), examples
