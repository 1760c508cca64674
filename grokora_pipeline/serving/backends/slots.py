"""Which answer gets a slot of llama.cpp, and when: adapter after adapter, within a fairness bound.

llama-server puts only slots with the same adapters into one pass, and the first slot that generates decides whose pass
it is: slots with other adapters stand still until its whole group has ended (b11549, `pre_decode`). So answers are
admitted by adapter, and long ones run in turns, between which another adapter may go first.
"""

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from grokora_pipeline.models.sequences import first_difference

MAX_OVERTAKEN = 16  # turns of the adapter that runs, which an older waiting turn of another one lets pass


@dataclass(eq=False, slots=True)
class SlotTurn:
    """A part of an answer that waits for a slot or has one; `slot` gives its number."""

    adapter: str | None
    tokens: list[int]  # the prompt, and what of the answer there is
    cells: int  # of the KV cache, for `tokens` and what this turn may add
    slot: Future[int] = field(default_factory=Future)
    overtaken: int = 0


@dataclass(slots=True)
class _Slot:
    adapter: str | None = None
    tokens: list[int] = field(default_factory=list)  # whose keys and values it holds
    used: int = 0  # when, by the count of admitted turns
    turn: SlotTurn | None = None


class SlotQueue:
    """The slots of one llama-server, which share `cells` of KV cache. Thread-safe."""

    def __init__(self, slots: int, cells: int) -> None:
        self._slots = [_Slot() for _ in range(slots)]
        self._cells, self._admitted = cells, 0
        self._waiting: list[SlotTurn] = []
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """Turns that have a slot."""
        return sum(slot.turn is not None for slot in self._slots)

    @property
    def waiting(self) -> int:
        """Turns that have none yet."""
        return len(self._waiting)

    def join(self, turn: SlotTurn) -> None:
        """Queue a turn; its `slot` is set as soon as it may run. `leave` must follow, whatever happens."""
        with self._lock:
            self._waiting.append(turn)
            self._admit()

    def leave(self, turn: SlotTurn) -> None:
        """End a turn, or stop waiting for it; its slot keeps the keys and values of its tokens."""
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
            for slot in self._slots:
                if slot.turn is turn:
                    slot.turn, slot.tokens = None, list(turn.tokens)
            self._admit()

    def _admit(self) -> None:
        while turn := self._next():
            self._waiting.remove(turn)
            if not turn.slot.set_running_or_notify_cancel():  # its caller left a moment ago
                continue
            slot = self._choose_slot(turn)
            self._admitted += 1
            slot.turn, slot.adapter, slot.used = turn, turn.adapter, self._admitted
            turn.slot.set_result(self._slots.index(slot))

    def _next(self) -> SlotTurn | None:
        """The turn to admit now, if any; those that it passes are counted as overtaken."""
        running = [slot.turn for slot in self._slots if slot.turn]
        if not self._waiting or len(running) == len(self._slots):
            return None
        if not running:
            return self._waiting[0]
        free_cells = self._cells - sum(turn.cells for turn in running)
        for index, turn in enumerate(self._waiting):
            if turn.adapter == running[0].adapter and turn.cells <= free_cells:
                for passed in self._waiting[:index]:
                    passed.overtaken += 1
                return turn
            if turn.overtaken >= MAX_OVERTAKEN:  # nobody behind it is admitted: the slots drain until it can run
                return None
        return None

    def _choose_slot(self, turn: SlotTurn) -> _Slot:
        """The free slot that holds the most of the turn's beginning; without one, that which was used longest ago.

        Less than half of what the slot holds or the turn needs does not count: another session may come back to it.
        """
        free = [slot for slot in self._slots if slot.turn is None]
        shared = [first_difference(slot.tokens, turn.tokens) if slot.adapter == turn.adapter else 0 for slot in free]
        best = max(range(len(free)), key=shared.__getitem__)
        if shared[best] * 2 > min(len(free[best].tokens), len(turn.tokens)):
            return free[best]
        return min(free, key=lambda slot: slot.used)
