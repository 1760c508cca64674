"""Scheduler: whose prompt is run next, and who may join the batch (no torch)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from grokora_pipeline.serving.engine.rows import Row

LONG_PREFILL_TOKENS = 64  # of a long prompt between two tokens of the running rows: about what such a step costs
MAX_OVERTAKEN = 4  # prefill rounds that may pass a row over for shorter ones, before it goes first
LOOK_AHEAD = 64  # waiting rows that are compared


@dataclass(slots=True)
class Scheduler:
    """Waiting rows, and the rows in the slots, slot by slot. The shortest rest of a prompt goes first, so that a long
    one does not hold up short answers; it is overtaken a few times at most, so that it is not starved either."""

    max_rows: int
    row_bytes: int  # of the keys and values of all rows in the slots, at their longest
    prefill_tokens: int  # of prompts in one round
    rows: list[Row] = field(default_factory=list)
    waiting: list[Row] = field(default_factory=list)
    mixes: bool = True  # rows of different adapters may share a pass
    pads: bool = True  # prompts of different lengths may share a pass

    def pick(
        self, cached: Callable[[Row], int], token_bytes: int, shares: Callable[[Row, Row], bool]
    ) -> tuple[list[Row], int]:
        """(rows whose prompts are run in one pass, tokens of each at most).

        Either several waiting rows that fit in whole, or one row's next part. `cached` counts the tokens of a waiting
        row that need no run; if `shares` says that two rows begin alike with what is not cached yet, the second waits
        for the first, and finds it there.
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
        first, budget, picked = order[0], self.prefill_tokens, list[Row]()
        if rest[first] > budget or first not in arrivals:
            picked.append(first)
            if rest[first] > budget and first.overtaken < MAX_OVERTAKEN and any(row.decoding for row in self.rows):
                budget = LONG_PREFILL_TOKENS
        else:
            most = 0
            for row in order:
                width = max(most, rest[row])  # rows are padded to the longest
                fits = row in arrivals and (len(picked) + 1) * width <= budget and (self.pads or not picked)
                if fits and self._admits(row, picked, token_bytes) and not any(shares(row, one) for one in picked):
                    picked.append(row)
                    most = width
        for row in rest:
            row.overtaken = 0 if row in picked else row.overtaken + 1
        return picked, budget

    def _admits(self, row: Row, joining: Sequence[Row], token_bytes: int) -> bool:
        """Whether a row finds a slot, and memory for its longest answer, beside the others; alone it always does."""
        others = [*self.rows, *joining]
        if not others:
            return True
        if not self.mixes and any(other.adapter is not row.adapter for other in others):
            return False
        longest = max(other.limit for other in [row, *others])
        return len(others) < self.max_rows and (len(others) + 1) * longest * token_bytes <= self.row_bytes
