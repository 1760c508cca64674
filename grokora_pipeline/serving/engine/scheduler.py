"""Scheduler: whose prompt is run next, and who may join the batch (no torch)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from grokora_pipeline.serving.engine.prefix_cache import BLOCK
from grokora_pipeline.serving.engine.rows import ActiveRow

FIRST_CHUNK = 64  # tokens of a long prompt's first part, before anything is measured
LEAST_CHUNK = 16  # tokens: fewer cost as much, because a pass reads all weights
LONG_SHARE = 1 / 3  # of the time that running rows take is added for long prompts: short answers stay under 2x alone
CHUNK_STEPS = 2.0  # steps of the running rows that a part may take, about half of it for reading the weights
QUIET_SECONDS = 0.1  # that a part may take if no row is running: a short request that arrives waits for its end
MAX_OVERTAKEN = 4  # prefill rounds that may pass a row over for shorter ones, before it goes first
LOOK_AHEAD = 64  # waiting rows that are compared


@dataclass(slots=True)
class PrefillPace:
    """How much of a long prompt is run between two tokens of the running rows, by measured time.

    Every step of the running rows earns LONG_SHARE of its seconds for long prompts; a part is run when it is paid for.
    """

    token_seconds: float = 0.0  # of a token of a long prompt, lately: it grows with the context
    step_seconds: float = 0.0  # of one more token for every running row, lately
    credit: float = 0.0  # seconds

    def tokens(self, *, busy: bool) -> int:
        """Tokens of a long prompt's next part; 0 if running rows (`busy`) must not wait for it yet."""
        if not self.token_seconds:
            return FIRST_CHUNK
        seconds = CHUNK_STEPS * self.step_seconds if busy else QUIET_SECONDS
        tokens = max(LEAST_CHUNK, int(seconds / self.token_seconds))
        return tokens if not busy or self.credit >= tokens * self.token_seconds else 0

    def record_part(self, tokens: int, seconds: float) -> None:
        """Measure and pay for a part of a long prompt that was run."""
        self.token_seconds = _recent(self.token_seconds, seconds / tokens)
        self.credit = max(0.0, self.credit - seconds)

    def record_step(self, seconds: float) -> None:
        """Measure a step of the running rows, which earns seconds for long prompts."""
        self.step_seconds = _recent(self.step_seconds, seconds)
        # no more than one part's: what a quiet hour earned must not hold up the rows after it
        limit = max(CHUNK_STEPS * self.step_seconds, LEAST_CHUNK * self.token_seconds)
        self.credit = min(self.credit + LONG_SHARE * seconds, limit)


def _recent(average: float, value: float) -> float:
    """The moving average after one more value."""
    return (average + value) / 2 if average else value


@dataclass(slots=True)
class Scheduler:
    """Waiting rows, and the rows in the slots, slot by slot. The shortest rest of a prompt goes first, so that a long
    one does not hold up short answers; it is overtaken a few times at most, so that it is not starved either."""

    max_rows: int
    row_bytes: int  # of the keys and values of all rows in the slots, at their longest
    prefill_tokens: int  # of prompts in one round
    rows: list[ActiveRow] = field(default_factory=list)
    waiting: list[ActiveRow] = field(default_factory=list)
    mixes: bool = True  # rows of different adapters may share a pass
    pads: bool = True  # prompts of different lengths may share a pass
    pace: PrefillPace | None = None  # None: long prompts take what they need (evaluation: nobody waits for a token)

    def pick(self, cached: Callable[[ActiveRow], int], token_bytes: int) -> tuple[list[ActiveRow], int]:
        """(rows whose prompts are run in one pass, tokens of each at most).

        Either several waiting rows that fit in whole, or one row's next part. `cached` counts the tokens of a waiting
        row that need no run; of two rows that begin alike with what is not cached yet, the second waits for the first,
        and finds it there.
        """
        rest = {row: row.remaining for row in self.rows if not row.decoding}
        arrivals = [row for row in self.waiting[:LOOK_AHEAD] if self._admits(row, [], token_bytes)]
        rest |= {row: row.remaining - cached(row) for row in arrivals}
        overdue = [row for row in [*self.rows, *self.waiting[:LOOK_AHEAD]] if row.overtaken >= MAX_OVERTAKEN]
        if any(row not in rest for row in overdue):  # it finds no room: nobody else joins until enough have left
            rest = {row: tokens for row, tokens in rest.items() if row in self.rows}
        if not rest:
            return [], 0
        # the overdue first, in the order of their arrival (sorting is stable), then the shortest
        order = sorted(rest, key=lambda row: -1 if row.overtaken >= MAX_OVERTAKEN else rest[row])
        budget, picked = self.prefill_tokens, list[ActiveRow]()
        if self.pace:
            part = min(budget, self.pace.tokens(busy=any(row.decoding for row in self.rows)))
            if not part and not (order := [row for row in order if row in arrivals and rest[row] <= budget]):
                return [], 0
        if rest[order[0]] > budget or order[0] not in arrivals:
            picked.append(order[0])
            budget = part if self.pace else budget
        else:
            most = 0
            for row in order:
                width = max(most, rest[row])  # rows are padded to the longest
                fits = row in arrivals and (len(picked) + 1) * width <= budget and (self.pads or not picked)
                end = len(row.tokens) - rest[row] + BLOCK  # of the first block that is not cached yet
                alike = any(
                    one.adapter is row.adapter
                    and end < min(len(row.tokens), len(one.tokens))
                    and row.tokens[:end] == one.tokens[:end]
                    for one in picked
                )
                if fits and not alike and self._admits(row, picked, token_bytes):
                    picked.append(row)
                    most = width
        for row in rest:
            row.overtaken = 0 if row in picked else row.overtaken + 1
        return picked, budget

    def _admits(self, row: ActiveRow, joining: Sequence[ActiveRow], token_bytes: int) -> bool:
        """Whether a row finds a slot, and memory for its longest answer, beside the others; alone it always does."""
        others = [*self.rows, *joining]
        if not others:
            return True
        if not self.mixes and any(other.adapter is not row.adapter for other in others):
            return False
        longest = max(other.limit for other in [row, *others])
        return len(others) < self.max_rows and (len(others) + 1) * longest * token_bytes <= self.row_bytes
