"""A conversation on its way to turns, which the readers of many formats make."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from grokora_pipeline.sessions.readers.common import name_text
from grokora_pipeline.sessions.readers.lowering import Json
from grokora_pipeline.sessions.turns import Completeness, Status


@dataclass(slots=True)
class Chat:
    """One conversation: its messages in any shape that the lowering knows, each with its `model` where it says so.

    A message with `cut` true was broken off: it is context, and no example. So is one with `earlier`, which stands as
    an example in another chat. Without a session id the content is one.
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


def branch(nodes: Mapping[str, Json], leaf: str, parent: str) -> list[Json]:
    """The nodes from the root to a leaf; `parent` is the member that names a node's parent."""
    path: list[Json] = []
    seen: set[str] = set()
    while leaf in nodes and leaf not in seen:
        seen.add(leaf)
        path.append(nodes[leaf])
        leaf = name_text(nodes[leaf].get(parent))
    return path[::-1]
