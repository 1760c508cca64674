"""Lineage by row: from an example back to its log line, from a turn or log file forward to what learnt from it.

The forget list is a text file in the store, a name a line; `build_examples` leaves those sessions and files out.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow.parquet as pq

from grokora_pipeline.datasets.duplicates import example_id
from grokora_pipeline.datasets.selection import in_file
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.messages import plain_message
from grokora_pipeline.sessions.table import public_name
from grokora_pipeline.sessions.turns import TurnRow
from grokora_pipeline.sessions.verdicts import SESSIONS_FILE, read_turns
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry

SHORTEST_ID = 8
FORGET_LIST = "forgotten.txt"
_COLUMNS = ["turn_id", "session_id", "agent", "step", "started_at", "source_file", "line", "source_sha256", "copies"]


@dataclass(frozen=True, slots=True)
class Use:
    """One artifact that holds or learnt from the turns that were asked for."""

    agent: str
    asset: str
    version: str
    examples: int
    side: str = ""
    in_service: bool = False


def find_turns(session_logs: Path, query: str, logs: Path) -> tuple[str, list[TurnRow]]:
    """What `session_logs` calls a log file or a session ("" for a single turn), and its turns.

    `query` is a log file (below `logs`, or with its whole path), a session id, or 8 digits and more of a turn id. A row
    is turn_id, session, agent, step, time, log file, line and the SHA-256 of the file's bytes. No turns: nothing fits.
    """
    root, path = logs.resolve(), (logs / query).resolve()
    file = public_name(path.relative_to(root).as_posix()) if path.is_relative_to(root) else ""
    names = {"source_file": file, "session_id": public_name(query)}
    matches: dict[str, list[TurnRow]] = {"source_file": [], "session_id": [], "turn_id": []}
    for row in read_turns(session_logs, _COLUMNS):
        if file and file in (row["source_file"], *row["copies"]):
            matches["source_file"].append(row)
        if row["session_id"] == names["session_id"]:
            matches["session_id"].append(row)
        if len(query) >= SHORTEST_ID and row["turn_id"].startswith(query.lower()):
            matches["turn_id"].append(row)
    kind = next((kind for kind, rows in matches.items() if rows), "turn_id")
    return names.get(kind, ""), matches[kind]


def trace(store: Store, agents: Sequence[str], query: str, logs: Path) -> tuple[str, list[TurnRow], list[Use]]:
    """(name, turns, uses) of a turn id (or its beginning), a session id or a log file below `logs`.

    `name` is what may be forgotten, "" for a single turn. Raises GrokoraError if nothing matches.
    """
    folder = store.require("session_logs").path
    name, turns = find_turns(folder, query, logs)
    if not turns:
        raise GrokoraError(
            f"No turn, session or log file {query!r} is in session_logs; give a path below {logs}, a session id, or "
            "8 digits or more of a turn id."
        )
    turn_ids = {turn["turn_id"] for turn in turns}
    example_ids = {  # equal text is one example in a dataset, wherever it was logged
        example_id(
            [plain_message(message) for message in orjson.loads(row["prompt"])],
            plain_message(orjson.loads(row["completion"])),
        )
        for row in read_turns(folder, ["turn_id", "prompt", "completion"])
        if row["turn_id"] in turn_ids
    }
    return name, turns, [use for agent in agents for use in _uses(store, agent, example_ids)]


def _uses(store: Store, agent: str, example_ids: set[str]) -> Iterator[Use]:
    trained_in: dict[str, int] = {}
    for split in store.versions(f"{agent}/tokenized_split"):
        rows, left_out = split.read_json("examples.json"), split.read_json("report.json").get("left_out", ())
        sides = [rows[name] for name in example_ids.difference(left_out) if name in rows]
        for side in sorted(set(sides)):
            yield Use(agent, "tokenized_split", split.version, sides.count(side), side)
        trained_in[split.version] = sides.count("train")
    champion = Registry(store).in_service(agent)
    for adapter in store.versions(f"{agent}/lora_adapter"):
        source = adapter.read_json("training.json")["versions"].get(f"{agent}/tokenized_split")
        if count := trained_in.get(source, 0):
            served = champion is not None and champion.version == adapter.version
            yield Use(agent, "lora_adapter", adapter.version, count, "train", served)


def other_names(session_logs: Path, name: str) -> set[str]:
    """What else the forget list must hold of a log file or a session of `session_logs`, to know it again.

    A file's bytes, since it may be copied or renamed; and a session's id with the files that it stands in, since the
    name may pass to another machine's session with the same id.
    """
    files = orjson.loads((session_logs / "manifest.json").read_bytes())["files"]
    names = {f"sha256:{file['sha256']}" for file in files if file["name"] == name and file["sha256"]}
    table = session_logs / SESSIONS_FILE
    known = pq.read_table(table, columns=["session_id", "recorded_id"]).to_pylist() if table.is_file() else []
    ids = {session["recorded_id"] for session in known if session["session_id"] == name}
    for turn in read_turns(session_logs, ["session_id", "source_file"]) if ids else ():
        if turn["session_id"] == name:
            names |= {in_file(one, turn["source_file"]) for one in ids}
    return names


def forgotten(store: Store) -> tuple[str, ...]:
    """The session ids and log files that no dataset may hold any more, sorted, with their `other_names`."""
    lines = (store.read(FORGET_LIST) or b"").decode().split("\n")
    return tuple(sorted({orjson.loads(line) if line.startswith('"') else line for line in lines if line}))


def forget(store: Store, name: str, others: Collection[str] = ()) -> bool:
    """Put a session id or a log file on the forget list; False if it is there already. Logs are never changed.

    `others` are its `other_names`.
    """
    known = forgotten(store)
    names = {name, *others}
    if names <= {*known}:
        return False
    # a name that would not survive as a line of its own is written as a JSON string
    lines = [
        orjson.dumps(one).decode() if '"' in one[:1] or one.splitlines() != [one] else one
        for one in sorted({*known, *names})
    ]
    store.write(FORGET_LIST, "".join(f"{line}\n" for line in lines).encode())
    return True
