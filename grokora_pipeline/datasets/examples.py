"""From turns to an agent's dataset: `examples.jsonl`, one example a line, in a fixed order."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.datasets import duplicates, toon
from grokora_pipeline.datasets.selection import Blame, DatasetOptions, blames, refuse
from grokora_pipeline.models.messages import first_text, plain_message
from grokora_pipeline.sessions.table import read_turns
from grokora_pipeline.sessions.turns import Message, TurnRow

FILE = "examples.jsonl"
MIN_SOURCES = 20  # from here on no source may hold more than its share; fewer could not fill a dataset
_SPACE = re.compile(r"\W+")


@dataclass(slots=True)
class Example:
    """A line of `examples.jsonl`. `meta` says where it comes from; `meta["example_id"]` is the hash of its text."""

    prompt: list[Message]
    completion: list[Message]
    tools: list[dict[str, Any]] | None
    meta: dict[str, Any]

    @property
    def id(self) -> str:
        """The hash of prompt and completion: equal text is the same example, wherever it was logged."""
        return str(self.meta["example_id"])

    def to_line(self) -> bytes:
        """The example as a line of JSON."""
        row: dict[str, Any] = {"prompt": self.prompt, "completion": self.completion, "meta": self.meta}
        if self.tools:
            row["tools"] = self.tools
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(slots=True)
class DatasetReport:
    """What became of an agent's turns."""

    rows: int = 0
    turns: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    near_duplicate_clusters: int = 0
    in_near_duplicate_clusters: int = 0
    contradictions: int = 0
    contradiction_examples: list[dict[str, Any]] = field(default_factory=list)
    by_status: dict[str, int] = field(default_factory=dict)
    reconstructed_share: float = 0.0
    sessions: int = 0
    sources: int = 0
    toon: dict[str, int] = field(default_factory=dict)


def build_examples(
    turns: Path,
    agent: AgentSpec,
    output: Path,
    options: DatasetOptions,
    *,
    count_tokens: Callable[[str], int] | None = None,
) -> DatasetReport:
    """Write `examples.jsonl` of one agent into the folder `output`, from a published `session_logs` folder.

    `count_tokens` makes the report tell what TOON saved in tokens, not in characters alone.
    """
    blame, tasks = _sessions(turns)
    report = DatasetReport()
    chosen = _collapse(_selected(turns, agent, blame, options, report), options, report)
    if agent.payload_format == "toon":
        report.toon = _encode(chosen, toon.Savings(count_tokens=count_tokens))
    _cluster(chosen, options, report)
    kept = _capped(chosen, options, report)
    for example in kept:
        example.meta["task_key"] = tasks.get(example.meta["session_id"], "")
    _summarise(kept, report)
    kept.sort(
        key=lambda example: (example.meta["started_at"], example.meta["session_id"], example.meta["step"], example.id)
    )
    with (output / FILE).open("wb") as stream:
        stream.writelines(example.to_line() for example in kept)
    return report


def read_examples(folder: Path) -> Iterator[Example]:
    """The examples of a published dataset folder, in order."""
    with (folder / FILE).open("rb") as stream:
        for line in stream:
            row = orjson.loads(line)
            yield Example(row["prompt"], row["completion"], row.get("tools"), row["meta"])


def task_key(task: str) -> str:
    """A name for a task that does not depend on case, spacing or punctuation; "" for no task."""
    words = _SPACE.sub(" ", task.casefold()).strip()
    return hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:16] if words else ""


def _sessions(turns: Path) -> tuple[dict[str, Blame], dict[str, str]]:
    """Who is to blame in each session, and its task: as stated, else what its first call was asked.

    A first question that many sessions share, such as a fixed instruction, is no task.
    """
    firsts: dict[str, tuple[int, str, bool]] = {}
    blamed: list[dict[str, Any]] = []
    for row in read_turns(turns, ["session_id", "step", "agent", "blamed", "task", "prompt"]):
        if row["blamed"]:
            blamed.append({name: row[name] for name in ("session_id", "step", "agent", "blamed")})
        session = row["session_id"]
        if session not in firsts or row["step"] < firsts[session][0]:
            task = row["task"] or first_text(orjson.loads(row["prompt"]), "user")
            firsts[session] = (row["step"], task_key(task), bool(row["task"]))
    guessed = Counter(key for _, key, stated in firsts.values() if not stated)
    common = {key for key, count in guessed.items() if count >= 10 and count > 0.2 * len(firsts)}
    tasks = {session: key for session, (_, key, stated) in firsts.items() if stated or key not in common}
    return blames(blamed), tasks


def _selected(
    turns: Path, agent: AgentSpec, blame: Mapping[str, Blame], options: DatasetOptions, report: DatasetReport
) -> Iterator[Example]:
    dropped: Counter[str] = Counter()
    for row in read_turns(turns):
        if row["agent"] != agent.name:
            continue
        report.turns += 1
        reason = refuse(row, blame.get(row["session_id"]), options)
        if reason:
            dropped[reason] += 1
        else:
            yield _example(row)
    report.dropped = dict(dropped.most_common())


