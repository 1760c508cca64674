"""Lineage by row: from an example back to the log line it came from, from a log file forward, and forgetting.

The forget list is a text file in the store, one session id or log file a line; `build_examples` leaves those out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grokora_pipeline.sessions.examples import read_examples
from grokora_pipeline.sessions.table import read_turns
from grokora_pipeline.store import Store

FORGET_LIST = "forgotten.txt"
_COLUMNS = ["turn_id", "session_id", "agent", "step", "started_at", "source_file", "line", "source_sha256"]


def find_turns(
    session_logs: Path, *, turn: str | None = None, file: str | None = None, session: str | None = None
) -> list[dict[str, Any]]:
    """Where turns come from: turn_id, session, agent, step, time, log file, line and the SHA-256 of the file's bytes.

    `turn` may be the beginning of an id; conditions that are given all have to hold.
    """
    wanted = {"source_file": file, "session_id": session}
    return [
        row
        for row in read_turns(session_logs, _COLUMNS)
        if (not turn or row["turn_id"].startswith(turn))
        and all(value is None or row[name] == value for name, value in wanted.items())
    ]


def examples_from(dataset: Path, *, file: str | None = None, session: str | None = None) -> Iterator[dict[str, Any]]:
    """The `meta` of the examples in a dataset folder that came from a log file or a session."""
    for example in read_examples(dataset):
        if file == example.meta["source_file"] or session == example.meta["session_id"]:
            yield example.meta


def forgotten(store: Store) -> tuple[str, ...]:
    """The session ids and log files that no dataset may hold any more, sorted: `DatasetOptions.forgotten`."""
    lines = (store.read(FORGET_LIST) or b"").decode().splitlines()
    return tuple(sorted({line for line in lines if line}))


def forget(store: Store, name: str) -> bool:
    """Put a session id or a log file on the forget list; False if it is there already. Logs are never changed."""
    known = forgotten(store)
    if name in known:
        return False
    store.write(FORGET_LIST, "".join(f"{one}\n" for one in sorted({*known, name})).encode())
    return True
