"""Strands' agents: a message a file, `session_<id>/agents/agent_<id>/messages/message_<n>.json`.

The first message's file stands for the conversation. The system prompt and the tools are in the agent's code.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from grokora_pipeline.sessions.readers.common import Source, UnreadableError, decode
from grokora_pipeline.sessions.readers.documents import as_object, in_files, moment, peek_objects
from grokora_pipeline.sessions.readers.lowering import content_session, explode, join_calls, lower, pair_results
from grokora_pipeline.sessions.readers.source import event_number
from grokora_pipeline.sessions.turns import Item, Skipped


def looks_like(head: bytes) -> bool:
    """Whether it is one message of a session."""
    return any({"message", "message_id", "created_at"} <= value.keys() for value in peek_objects(head)[:1])


def read(source: Source) -> Iterator[Item]:
    """A turn an answer of the conversation whose first message the file holds."""
    if event_number(source.path.name):
        yield Skipped("event_of_another_file")
        return
    held = [one for one in map(as_object, in_files(source)) if "message" in one]
    # what a guardrail put in a message's place is what the model saw
    said = [as_object(one.get("redact_message")) or as_object(one["message"]) for one in held]
    messages = pair_results(join_calls([one for message in said for one in lower(message)], lossy=True))
    folder = source.path.parent.parent
    session, agent = folder.parent.parent.name, folder.name
    if not session.startswith("session_") or not agent.startswith("agent_"):
        session, agent = content_session("strands", messages), ""
    if not any(one["role"] == "assistant" for one in messages):
        yield Skipped("no_model_call")
    yield from explode(
        source,
        messages,
        session_id=session.removeprefix("session_"),
        agent=agent.removeprefix("agent_"),
        started_at=moment(*held),
        # which prompts lacked what the conversation manager removed, nothing says
        completeness="delta" if _has_removed(folder / "agent.json") else "reconstructed",
    )


def _has_removed(path: Path) -> bool:
    """Whether the agent's own file says that messages left its prompts."""
    with suppress(OSError, UnreadableError):
        held = as_object(decode(Source(path, path.name).read(1 << 20))[0])
        return bool(as_object(held.get("conversation_manager_state")).get("removed_message_count"))
    return False
