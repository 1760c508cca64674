"""Lineage by row: from a turn or a log file to every dataset, adapter and champion that learnt from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from grokora_pipeline.datasets.duplicates import example_id
from grokora_pipeline.datasets.trace import find_turns
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.messages import plain_message
from grokora_pipeline.sessions.table import read_turns
from grokora_pipeline.sessions.turns import TurnRow
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry


@dataclass(frozen=True, slots=True)
class Use:
    """One artifact that holds or learnt from the turns that were asked for."""

    agent: str
    asset: str
    version: str
    examples: int
    side: str = ""
    in_service: bool = False


def trace(store: Store, agents: Sequence[str], query: str, logs: Path) -> tuple[str, list[TurnRow], list[Use]]:
    """(name, turns, uses) of a turn id (or its beginning), a session id or a log file below `logs`.

    `name` is what may be forgotten, "" for a single turn. GrokoraError where nothing matches.
    """
    folder = store.require("session_logs").path
    name, turns = find_turns(folder, query, logs)
    if not turns:
        raise GrokoraError(
            f"No turn, session or log file {query!r} is in session_logs; give a path below {logs}, a session id, or "
            "8 digits or more of a turn id."
        )
    wanted = _example_ids(folder, {turn["turn_id"] for turn in turns})
    return name, turns, [use for agent in agents for use in _uses(store, agent, wanted)]


def _example_ids(logs: Path, turn_ids: set[str]) -> set[str]:
    """What the turns are called in datasets, where equal text is one example wherever it was logged."""
    return {
        example_id(
            [plain_message(message) for message in orjson.loads(row["prompt"])],
            plain_message(orjson.loads(row["completion"])),
        )
        for row in read_turns(logs, ["turn_id", "prompt", "completion"])
        if row["turn_id"] in turn_ids
    }


def _uses(store: Store, agent: str, wanted: set[str]) -> Iterator[Use]:
    trained_in: dict[str, int] = {}
    for split in store.versions(f"{agent}/tokenized_split"):
        rows = split.read_json("examples.json")
        sides = [rows[name] for name in wanted if name in rows]
        for side in sorted(set(sides)):
            yield Use(agent, "tokenized_split", split.version, sides.count(side), side)
        trained_in[split.version] = sides.count("train")
    champion = Registry(store).in_service(agent)
    for adapter in store.versions(f"{agent}/lora_adapter"):
        source = adapter.read_json("training.json")["versions"].get(f"{agent}/tokenized_split")
        if count := trained_in.get(source, 0):
            served = champion is not None and champion.version == adapter.version
            yield Use(agent, "lora_adapter", adapter.version, count, "train", served)
