"""Conversations that a Responses request goes on with: `previous_response_id`, and items that it names by their id.

The latest are kept as they were said. Older ones, and all after a restart, are read from the recordings: redacted, with
the session's own placeholders, which is how the model saw them, too. An id that was given out here holds the receipt of
its call, so that the recording is found without looking into others.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from grokora_pipeline.serving.gateway.protocol import ApiError, Json
from grokora_pipeline.serving.gateway.recorder import RECEIPT_LENGTH, Recorder
from grokora_pipeline.sessions.readers.bodies import is_reference

_Scans = dict[str, Iterator[Json]]
_OURS = re.compile(rf"[a-z]+_[0-9a-f]{{{RECEIPT_LENGTH}}}(?:[0-9a-f]{{8}})?")  # others' ids are longer
_MOST_RESPONSES = 1024  # in memory
_MOST_BYTES = 64 << 20


class _Response(NamedTuple):
    """What one response added to its conversation."""

    previous: str
    session: str
    input: list[Any]
    output: list[Any]
    size: int

    @classmethod
    def of(cls, session: str, body: Mapping[str, Any], reply: Mapping[str, Any]) -> "_Response":
        """A response with the input that it answers, as later requests continue it."""
        sent, output = body.get("input"), reply.get("output")
        items = [{"role": "user", "content": sent}] if isinstance(sent, str) else sent if isinstance(sent, list) else []
        output = output if isinstance(output, list) else []
        size = len(orjson.dumps([items, output]))
        return cls(str(body.get("previous_response_id") or ""), session, items, output, size)


class Conversations:
    """Responses that a later request may continue, by id: the latest in memory, others in recordings. Thread-safe."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._lock = recorder, threading.Lock()
        self._kept: OrderedDict[str, _Response] = OrderedDict()
        self._bytes = 0

    def remember(self, session: str, body: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Keep a response for requests that continue it; one of a request with `store: false` is not kept."""
        identity = reply.get("id")
        if body.get("store") is False or not isinstance(identity, str):
            return
        with self._lock:
            response = _Response.of(session, body, reply)
            # an upstream may give an id twice; the first one's bytes are then no longer held
            replaced = self._kept.pop(identity, None)
            self._kept[identity] = response
            self._bytes += response.size - (replaced.size if replaced else 0)
            while len(self._kept) > _MOST_RESPONSES or self._bytes > _MOST_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].size

    def resolve(self, body: Json, session: str = "") -> tuple[Json, str]:
        """(the request with all that it refers to in its input, the session that it goes on with or "").

        `session` is where to look first. Blocks: it may read recordings. Raises ApiError 400 for what is not known.
        """
        previous, items = body.get("previous_response_id"), body.get("input")
        references = [one for one in items if is_reference(one)] if isinstance(items, list) else []
        if not previous and not references:
            return body, ""
        sent = [{"role": "user", "content": items}] if isinstance(items, str) else items if items is not None else []
        if not isinstance(sent, list):
            return body, ""
        scans: _Scans = {}
        chain: list[_Response] = []
        identity, size = str(previous or ""), 0
        while identity:
            last = chain[-1].session if chain else session
            chain.append(self._find(identity, last, "previous_response_id", scans))
            identity, size = chain[-1].previous, size + chain[-1].size
            if size > _MOST_BYTES or len(chain) > _MOST_RESPONSES:
                raise ApiError(400, "The conversation is too long to go on with.", param="previous_response_id")
        history = [item for one in reversed(chain) for item in (*one.input, *one.output)]
        whole = [self._item(one, session, scans) if is_reference(one) else one for one in (*history, *sent)]
        return {**body, "input": whole}, chain[0].session if chain else ""

    def _item(self, reference: Mapping[str, Any], session: str, scans: _Scans) -> Any:
        """The item that an `item_reference` means. The AI SDK sends all earlier items of a conversation so."""
        identity = str(reference.get("id"))
        receipt = identity.rpartition("_")[2][:RECEIPT_LENGTH]
        for item in self._find(f"resp_{receipt}", session, "input", scans).output:
            if isinstance(item, Mapping) and item.get("id") == identity:
                return item
        raise _unknown(identity, "input")

    def _find(self, identity: str, session: str, param: str, scans: _Scans) -> _Response:
        """A response by its id. `scans` goes on through each session's recordings where the search before ended."""
        with self._lock:
            kept = self._kept.get(identity)
        if kept:
            return kept
        receipt = identity.removeprefix("resp_")
        for name in dict.fromkeys(filter(None, (session, self._recorder.session_of(receipt)))):
            for line in scans.setdefault(name, self._recorder.calls_of(name, b'"api":"responses"')):
                request, reply = line.get("request"), line.get("response")
                if isinstance(request, dict) and isinstance(reply, dict):
                    self.remember(name, request, reply)
                    if reply.get("id") == identity and request.get("store") is not False:
                        return _Response.of(name, request, reply)
        raise _unknown(identity, param)


def for_upstream(body: Json, whole: Json) -> Json:
    """What an upstream gets of a request whose references are resolved in `whole`: it knows nothing of our answers.

    Ids of ours leave the items, and so does reasoning, which an upstream takes back only if it wrote it itself.
    """
    items = body.get("input")
    names = [body.get("previous_response_id")]
    names += [one.get("id") for one in items if is_reference(one)] if isinstance(items, list) else []
    if whole is body or not any(_OURS.fullmatch(str(name)) for name in names):
        return body
    sent = [one for one in whole["input"] if not (isinstance(one, dict) and one.get("type") == "reasoning")]
    sent = [{name: one[name] for name in one if name != "id"} if isinstance(one, dict) else one for one in sent]
    return {**{name: body[name] for name in body if name != "previous_response_id"}, "input": sent}


def _unknown(identity: str, param: str) -> ApiError:
    code = "previous_response_not_found" if param == "previous_response_id" else "invalid_value"
    text = f"{identity!r} is not known here, or was not to be stored. Send the whole input."
    return ApiError(400, text, param=param, code=code)
