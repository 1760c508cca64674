"""Which session a call belongs to: the header `x-session-id`, else the `user` field, else a quiet gap tells."""

import hashlib
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from grokora_pipeline.sessions.table import public_name

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+|^-+")
_LONGEST = 80
_MOST_CLIENTS = 4096


def session_name(session: str) -> str:
    """A session id as it is stored, also as a file name: without personal data, different for different sessions."""
    # a name that had to be changed gets a hash, or `a/b` and `a-b` would be one session
    plain = _UNSAFE.sub("-", public_name(session[:1000]))  # redacting megabytes would take its time
    if plain == session and 0 < len(plain) <= _LONGEST:
        return plain
    digest = hashlib.sha256(session.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{plain[: _LONGEST - 9].lstrip('-') or 'session'}-{digest}"


class Sessions:
    """Names the sessions of clients that name none: a client that was quiet for `gap` seconds starts a new one."""

    def __init__(self, gap: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap, self._clock = gap, clock
        self._last: OrderedDict[object, tuple[str, float]] = OrderedDict()

    def name(self, session: str | None, client: object) -> str:
        """The session of a call. `client` is whatever tells clients apart; it is kept in memory only."""
        if session:
            return session_name(session)
        name, last_call = self._last.pop(client, ("", 0.0))
        now = self._clock()
        if not name or now - last_call > self._gap:
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self._last[client] = (name, now)
        if len(self._last) > _MOST_CLIENTS:
            self._last.popitem(last=False)
        return name
