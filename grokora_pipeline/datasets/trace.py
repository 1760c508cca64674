"""Lineage by row: from an example back to the log line it came from, from a log file forward, and forgetting.

The forget list is a text file in the store, one session id or log file a line; `build_examples` leaves those out.
"""

from pathlib import Path

from grokora_pipeline.sessions.table import public_name, read_turns
from grokora_pipeline.sessions.turns import TurnRow
from grokora_pipeline.store import Store

SHORTEST_ID = 8
FORGET_LIST = "forgotten.txt"
_COLUMNS = ["turn_id", "session_id", "agent", "step", "started_at", "source_file", "line", "source_sha256"]


def find_turns(session_logs: Path, query: str, logs: Path) -> tuple[str, list[TurnRow]]:
    """What `session_logs` calls a log file or a session ("" for a single turn), and its turns.

    `query` is a log file (below `logs`, or with its whole path), a session id, or 8 digits and more of a turn id. A row
    is turn_id, session, agent, step, time, log file, line and the SHA-256 of the file's bytes. No turns: nothing fits.
    """
    root, path = logs.resolve(), (logs / query).resolve()
    file = public_name(path.relative_to(root).as_posix()) if path.is_relative_to(root) else ""
    names = {"source_file": file, "session_id": public_name(query)}
    found: dict[str, list[TurnRow]] = {"source_file": [], "session_id": [], "turn_id": []}
    for row in read_turns(session_logs, _COLUMNS):
        if file and row["source_file"] == file:
            found["source_file"].append(row)
        if row["session_id"] == names["session_id"]:
            found["session_id"].append(row)
        if len(query) >= SHORTEST_ID and row["turn_id"].startswith(query.lower()):
            found["turn_id"].append(row)
    kind = next((kind for kind, rows in found.items() if rows), "turn_id")
    return names.get(kind, ""), found[kind]


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
