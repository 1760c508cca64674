"""From turns to an agent's dataset: `examples.jsonl`, one example a line, in a fixed order."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.datasets import duplicates, toon
from grokora_pipeline.datasets.example import FILE, WORSE_FILE, Example, ExampleMeta, read_examples
from grokora_pipeline.datasets.preferences import is_worse, worse_answers
from grokora_pipeline.datasets.selection import Blame, DatasetOptions, blames, refuse
from grokora_pipeline.models.messages import first_text, plain_message
from grokora_pipeline.sessions.turns import TurnRow
from grokora_pipeline.sessions.verdicts import read_turns

NEAR_FILE = "near_duplicates.npy"  # (pairs, 2) places of near duplicates in the order of example ids
MIN_SESSIONS = 20  # from here on no session may hold more than its share; fewer could not fill a dataset
_SPACE = re.compile(r"\W+")


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
    near_duplicate: float = 0.0  # the similarity from which two examples are near duplicates
    capped: dict[str, int] = field(default_factory=dict)  # examples that a cap left out: part of `dropped`
    reconstructed_share: float = 0.0
    unknown_outcome_share: float = 0.0
    sessions: int = 0
    tasks: int = 0
    sources: int = 0
    by_teacher: dict[str, int] = field(default_factory=dict)  # rows by the model that answered
    toon: dict[str, int] = field(default_factory=dict)
    replayed: int = 0  # examples of earlier datasets whose logs are gone


def build_examples(
    turns: Path,
    agent: AgentSpec,
    output: Path,
    options: DatasetOptions,
    *,
    forgotten: Collection[str] = (),
    count_tokens: Callable[[str], int] | None = None,
    earlier: Sequence[Path] = (),
) -> DatasetReport:
    """Write `examples.jsonl` of one agent into the folder `output`, from a published `session_logs` folder.

    `forgotten` holds the session ids and log files that may not be learnt (see `lineage.forgotten`). `count_tokens`
    makes the report tell what TOON saved in tokens, not in characters alone. `earlier` are the agent's earlier
    datasets, from which `options.replay` takes.
    """
    blame, tasks, steps = _sessions(turns)
    report, left_out = DatasetReport(near_duplicate=options.near_duplicate), frozenset(forgotten)

    def refused(turn: TurnRow) -> str | None:
        """Why a turn may not be learnt; None if it may."""
        own, last = blame.get(turn["session_id"]), steps[turn["session_id"]][1]
        return refuse(turn, own, options, teachers=agent.teachers, forgotten=left_out, last_step=last)

    compares, candidates = options.learn_from in ("ratings", "preferences"), list[Example]()

    def keep(turn: TurnRow, reason: str) -> None:
        """Keep a turn that may not be learnt as the worse of two answers, if it can be one."""
        if compares and is_worse(turn, reason, options):
            candidates.append(_example(turn))
            candidates[-1].meta |= {"weight": 1, "blamed": turn["blamed"] or turn["step_failed"]}
            del candidates[-1].meta["files"]

    examples = _collapse(_selected(turns, agent, refused, keep, report), options, report)
    for example in examples:
        example.meta["task_key"] = tasks.get(example.meta["session_id"], "")
    if options.replay:
        known = {example.id for example in examples}
        lost = [one for one in _lost(earlier, agent, steps, left_out) if one.id not in known]
        examples = sorted([*examples, *lost[: round(options.replay * len(examples))]], key=lambda one: one.id)
        report.replayed = len(examples) - len(known)
    examples = cap(examples, options, agent.min_examples, report)
    worse = worse_answers(examples, candidates, options, steps, tasks)
    if agent.payload_format == "toon":  # the id stays that of the text as logged
        savings = toon.Savings(count_tokens=count_tokens)
        for example in (*examples, *worse):
            example.prompt = [toon.encode_message(message, savings) for message in example.prompt]
        report.toon = savings.as_dict()
    np.save(output / NEAR_FILE, _cluster(examples, options, report))
    _summarise(examples, report)
    examples.sort(key=lambda one: (one.meta["started_at"], one.meta["session_id"], one.meta["step"], one.id))
    with (output / FILE).open("wb") as stream:
        stream.writelines(example.to_line() for example in examples)
    if compares:
        clusters = {example.id: example.meta["cluster"] for example in examples}
        for one in worse:  # the two of a pair go to one side of the split
            one.meta["cluster"] = clusters.get(one.meta.get("better", ""), one.id[:16])
        (output / WORSE_FILE).write_bytes(b"".join(one.to_line() for one in worse))
    return report


def near_places(examples: Sequence[Example], threshold: float) -> duplicates.Pairs:
    """(pairs, 2) places of near duplicates among examples (see `duplicates.near_pairs`)."""
    return duplicates.near_pairs(duplicates.signatures(examples, lambda example: example.text), threshold)


def read_near_pairs(folder: Path, examples: Iterable[Example]) -> list[tuple[str, str]]:
    """The example ids of near duplicates in a published dataset, found when it was made.

    A dataset of an older store does not hold them: they are looked for.
    """
    ordered = sorted(examples, key=lambda example: example.id)
    path = folder / NEAR_FILE
    places = np.load(path) if path.exists() else near_places(ordered, DatasetOptions().near_duplicate)
    return [(ordered[first].id, ordered[second].id) for first, second in places.tolist()]


def task_key(task: str) -> str:
    """A name for a task that does not depend on case, spacing or punctuation; "" for no task."""
    words = _SPACE.sub(" ", task.casefold()).strip()
    return hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:16] if words else ""


def _sessions(turns: Path) -> tuple[dict[str, Blame], dict[str, str], dict[str, tuple[int, int]]]:
    """Of each session: who is to blame, its task (as stated, else what its first call asked), its first and last step.

    A first question that many sessions share, such as a fixed instruction, is no task.
    """
    firsts: dict[str, tuple[int, str, bool]] = {}
    blamed: list[dict[str, Any]] = []
    steps: dict[str, tuple[int, int]] = {}
    for row in read_turns(turns, ["session_id", "step", "agent", "blamed", "task", "prompt"]):
        if row["blamed"]:
            blamed.append({name: row[name] for name in ("session_id", "step", "agent", "blamed")})
        session = row["session_id"]
        first, last = steps.get(session, (row["step"], row["step"]))
        steps[session] = min(first, row["step"]), max(last, row["step"])
        if session not in firsts or row["step"] < firsts[session][0]:
            task = row["task"] or first_text(orjson.loads(row["prompt"]), "user")
            firsts[session] = (row["step"], task_key(task), bool(row["task"]))
    guessed = Counter(key for _, key, stated in firsts.values() if not stated)
    common = {key for key, count in guessed.items() if count >= 10 and count > 0.2 * len(firsts)}
    tasks = {session: key for session, (_, key, stated) in firsts.items() if stated or key not in common}
    return blames(blamed), tasks, steps


def _selected(
    turns: Path,
    agent: AgentSpec,
    refused: Callable[[TurnRow], str | None],
    keep: Callable[[TurnRow, str], None],
    report: DatasetReport,
) -> Iterator[Example]:
    dropped: Counter[str] = Counter()
    for row in read_turns(turns):
        if row["agent"] != agent.name:
            continue
        report.turns += 1
        if reason := refused(row):
            dropped[reason] += 1
            keep(row, reason)
        else:
            yield _example(row)
    report.dropped = dict(dropped.most_common())


def _example(row: TurnRow) -> Example:
    prompt = [plain_message(message) for message in orjson.loads(row["prompt"])]
    completion = plain_message(orjson.loads(row["completion"]))
    meta = ExampleMeta(
        example_id=duplicates.example_id(prompt, completion),
        turn_id=row["turn_id"],
        session_id=row["session_id"],
        step=row["step"],
        started_at=row["started_at"],
        status=row["status"],
        rating=row["rating"],
        source_file=row["source_file"],
        source_sha256=row["source_sha256"],
        line=row["line"],
        completeness=row["completeness"],
        model=row["model"],
        files=[row["session_id"], row["source_file"], f"sha256:{row['source_sha256']}", *row["copies"]],
    )
    # a schema that was inferred from the calls is no schema that a model was ever offered
    tools = [tool for tool in orjson.loads(row["tools"] or "[]") if not tool.get("inferred")] or None
    return Example(prompt, [completion], tools, meta)


def _collapse(examples: Iterable[Example], options: DatasetOptions, report: DatasetReport) -> list[Example]:
    """One example for all that say the same, sorted by id: the recorded one before a rebuilt one, the earliest first.

    A call that stands in two logs, or in a log that was copied, has one turn id and counts once.
    """
    kept: dict[str, Example] = {}
    calls: dict[str, set[str]] = defaultdict(set)
    files: dict[str, set[str]] = defaultdict(set)
    rows = 0
    for example in examples:
        rows += 1
        names = example.meta.pop("files")
        if options.replay:
            files[example.id].update(names)
        calls[example.id].add(example.meta["turn_id"])
        if example.id not in kept or _age(example) < _age(kept[example.id]):
            kept[example.id] = example
    for key, example in kept.items():
        example.meta["copies"] = len(calls[key])
        example.meta["weight"] = min(len(calls[key]), options.max_weight)
        if options.replay:
            example.meta["files"] = sorted(files[key])
    report.duplicates = rows - len(kept)
    prompts = ((duplicates.prompt_id(one.prompt), one.prompt, one.completion[0]) for one in kept.values())
    report.contradictions, report.contradiction_examples = duplicates.contradictions(prompts)
    return sorted(kept.values(), key=lambda example: example.id)


def _age(example: Example) -> tuple[Any, ...]:
    meta = example.meta
    return meta["completeness"] != "whole", meta["started_at"], meta["source_file"], meta["line"], meta["turn_id"]


def _cluster(examples: Sequence[Example], options: DatasetOptions, report: DatasetReport) -> duplicates.Pairs:
    """Name each example's near-duplicate cluster after its representative; returns the pairs of near duplicates.

    `examples` are sorted by id.
    """
    pairs = near_places(examples, options.near_duplicate)
    representatives = duplicates.clusters(pairs, len(examples))
    for example, first in zip(examples, representatives, strict=True):
        example.meta["cluster"] = examples[first].id[:16]
    sizes = [size for size in Counter(representatives).values() if size > 1]
    report.near_duplicate_clusters, report.in_near_duplicate_clusters = len(sizes), sum(sizes)
    return pairs


def cap(examples: Sequence[Example], options: DatasetOptions, minimum: int, report: DatasetReport) -> list[Example]:
    """At most so many examples a session and a task; which ones stay depends on their hash alone.

    No cap takes the dataset below `minimum` rows, so that more data never means too few examples.
    """
    kept = list(examples)
    for reason in ("session_cap", "task_cap", "session_share"):
        groups: dict[str, list[Example]] = defaultdict(list)
        for example in kept:  # an example without a task is a task of its own
            task = example.meta["task_key"] or example.id
            groups[task if reason == "task_cap" else example.meta["session_id"]].append(example)
        if reason == "session_share":
            weights = [sum(one.meta["weight"] for one in group) for group in groups.values()]
            limit = _share_limit(weights, options.max_session_share)
        else:
            limit = options.max_per_session if reason == "session_cap" else options.max_per_task
        sizes = [len(group) for group in groups.values()]
        while limit < max(sizes, default=0) and sum(min(size, limit) for size in sizes) < minimum:
            limit += 1
        for group in groups.values() if reason == "session_share" else ():
            _trim_weights(group[:limit], limit)
        before = len(kept)
        kept = sorted((one for group in groups.values() for one in group[:limit]), key=lambda one: one.id)
        if len(kept) < before:
            report.capped[reason] = before - len(kept)
    report.dropped |= report.capped
    return kept


def _trim_weights(examples: Sequence[Example], limit: int) -> None:
    """Lower the weights of examples so that they sum up to `limit` at most; every example keeps a weight of one."""
    spare = limit - len(examples)
    for example in examples:
        extra = min(example.meta["weight"] - 1, spare)
        example.meta["weight"] = 1 + extra
        spare -= extra


def _share_limit(weights: Sequence[int], share: float) -> int:
    """The largest weight a session may have so that none holds more than `share` of what is left."""
    limit = max(weights, default=0)
    if len(weights) >= MIN_SESSIONS:
        while limit > 1 and limit > share * sum(min(weight, limit) for weight in weights):
            limit -= 1
    return limit


def _lost(
    earlier: Sequence[Path], agent: AgentSpec, sessions: Collection[str], forgotten: frozenset[str]
) -> list[Example]:
    """Examples of earlier datasets whose session stands in no log any more, each once, in an order of their hashes.

    A session that is still there was selected anew, by today's verdicts and today's redaction. One without `files` was
    made before `replay` was on: it cannot be known whether a forgotten file held it too.
    """
    lost: dict[str, Example] = {}
    for folder in earlier:
        for example in read_examples(folder):
            meta, files = example.meta, example.meta.get("files")
            gone = files and forgotten.isdisjoint(files) and not any(name in sessions for name in files)
            if gone and agent.teachers.accepts(meta["model"]):
                lost[example.id] = example
    return [lost[name] for name in sorted(lost)]


def _summarise(examples: Sequence[Example], report: DatasetReport) -> None:
    metas = [example.meta for example in examples]
    report.rows = len(metas)
    report.by_status = dict(Counter(meta["status"] for meta in metas).most_common())
    report.by_teacher = dict(Counter(meta["model"] or "unknown" for meta in metas).most_common(20))
    report.sessions = len({meta["session_id"] for meta in metas})
    report.tasks = len({meta["task_key"] for meta in metas if meta["task_key"]})
    report.sources = len({meta["source_file"] for meta in metas})
    report.reconstructed_share = sum(meta["completeness"] != "whole" for meta in metas) / max(1, len(metas))
    report.unknown_outcome_share = report.by_status.get("unknown", 0) / max(1, len(metas))
