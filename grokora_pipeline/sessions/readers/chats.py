"""A conversation on its way to turns, which the readers of many formats make."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from grokora_pipeline.sessions.readers.common import name_text
from grokora_pipeline.sessions.readers.documents import Json
from grokora_pipeline.sessions.readers.lowering import ROLES
from grokora_pipeline.sessions.turns import Completeness, Status


@dataclass(slots=True)
class Chat:
    """One conversation: its messages in any shape that the lowering knows, each with its `model` if it says so.

    A message with `cut` was broken off, or is what `cut` says: it is context, and no example. So is one with `earlier`,
    which stands as an example in another chat. One with `unsent` was never shown to the model again. Without a session
    id the content is one.
    """

    messages: Iterable[Any]
    session: str = ""
    agent: str = ""
    model: str = ""
    started: object = None
    tools: Any = None
    completeness: Completeness = "reconstructed"
    last_only: bool = False  # the messages are one call: a prompt and its answer
    parent: str = ""
    status: Status = "unknown"
    rating: int | None = None
    task: str = ""
    first_step: int = 0  # of a session that a compaction cut
    unshown: int = 0  # answers on other branches of its tree: a person asked again, and was shown another
    place: int = 0  # among those of its record, where each counts as a line of its own


RESTART_GAP = timedelta(hours=6)  # a session that begins anew after such a pause is another one
HALF = "half_of_a_call"  # a request or a reply whose other side is not in the file
HALF_CALL = Chat([{"role": "assistant", "content": HALF, "cut": HALF}])


class Replay:
    """A conversation along its log: what is said, and what a compaction or a person takes out of the prompt again.

    That ends a stretch: its answers are examples with the prompt that they had, and what stays is context of the next.
    """

    def __init__(self, chat: Chat) -> None:
        """`chat`: what all stretches have in common."""
        self.chat = chat
        self.messages: list[Json] = []  # what the model sees now
        self._ended: list[Chat] = []
        self._step = 0

    def go_on_with(self, kept: Iterable[Json]) -> None:
        """End the stretch: from here on the model sees `kept` and what is said next."""
        self._end()
        marks = {"earlier": True, "cut": None}
        self.messages = [{"told": one, **one, **marks} for one in kept if not one.get("unsent")]

    def take_back(self, index: int) -> None:
        """A person takes back what stands from `index` on: no later prompt holds it, and its answers are no example."""
        for one in self.messages[index:]:
            one.get("told", one)["cut"] = "taken_back"  # as it was told first, in whichever stretch
        self.go_on_with(self.messages[:index])

    def chats(self) -> Iterator[Chat]:
        """The stretches, once all is said: those with answers of their own; one without, if there is none."""
        self._end()
        yield from self._ended or [replace(self.chat, messages=self.messages)]

    def _end(self) -> None:
        said = (name_text(one.get("role")).lower() for one in self.messages if not one.get("earlier"))
        if any(ROLES.get(role) == "assistant" for role in said):
            self._ended.append(replace(self.chat, messages=self.messages, first_step=self._step))
        self._step += len(self.messages)


def branch(nodes: Mapping[str, Json], leaf: str, parent: str) -> list[Json]:
    """The nodes from the root to a leaf; `parent` is the member that names a node's parent."""
    path: list[Json] = []
    seen: set[str] = set()
    while leaf in nodes and leaf not in seen:
        seen.add(leaf)
        path.append(nodes[leaf])
        leaf = name_text(nodes[leaf].get(parent))
    return path[::-1]


def unshown(nodes: Iterable[Json], path: Iterable[Json], role: Callable[[Json], object]) -> int:
    """How many answers among nodes are not on the path of their tree; `role` says who speaks in a node."""
    said = (sum(ROLES.get(name_text(role(one)).lower()) == "assistant" for one in own) for own in (nodes, path))
    return next(said) - next(said)


def divided(messages: list[Json]) -> list[list[Json]]:
    """The conversations in messages that name no session: each begins with the first one's first message.

    A system prompt that stands again begins one at once; a question, which a person may ask twice, after a pause (the
    messages tell their time as `at`).
    """
    starts = [0]
    for index, (before, one) in enumerate(pairwise(messages), 1):
        is_first = all(one.get(key) == messages[0].get(key) for key in ("role", "content"))
        times = [datetime.fromisoformat(own["at"]) for own in (before, one) if own.get("at")]
        is_late = len(times) == 2 and times[1] - times[0] > RESTART_GAP
        if is_first and (one.get("role") in ("system", "developer") or (one.get("role") == "user" and is_late)):
            starts.append(index)
    return [messages[start:end] for start, end in pairwise([*starts, len(messages)])]
