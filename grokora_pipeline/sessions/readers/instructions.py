"""Hand-written pairs: JSONL with an `instruction` and a `response` a line, such as `grokputer_tasks.jsonl`."""

import hashlib
from collections.abc import Iterator

import orjson

from grokora_pipeline.sessions.readers.common import Line, Source, assistant, decode, loads, name_text, user
from grokora_pipeline.sessions.readers.documents import peek_objects
from grokora_pipeline.sessions.readers.outcomes import scored, scores_in, stated_in
from grokora_pipeline.sessions.turns import Item, Problem, Turn


def looks_like(head: bytes) -> bool:
    """Whether the first line has both keys."""
    return head.startswith(b"{") and any({"instruction", "response"} <= one.keys() for one in peek_objects(head)[:1])


def read(source: Source) -> Iterator[Item]:
    """A turn a line, each a session of its own: somebody wrote it as an example, so it is good unless it says no."""
    for line in source.lines():
        if line.problem:
            yield line.problem
        elif line.raw.strip():
            yield _read_line(source, line)


def _read_line(source: Source, line: Line) -> Item:
    text, _ = decode(line.raw)
    try:
        pair = loads(text)
    except orjson.JSONDecodeError:
        return Problem(
            "malformed_json" if line.raw.endswith(b"\n") else "truncated", line.offset, f"line {line.number}"
        )
    instruction = pair.get("instruction") if isinstance(pair, dict) else None
    response = pair.get("response") if isinstance(pair, dict) else None
    if not isinstance(instruction, str) or not isinstance(response, str) or not response:
        return Problem("wrong_schema", line.offset, f"line {line.number} needs the texts `instruction` and `response`")
    extra = pair.get("input") or pair.get("context")
    rating, opinion = scored(scores_in(pair))
    stated = [stated_in(pair), opinion]
    # named by its content, so that a copy or another name of the file is the same pair
    content = hashlib.sha256(orjson.dumps([instruction, extra, response], default=str)).hexdigest()
    return Turn(
        session_id=f"instruction-{content[:16]}",
        agent=name_text(pair.get("agent")) or None,
        step=0,
        started_at="",
        source_file=source.name,
        source_sha256=source.sha256,
        source_format=source.format,
        prompt=[user(f"{instruction}\n\n{extra}" if isinstance(extra, str) and extra else instruction)],
        completion=assistant(response),
        status="failure" if "failure" in stated else "success",
        rating=rating,
        line=line.number,
        task=instruction,
    )
