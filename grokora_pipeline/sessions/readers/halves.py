"""Calls whose request and reply are records of their own and name each other by an id: logs of proxies and clients."""

import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
import zstandard

from grokora_pipeline.sessions.readers.bodies import body_in, is_reply, is_request
from grokora_pipeline.sessions.readers.common import name_text
from grokora_pipeline.sessions.readers.documents import (
    SESSION_NAMES,
    TIMES,
    Json,
    as_object,
    peek_objects,
    unpack,
)

MAX_WAITING = 64 << 20  # packed bytes of requests that wait for their replies; of more the oldest is given up
_Ids = frozenset[tuple[str, str]]

_MARKS = re.compile(r"[^a-z]")
_ID = re.compile(r".*(?:id|uuid|inreplyto|replyto|key)")
# Ids of one call, by which a request and a reply are never of two; other ids are so once they have joined two halves.
_OF_A_CALL = {"requestid", "reqid", "callid", "correlationid", "exchangeid", "interactionid", "completionid"}
_REFERENCES = _OF_A_CALL | {"inreplyto", "replyto", "parentid", "parentuuid"}  # a reply's name for its request's `id`
_OF_MORE = {_MARKS.sub("", name.lower()) for name in SESSION_NAMES}
_OF_MORE |= {"pid", "tid", "userid", "modelid", "projectid", "organizationid", "orgid", "apikey"}
_SAYS_REQUEST = re.compile(r"\breq(?:uest)?\b|request")


class Half(NamedTuple):
    """One side of a call, and the ids that its record holds."""

    is_request: bool
    body: Any  # an object, or a streamed reply: its events as a list or as text
    ids: dict[str, str]


def half(record: Mapping[str, object]) -> Half | None:
    """The side of a call that a record holds, itself or at most two members deep; None if it holds none, or both."""
    asked, said = body_in(record, is_request), body_in(record, is_reply)
    body = asked or said
    if body is None or (asked and said):
        return None
    ids: dict[str, str] = {}
    for own in (record, *(one for one in map(as_object, record.values()) if one != body)):
        for key, value in own.items():
            name = _MARKS.sub("", key.lower())
            if _ID.fullmatch(name) and name not in _OF_MORE and (text := name_text(value)):
                ids.setdefault(name, text)
    return Half(bool(asked), body, ids)


def looks_like(head: bytes) -> bool:
    """Whether the first records hold a request that names an id, and one says so or its reply is among them."""
    sides = [(value, one) for value in peek_objects(head) if (one := half(value)) and one.ids]
    told = (text.lower() for value, _ in sides for key in value for text in (key, name_text(value[key])[:40]))
    has_reply = any(not one.is_request for _, one in sides)
    return any(one.is_request for _, one in sides) and (has_reply or any(map(_SAYS_REQUEST.search, told)))


class Halves:
    """The requests of a file that wait for their replies."""

    def __init__(self) -> None:
        self.seen = False  # whether a half was met: other records of such a file are events
        self.lost = 0  # halves whose other one is not there
        self._waiting: OrderedDict[_Ids, bytes] = OrderedDict()
        self._named: defaultdict[tuple[str, str], set[_Ids]] = defaultdict(set)
        self._size = 0
        self._joining = set(_OF_A_CALL)  # the names that two halves of one call agree in

    def take(self, record: Json) -> Json | None:
        """The record, or for a reply the whole call; None for a half whose other one is not there (yet).

        A request that waits is replaced by another one with the same ids, which tries it again.
        """
        one = None if {"request", "response"} <= record.keys() else half(record)
        if one is None or not one.ids:
            return record
        self.seen = True
        if one.is_request:
            self._hold(frozenset(one.ids.items()), zstandard.compress(orjson.dumps(record), 1))
            return None
        if (key := self._asked_by(one)) is None:
            self.lost += 1
            return None
        asked: Json = unpack(self._forget(key))
        request, times = half(asked), {name: asked[name] for name in TIMES if name in asked}
        return {**asked, **record, **times, "request": request and request.body, "response": one.body}

    def _hold(self, key: _Ids, packed: bytes) -> None:
        gone = [key] if key in self._waiting else []
        self._size += len(packed)
        while gone or (self._waiting and self._size > MAX_WAITING):
            self.lost += 1
            self._forget(gone.pop() if gone else next(iter(self._waiting)))
        self._waiting[key] = packed
        for one in key:
            self._named[one].add(key)

    def _forget(self, key: _Ids) -> bytes:
        for one in key:
            self._named[one].discard(key)
        packed = self._waiting.pop(key)
        self._size -= len(packed)
        return packed

    def _asked_by(self, reply: Half) -> _Ids | None:
        """The waiting request that a reply agrees with in most ids; None if there is none, or several."""
        named = {("id", text) for name, text in reply.ids.items() if name in _REFERENCES}
        shared = Counter(key for one in named | reply.ids.items() for key in self._named.get(one, ()))
        strict = {name: text for name, text in reply.ids.items() if name in self._joining}
        may_be = [key for key in shared if all(strict.get(name, text) == text for name, text in key)]
        best = [key for key in may_be if shared[key] == max(shared[one] for one in may_be)]
        if len(best) != 1:
            return None
        self._joining |= {name for name, _ in best[0] & reply.ids.items()}
        return best[0]

    def left(self) -> int:
        """How many halves had no other one, once all records were read."""
        return self.lost + len(self._waiting)
