"""Batches of OpenAI's, Anthropic's, Mistral's and Gemini's APIs: requests and replies that name each other by an id.

The two halves stand in one line, in one file, or in two files of one folder. In two, each file gives the calls whose
other half lies beside it, in whichever order they came; a call in two logs is one call.
"""

from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path

from grokora_pipeline.sessions.readers.call_logs import BATCHES, GEMINI, call
from grokora_pipeline.sessions.readers.common import UNFORESEEN, Source, UnreadableError, first_of, name_text
from grokora_pipeline.sessions.readers.conversations import chat_turns
from grokora_pipeline.sessions.readers.documents import Json, Record, Shelf, as_object, digest, peek_objects, records
from grokora_pipeline.sessions.turns import Item, Problem, Skipped

_IDS = ("custom_id", "key")
_MAX_BESIDE = 64  # files of a folder that are looked into, those with the likest names
_MISSING = {
    "replies": "its replies are missing: put the file that the batch gave back into the folder of its requests",
    "requests": "its requests are missing: put the file that the batch was made from into the folder of its replies",
    "": "several files of its folder hold its other half; give each batch a folder of its own",
}


def looks_like(head: bytes) -> bool:
    """Whether one of the first records is a half, or both, of a call in a batch."""
    return any(map(_sides, peek_objects(head)[:2]))


def _sides(value: Json) -> set[str]:
    """Which halves of a call a record holds: `requests`, `replies`; none if it is of no batch."""
    if not first_of(value, *_IDS):
        return set()
    pairs = [pair for pair in BATCHES if "custom_id" in value or pair == GEMINI]
    told = {side for pair in pairs for side, name in zip(("requests", "replies"), pair, strict=True) if name in value}
    # Gemini's halves have names that other logs have, too
    is_gemini = "contents" in as_object(value.get("request")) or "candidates" in as_object(value.get("response"))
    return told if "custom_id" in value or is_gemini else set()


def read(source: Source) -> Iterator[Item]:
    """A turn a call of which both halves are there; the others are counted."""
    held = Shelf()
    ids, sides = dict[str, int](), set[str]()
    for record in records(source):
        value = as_object(record.value) if isinstance(record, Record) else {}
        if isinstance(record, Problem):
            yield record
        elif own := _sides(value):
            name = name_text(first_of(value, *_IDS))
            ids.setdefault(name, record.number)
            sides |= own
            held.add(value, name)
        else:
            yield Problem("wrong_schema", record.offset, f"record {record.number} is no half of a call in a batch")
    if len(sides) == 1:
        for value in _beside(source):
            if (name := name_text(first_of(value, *_IDS))) in ids:
                held.add(value, name)
    whole, several = 0, False
    for name, halves in held.take():
        distinct = {digest(half): half for half in halves}.values()  # a copy of a file says nothing new
        joined = {key: one for half in distinct for key, one in half.items()}
        told = [side for half in distinct for side in _sides(half)]
        several = several or len(told) > 2
        if sorted(told) != ["replies", "requests"]:
            yield Skipped("half_of_a_call")
            continue
        whole += 1
        for chat in call(joined):
            yield from chat_turns(source, chat, ids[name])
    if not whole:
        missing = "" if several else "replies" if "requests" in sides else "requests"
        raise UnreadableError("no_contents", 0, f"it is one half of a batch; {_MISSING[missing]}")


def _beside(source: Source) -> Iterator[Json]:
    """The halves of calls in the other files of a file's folder."""
    own = source.path

    def unlike(path: Path) -> tuple[float, str]:
        return -SequenceMatcher(None, path.name, own.name).ratio(), path.name

    others = (path for path in own.parent.iterdir() if path != own and path.is_file() and not path.is_symlink())
    for path in islice(sorted(others, key=unlike), _MAX_BESIDE):
        other = Source(path, path.name)
        try:
            if looks_like(other.head(64 << 10)):
                values = (as_object(one.value) for one in records(other) if isinstance(one, Record))
                yield from (value for value in values if _sides(value))
        except (*UNFORESEEN, OSError, UnreadableError):  # that file's fault is told where it is read itself
            continue