def _example(row: TurnRow) -> Example:
    prompt = [plain_message(message) for message in orjson.loads(row["prompt"])]
    completion = plain_message(orjson.loads(row["completion"]))
    kept = ("turn_id", "session_id", "step", "started_at", "status", "rating", "source_file", "line", "completeness")
    meta = {name: value for name, value in row.items() if name in kept}
    meta["example_id"] = duplicates.example_id(prompt, completion)
    meta["source_sha256"] = row["source_sha256"]
    tools = orjson.loads(row["tools"]) if row["tools"] else None
    return Example(prompt, [completion], tools, meta)


def _collapse(examples: Iterable[Example], options: DatasetOptions, report: DatasetReport) -> list[Example]:
    """One example for all that say the same: the recorded one before a rebuilt one, the earliest first."""
    found: dict[str, Example] = {}
    copies: Counter[str] = Counter()
    for example in examples:
        copies[example.id] += 1
        if example.id not in found or _age(example) < _age(found[example.id]):
            found[example.id] = example
    for key, example in found.items():
        example.meta["copies"] = copies[key]
        example.meta["weight"] = min(copies[key], options.max_weight)
    report.duplicates = copies.total() - len(found)
    rows = ((duplicates.prompt_id(one.prompt), one.prompt, one.completion[0]) for one in found.values())
    report.contradictions, report.contradiction_examples = duplicates.contradictions(rows)
    return sorted(found.values(), key=lambda example: example.id)


def _age(example: Example) -> tuple[Any, ...]:
    meta = example.meta
    return meta["completeness"] != "whole", meta["started_at"], meta["source_file"], meta["line"], meta["turn_id"]


def _cluster(examples: Sequence[Example], options: DatasetOptions, report: DatasetReport) -> None:
    """Name each example's near-duplicate cluster after its smallest member."""
    texts = [duplicates.plain_text([*example.prompt, *example.completion]) for example in examples]
    found = duplicates.clusters(duplicates.signatures(texts), options.near_duplicate)
    for example, first in zip(examples, found, strict=True):
        example.meta["cluster"] = examples[first].id[:16]
    sizes = [size for size in Counter(found).values() if size > 1]
    report.near_duplicate_clusters, report.in_near_duplicate_clusters = len(sizes), sum(sizes)


def _capped(examples: Sequence[Example], options: DatasetOptions, report: DatasetReport) -> list[Example]:
    """At most so many examples a session and a source; which ones stay depends on their hash alone."""
    kept = _at_most(examples, "session_id", options.max_per_session)
    counts = Counter[str]()
    for example in kept:
        counts[example.meta["source_file"]] += example.meta["weight"]
    limit = min(options.max_per_source, _share_limit(counts, options.max_source_share))
    final = _at_most(kept, "source_file", limit, weighed=True)
    for reason, count in (("session_cap", len(examples) - len(kept)), ("source_cap", len(kept) - len(final))):
        if count:
            report.dropped[reason] = count
    return final


def _at_most(examples: Sequence[Example], name: str, limit: int, *, weighed: bool = False) -> list[Example]:
    counts: Counter[str] = Counter()
    kept = []
    for example in examples:  # sorted by hash
        room = limit - counts[example.meta[name]]
        if room > 0:
            if weighed:
                example.meta["weight"] = min(example.meta["weight"], room)
            counts[example.meta[name]] += example.meta["weight"] if weighed else 1
            kept.append(example)
    return kept


def _share_limit(counts: Mapping[str, int], share: float) -> int:
    """The largest weight a source may have so that none holds more than `share` of what is left."""
    if len(counts) < MIN_SOURCES:
        return max(counts.values(), default=0)
    limit = max(counts.values())
    while limit > 1 and limit > share * sum(min(count, limit) for count in counts.values()):
        limit -= 1
    return limit


def _encode(examples: Iterable[Example], saved: toon.Savings) -> dict[str, int]:
    """Re-encode the JSON payloads of prompts as TOON; the id stays that of the text as logged."""
    for example in examples:
        example.prompt = [toon.encode_message(message, saved) for message in example.prompt]
    return saved.as_dict()


def _summarise(examples: Sequence[Example], report: DatasetReport) -> None:
    report.rows = len(examples)
    report.by_status = dict(Counter(example.meta["status"] for example in examples).most_common())
    report.sessions = len({example.meta["session_id"] for example in examples})
    report.sources = len({example.meta["source_file"] for example in examples})
    rebuilt = sum(example.meta["completeness"] != "whole" for example in examples)
    report.reconstructed_share = rebuilt / len(examples) if examples else 0.0
