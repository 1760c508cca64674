"""What a folder of logs would teach: a row a file with the calls that are learnt and why others are left out."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import yaml

from grokora_pipeline.agents import RESERVED, AgentSpec
from grokora_pipeline.datasets.selection import DatasetOptions, blames, refuse
from grokora_pipeline.errors import counted
from grokora_pipeline.models.messages import first_text, tool_function
from grokora_pipeline.sessions.turns import TurnRow
from grokora_pipeline.sessions.verdicts import read_turns

# What `refuse` asks for; prompts are read only where agents are suggested, for they are nearly all of a store's size.
_COLUMNS: tuple[str, ...] = ("turn_id", "session_id", "agent", "step", "source_file", "source_sha256", "status")
_COLUMNS += ("rating", "blamed", "step_failed", "completeness", "model", "completion", "copies")
_UNREAD = 8  # beyond this many reasons of one file, the rest is summed up


def import_rows(folder: Path, agents: Sequence[AgentSpec]) -> list[dict[str, Any]]:
    """A row a log file of a `session_logs` folder: file, format, sessions, calls, learnt, left_out.

    `left_out` counts by reason: calls that selection refuses or no agent owns, steps that are no turn, and faults.
    """
    specs = {agent.name: agent for agent in agents}
    sessions: defaultdict[str, set[str]] = defaultdict(set)
    calls, learnt = Counter[str](), Counter[str]()
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    blamed = blames(read_turns(folder, ("session_id", "step", "agent", "blamed")))
    last_steps = dict(sorted((turn["session_id"], turn["step"]) for turn in read_turns(folder, ("session_id", "step"))))
    for turn in read_turns(folder, _COLUMNS):
        name = turn["source_file"]
        sessions[name].add(turn["session_id"])
        calls[name] += 1
        session = turn["session_id"]
        if reason := _reason({**turn, "prompt": ""}, specs, blamed.get(session), last_steps[session]):
            reasons[name][reason] += 1
        else:
            learnt[name] += 1
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    for record in manifest["files"]:
        reasons[record["name"]].update(record["skipped"])
        reasons[record["name"]].update(Counter(reason for reason, *_ in record["problems"]))
        copies = sum(record["days"].values()) - calls[record["name"]]
        if copies > 0:
            reasons[record["name"]]["copy_of_another_log"] += copies
    rows = []
    for row in pq.read_table(folder / "files.parquet").to_pylist():
        name, counts = row["file"], reasons[row["file"]]
        named = [f"{reason} {count}" for reason, count in counts.most_common(_UNREAD)]
        if rest := sum(count for _, count in counts.most_common()[_UNREAD:]):
            named.append(f"other {rest}")
        facts = {"file": name, "format": row["format"] or "-", "sessions": len(sessions[name])}
        facts |= {"calls": calls[name], "learnt": learnt[name], "left_out": ", ".join(named) or row["reason"]}
        rows.append(facts)
    return rows


def _reason(turn: TurnRow, specs: dict[str, AgentSpec], blame: Any, last_step: int) -> str:
    agent = specs.get(turn["agent"] or "")
    if turn["completeness"] not in ("whole", "reconstructed"):
        return f"prompt_{turn['completeness']}"
    if agent is None:
        return "no_agent"
    options = DatasetOptions(
        unknown_outcome=agent.unknown_outcome, learn_from=agent.learn_from, unknown_blame=agent.unknown_blame
    )
    return refuse(turn, blame, options, teachers=agent.teachers, last_step=last_step) or ""


def suggest(folders: Sequence[Path], agents: Sequence[AgentSpec]) -> str:
    """The lines of agents.yaml for calls that no agent owns, with how many calls each would get; "" if there are none.

    `folders` are `session_logs` folders; calls of one kind are one agent, whichever folder they stand in.

    A name in the log comes first, then the first line of the system prompt, then the set of tools.
    """
    rules: dict[str, tuple[str, dict[str, Any]]] = {}
    counts = Counter[str]()
    for key, name, match in chain.from_iterable(map(_unowned, folders)):
        rules.setdefault(key, (name, match))
        counts[key] += 1
    taken = {agent.name for agent in agents}
    lines = []
    for key, count in counts.most_common():
        name, match = rules[key]
        plain = free_name(name, taken)
        taken.add(plain)
        entry = {plain: {"description": "what it does", "match": match}}
        body = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=110)
        lines.append(f"  # {counted(count, 'call')}\n" + "".join(f"  {line}\n" for line in body.splitlines()))
    return "agents:\n" + "".join(lines) if lines else ""


def _unowned(folder: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """For each call without an agent: what tells its kind, a name for it, and the rule that recognises it."""
    for turn in read_turns(folder, ("agent", "recorded_agent", "prompt", "tools")):
        if turn["agent"]:
            continue
        if name := turn["recorded_agent"]:
            yield f"name {name}", name, {"names": [name]}
            continue
        if not (prompt := orjson.loads(turn["prompt"])):
            continue  # no rule recognises a call of which the log holds neither a name nor the prompt
        system = first_text(prompt, "system").strip()
        tools = sorted({tool_function(tool)["name"] for tool in orjson.loads(turn["tools"] or "[]")})
        first = system.split("\n", 1)[0][:60].rstrip()
        if first:
            # "You are the coordinator of …" is the coordinator
            words = re.sub(r"^you(?:'re| are)(?: an?| the)?\s+", "", first, flags=re.IGNORECASE).split()
            yield f"system {first}", " ".join(words[:3]), {"system": [f"^{re.escape(first)}"]}
        elif tools:
            yield f"tools {tools}", "_".join(tools[:2]), {"tools": tools}
        else:
            yield "any", "agent", {"any": True}


def free_name(name: str, taken: set[str]) -> str:
    """A name that agents.yaml accepts and nobody has."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:56] or "agent"
    plain = plain if plain[0].isalpha() else f"agent_{plain}"[:60]
    plain = f"{plain}_agent" if plain in RESERVED else plain
    number = 2
    free = plain
    while free in taken:
        free, number = f"{plain}_{number}", number + 1
    return free
