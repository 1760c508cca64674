"""Hand-written pairs: JSONL with an `instruction` and a `response` a line, such as `grokputer_tasks.jsonl`."""

from collections.abc import Iterator

import orjson

from grokora_pipeline.sessions.readers.common import Source, assistant, decode, loads, user
from grokora_pipeline.sessions.turns import Item, Problem, Turn


def looks_like(head: bytes) -> bool:
    """Whether the first line has both keys."""
    first = head.lstrip(b"\xef\xbb\xbf \t\r\n").split(b"\n", 1)[0]
    return first.startswith(b"{") and b'"instruction"' in first and b'"response"' in first


def read(source: Source) -> Iterator[Item]:
    """A turn a line. Each is a session of its own; somebody wrote it as an example, so it counts as a success."""
    offset = 0
    with source.path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if raw.strip():
                yield _read_line(source, raw, number, offset)
            offset += len(raw)


def _read_line(source: Source, raw: bytes, number: int, offset: int) -> Item:
    text, _ = decode(raw)
    try:
        line = loads(text)
    except orjson.JSONDecodeError:
        return Problem("malformed_json" if raw.endswith(b"\n") else "truncated", offset, f"line {number}")
    instruction = line.get("instruction") if isinstance(line, dict) else None
    response = line.get("response") if isinstance(line, dict) else None
    if not isinstance(instruction, str) or not isinstance(response, str) or not response:
        return Problem("wrong_schema", offset, f"line {number} needs the texts `instruction` and `response`")
    extra = line.get("input")
    agent = line.get("agent")
    return Turn(
        session_id=f"{source.name}#{number}",
        agent=agent if isinstance(agent, str) and agent else None,
        step=0,
        started_at="",
        source_file=source.name,
        source_sha256=source.sha256,
        source_format=source.format,
        prompt=[user(f"{instruction}\n\n{extra}" if isinstance(extra, str) and extra else instruction)],
        completion=assistant(response),
        status="success",
        line=number,
        task=instruction,
    )
