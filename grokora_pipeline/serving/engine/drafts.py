"""Drafts: how an answer probably goes on, so that one pass checks several tokens at once (no torch).

What an agent writes repeats: names and commands stand in its prompt, the frame of its JSON in its last answers. A draft
is what followed the same last tokens there (prompt lookup decoding, Saxena 2023). The decoder runs it behind the row's
last token and keeps as much of it as it would have chosen token by token (speculative decoding, Leviathan et al. 2023),
so no answer depends on what was guessed. Of the sample's agents a row alone takes less than half as many passes.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

MATCHED = (3, 2)  # how many of the last tokens must be the same; the longer match is the better guess
LONGEST = 7  # tokens of a draft at most
KEPT = 1 << 14  # tokens of an adapter's last answers
FIRST_GUESS, WORST_GUESS = 0.7, 0.3  # share of drafted tokens that is right; the worst still drafts for a lone row
MEMORY = 128  # checked tokens after which what was before counts for little
_WIDTH = array("i").itemsize


class TokenText:
    """Tokens as fixed-width bytes, so that `rfind` searches thousands of them in microseconds."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._bytes = bytearray(array("i", tokens).tobytes())

    def extend(self, tokens: Sequence[int], limit: int | None = None) -> None:
        """Append tokens; with a limit the oldest ones go."""
        self._bytes += array("i", tokens).tobytes()
        if limit is not None and len(self._bytes) > 2 * limit * _WIDTH:  # seldom: what goes is copied over
            del self._bytes[: -limit * _WIDTH]

    def after(self, last: Sequence[int], count: int) -> list[int]:
        """What followed the latest place with these tokens, `count` tokens at most; none if there is no such place."""
        wanted = array("i", last).tobytes()
        at = self._bytes.rfind(wanted, 0, -_WIDTH)
        while at > 0 and at % _WIDTH:  # the end of one token and the beginning of the next
            at = self._bytes.rfind(wanted, 0, at + len(wanted) - 1)
        begin = at + len(wanted)
        return list(array("i", bytes(self._bytes[begin : begin + count * _WIDTH]))) if at >= 0 else []


@dataclass(slots=True)
class AnswerHistory:
    """What an adapter wrote lately, and how often drafts of its answers were right."""

    text: TokenText = field(default_factory=TokenText)
    right: float = FIRST_GUESS

    def draft(self, row: TokenText, last: Sequence[int], count: int) -> list[int]:
        """How a row's text, which ends with `last`, probably goes on: `count` tokens at most."""
        for matched in MATCHED:
            for text in (row, self.text):
                if tokens := text.after(last[-matched:], count):
                    return tokens
        return []

    def record(self, right: int, checked: int) -> None:
        """Of `checked` drafted tokens, looked at up to the first wrong one, so many were right."""
        share = min(1.0, checked / MEMORY)
        self.right = max(WORST_GUESS, self.right + share * (right / checked - self.right)) if checked else self.right


def draft_length(drafts: Sequence[tuple[int, float]], rows: int, even: float) -> int:
    """How long a draft to check in a pass over `rows` rows, of which some have drafts of (tokens, share that is right).

    Rows are padded to the longest draft of the pass, and a pass of n tokens takes 1 + n / `even` times as long as
    reading the weights takes: the length is that which gives the most tokens in a second.
    """

    def rate(length: int) -> float:
        """Tokens in the time that reading the weights takes, if drafts are at most so long."""
        gained = sum(right ** (index + 1) for tokens, right in drafts for index in range(min(tokens, length)))
        return (rows + gained) / (1 + rows * (length + 1) / even)

    return max(range(max((tokens for tokens, _ in drafts), default=0) + 1), key=rate)
