"""A new champion in rollout: a share of its agent's sessions, and the rule that decides whether it gets all of them.

Health is the share of calls, over a window, that ended without an error, with an answer of the agent's kind, not much
slower than what served before, and in sessions that nobody rated badly. The plan's figures: 97 % over 10 minutes.
"""

import hashlib
import math
import statistics
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

RolloutDecision = Literal["promote", "rollback"]
_MOST_SESSIONS = 4096


@dataclass(frozen=True, slots=True)
class Rule:
    """When a rollout ends. Ratings below `good_rating` make a session's call count as unhealthy."""

    health: float = 0.97
    window_seconds: float = 600.0
    min_requests: int = 20
    slower: float = 3.0  # times the median seconds of what served before
    good_rating: int = 4


@dataclass(frozen=True, slots=True)
class ObservedCall:
    """A call as the rollout sees it."""

    at: float
    healthy: bool
    seconds: float


class Rollout:
    """One version of one agent's champion in rollout since this object was made."""

    def __init__(
        self, version: str, share: float, rule: Rule | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.version, self.share, self._rule, self._clock = version, share, rule or Rule(), clock
        self._started = clock()
        self._calls: deque[ObservedCall] = deque()
        self._before: deque[ObservedCall] = deque()
        self._sessions: OrderedDict[str, bool] = OrderedDict()  # that the new version answered, and whether rated

    def takes(self, session: str) -> bool:
        """Whether a session belongs to the share; a session always gets the same answer."""
        # hashed with the version: the sessions that try one champion are not always the same ones that try the next
        number = int.from_bytes(hashlib.sha256(f"{self.version}\0{session}".encode()).digest()[:8])
        return number < self.share * 2**64

    def observe(self, session: str, version: str, healthy: bool, seconds: float) -> None:
        """Record a call of the agent that the version in rollout, or what served before, has answered."""
        if version != self.version:
            self._before.append(ObservedCall(self._clock(), healthy, seconds))
            return
        self._forget()
        usual = [call.seconds for call in self._before]
        slow = len(usual) >= self._rule.min_requests and seconds > self._rule.slower * statistics.median(usual)
        self._calls.append(ObservedCall(self._clock(), healthy and not slow, seconds))
        self._sessions.setdefault(session, False)
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)

    def rate(self, session: str, rating: int) -> None:
        """Record a session's rating; the first one counts as a call, if the version in rollout answered in it."""
        if self._sessions.get(session) is False:
            self._sessions[session] = True
            self._calls.append(ObservedCall(self._clock(), rating >= self._rule.good_rating, 0.0))

    def health(self) -> float:
        """The share of healthy calls in the window; 1 if there were none."""
        self._forget()
        return sum(call.healthy for call in self._calls) / len(self._calls) if self._calls else 1.0

    def decision(self) -> RolloutDecision | None:
        """After a whole window its health decides; before, a rollback if chance cannot explain the bad health."""
        health = self.health()
        calls = len(self._calls)
        if calls < self._rule.min_requests:
            return None
        if self._clock() - self._started >= self._rule.window_seconds:
            return "promote" if health >= self._rule.health else "rollback"
        # the upper end of Wilson's 95 % interval of a share (Wilson, 1927)
        z = 1.96
        spread = z * math.sqrt((health * (1 - health) + z * z / (4 * calls)) / calls)
        highest = (health + z * z / (2 * calls) + spread) / (1 + z * z / calls)
        return "rollback" if highest < self._rule.health else None

    def evidence(self) -> str:
        """The figures behind the decision, as a clause."""
        return f"health {self.health():.1%} of {len(self._calls)} calls in {self._rule.window_seconds:g} s"

    def _forget(self) -> None:
        oldest = self._clock() - self._rule.window_seconds
        for calls in (self._calls, self._before):
            while calls and calls[0].at < oldest:
                calls.popleft()
