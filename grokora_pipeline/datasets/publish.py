"""`grokora publish`: an agent's dataset as files that may leave the house, each text scanned for secrets once more.

The folder holds `data/<side>.jsonl` in the `messages` format of the Hugging Face hub and of TRL, the same examples as
ATIF 1.7 trajectories (Harbor RFC 0001), and a dataset card. Sessions and log files stand in it as hashes only.
"""

import hashlib
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.datasets.example import Example, read_examples
from grokora_pipeline.datasets.lineage import forgotten
from grokora_pipeline.datasets.selection import forget_names
from grokora_pipeline.datasets.split import SIDES
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.messages import Message, call_arguments, message_reasoning, message_text
from grokora_pipeline.sessions.redaction import measured
from grokora_pipeline.sessions.redaction.audit import kinds_in
from grokora_pipeline.sessions.redaction.redactor import VERSION as REDACTION_VERSION
from grokora_pipeline.sessions.verdicts import read_turns
from grokora_pipeline.store import Artifact, Store

ATIF_VERSION = "ATIF-v1.7"
SHOWN = 5  # findings that a refusal names
# Whose terms limit what their models' answers may train, by the model's name. A reminder, not legal advice.
_VENDOR_TERMS = {
    r"claude": "Anthropic (anthropic.com/legal)",
    r"gpt-(?!oss)|chatgpt|codex|\bo[134]\b": "OpenAI (openai.com/policies)",
    r"gemini": "Google (ai.google.dev/gemini-api/terms)",
    r"grok": "xAI (x.ai/legal)",
    r"llama": "Meta (llama.com/license)",
}


_CARD = f"""---
license: {{licence}}
task_categories:
- text-generation
tags:
- agents
- tool-calling
configs:
- config_name: default
  data_files:
{{files}}---
# {{name}}

{{description}}

{{sides}} rows ({{cut}}): each is one call of a model, with the whole prompt as `messages` and the
answer as the last of them. Take the loss on that answer alone. `tools` is JSON text. `atif/` holds the same rows as
{ATIF_VERSION} trajectories, in which everything but the last step is context. Payloads: {{payloads}}.

## Lineage

{{rows}} rows of {{sessions}} sessions and {{sources}} log files.
Dataset version `{{version}}`. Outcomes: {{outcomes}}. Prompts:
{{completeness}}. Sessions are named by hashes.

## Teachers and licences

Licence as stated by the publisher: {{licence}}. These models answered:

| model | rows | terms |
|---|---|---|
{{teachers}}

## Redaction

Secrets and personal data are typed placeholders (`<SECRET:aws_key:1>`). Every text was scanned once more before this
folder was written (redaction {REDACTION_VERSION}); nothing was found. {{measured}}
Not looked for: {{not_looked_for}}.

## Left out

Of {{turns}} calls of this agent:

{{left_out}}
- {{duplicates}} that say the same as another row
"""


@dataclass(slots=True)
class Publication:
    """What a published folder holds."""

    folder: Path
    rows: dict[str, int] = field(default_factory=dict)  # by side
    left_out: dict[str, int] = field(default_factory=dict)  # rows of the dataset that are not in it, by reason
    licence: str = "other"
    split: bool = True  # whether the rows' sides come from a split


def publish(store: Store, agent: AgentSpec, output: Path, *, licence: str = "other") -> Publication:
    """Write the agent's current dataset, its ATIF trajectories and a card into the new folder `output`.

    Rows that the split holds back, and rows of sessions, files or teachers that are not wanted any more, stay out;
    without a split all rows are training rows. Raises GrokoraError, and writes nothing, if the folder is not empty, if
    there is no dataset or no row of it, if the scan finds a secret, or if `licence` is no identifier.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", licence):  # it stands in the card's YAML
        raise GrokoraError(
            f"--licence {licence!r} is no licence identifier; give one as apache-2.0, cc-by-4.0 or other."
        )
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise GrokoraError(f"{output} exists already and is never overwritten; give another --output.")
    dataset = store.require(f"{agent.name}/task_dataset")
    sides = _sides(store, agent, dataset)
    publication = Publication(output, licence=licence, split=bool(sides))
    examples = _by_side(store, agent, dataset, sides, publication)
    publication.rows = {side: len(examples[side]) for side in SIDES if side in examples}
    if not publication.rows:
        raise GrokoraError(f"No row of {dataset.name} is left to publish ({_counts(publication.left_out)}).")
    _refuse_secrets(agent, [one for rows in examples.values() for one in rows])
    output.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        for side in publication.rows:
            _write_side(staged, side, examples[side], agent, dataset)
        (staged / "README.md").write_text(_card(agent, dataset, examples, publication), encoding="utf-8")
        staged.chmod(0o755)  # mkdtemp gives it to its owner alone
        staged.replace(output)  # replaces an empty folder and nothing else
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return publication


def _sides(store: Store, agent: AgentSpec, dataset: Artifact) -> dict[str, str]:
    """The side of each example id; empty before the first split. Raises GrokoraError if the split is another's."""
    split = store.current(f"{agent.name}/tokenized_split")
    if split is None:
        return {}
    sides: dict[str, str] = split.read_json("examples.json")
    if not sides.keys() & {one.id for one in read_examples(dataset.path)}:
        raise GrokoraError(
            f"{split.name} was made from another dataset than {dataset.name}; materialize {agent.name}/tokenized_split."
        )
    return sides


def _by_side(
    store: Store, agent: AgentSpec, dataset: Artifact, sides: Mapping[str, str], publication: Publication
) -> dict[str, list[Example]]:
    """The rows that may be published, by side; the others are counted in `publication.left_out`."""
    names = {*forgotten(store)}
    turns = store.current("session_logs")
    dropped: set[str] = set()  # turns of a file that is forgotten under another name
    if names and turns:
        dropped = {row["turn_id"] for row in read_turns(turns.path, ["turn_id", "copies"]) if names & {*row["copies"]}}
    rows: dict[str, list[Example]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for example in read_examples(dataset.path):
        meta = example.meta
        own = forget_names(meta["session_id"], [meta["source_file"]], meta["source_sha256"])
        if names & own or meta["turn_id"] in dropped:
            left_out["forgotten"] += 1
        elif not agent.teachers.accepts(meta["model"]):
            left_out["refused_teacher"] += 1  # by agents.yaml as it is now; the dataset may be older
        elif sides and example.id not in sides:
            left_out["held_back"] += 1  # it would tie training and validation, or is longer than the limit
        else:
            rows[sides.get(example.id, "train")].append(example)
    publication.left_out = dict(left_out)
    return rows


def _refuse_secrets(agent: AgentSpec, examples: Sequence[Example]) -> None:
    """Raise GrokoraError if a text of the examples or of the card, as it would be written, holds a secret."""
    findings = [f"the description of {agent.name} in agents.yaml ({kind})" for kind in kinds_in(agent.description)]
    for example in examples:
        meta = example.meta
        kinds = kinds_in([example.prompt, example.completion, example.tools, meta["model"]])
        findings += (f"{meta['source_file']}:{meta['line']} ({kind})" for kind in kinds)
    if findings:
        places = f"{', '.join(findings[:SHOWN])}{' …' if len(findings) > SHOWN else ''}"
        raise GrokoraError(
            f"The scan finds {len(findings)} possible secrets, so nothing is published: {places}. "
            "Materialize session_logs and the dataset again if redaction is newer than they are; else leave the "
            "log out with `grokora forget <file>`."
        )


def _write_side(folder: Path, side: str, examples: Sequence[Example], agent: AgentSpec, dataset: Artifact) -> None:
    trajectories = folder / "atif" / side
    trajectories.mkdir(parents=True)
    (folder / "data").mkdir(exist_ok=True)
    with (folder / "data" / f"{side}.jsonl").open("wb") as stream:
        for example in examples:
            stream.write(orjson.dumps(message_row(example), option=orjson.OPT_APPEND_NEWLINE))
            document = trajectory(example, agent.name, dataset.version)
            (trajectories / f"{example.id[:32]}.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def message_row(example: Example) -> dict[str, Any]:
    """A line of `data/<side>.jsonl`: `messages` (the answer is the last one), `tools` as JSON text, and where from.

    Every row has every member: Arrow, which loads such files, infers one schema for all rows. Tool schemas differ in
    their members, hence they are text; TRL reads both.
    """
    meta = example.meta
    return {
        "messages": [*example.prompt, *example.completion],
        "tools": orjson.dumps(example.tools).decode() if example.tools else None,
        "id": example.id,
        "session": _hashed(meta["session_id"]),
        "step": meta["step"],
        "teacher": meta["model"],
        "outcome": meta["status"],
        "rating": meta["rating"],
        "completeness": meta["completeness"],
        "weight": meta["weight"],
    }


def trajectory(example: Example, agent: str, version: str) -> dict[str, Any]:
    """The example as an ATIF trajectory whose last step is the answer; the agent's earlier steps are copied context."""
    steps: list[dict[str, Any]] = []
    owners: dict[Any, dict[str, Any]] = {}  # the latest step that made a call, by the call's id
    for message in [*example.prompt, *example.completion]:
        role, text = message["role"], message_text(message)
        owner = owners.get(message.get("tool_call_id")) if role == "tool" else None
        if owner is not None:
            result = {"source_call_id": message["tool_call_id"], "content": text}
            owner.setdefault("observation", {"results": []})["results"].append(result)
        elif role == "assistant":
            steps.append({"source": "agent", "message": text, "is_copied_context": True, **_agent_members(message)})
            owners |= {call["tool_call_id"]: steps[-1] for call in steps[-1].get("tool_calls", ())}
        else:
            steps.append({"source": "system" if role == "system" else "user", "message": text})
    answer = steps[-1]
    del answer["is_copied_context"]
    answer |= {"llm_call_count": 1, **({"model_name": example.meta["model"]} if example.meta["model"] else {})}
    return {
        "schema_version": ATIF_VERSION,
        "session_id": f"{_hashed(example.meta['session_id'])}-{example.id[:16]}",
        "agent": {
            "name": agent,
            "version": version[:16],
            **({"model_name": example.meta["model"]} if example.meta["model"] else {}),
            **({"tool_definitions": example.tools} if example.tools else {}),
        },
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps, 1)],
    }


def _agent_members(message: Message) -> dict[str, Any]:
    members: dict[str, Any] = {}
    if reasoning := message_reasoning(message):
        members["reasoning_content"] = reasoning
    if calls := message.get("tool_calls"):
        members["tool_calls"] = [
            {
                "tool_call_id": call.get("id") or f"call_{number}",
                "function_name": call["function"]["name"],
                "arguments": call_arguments(call["function"].get("arguments")) or {},
            }
            for number, call in enumerate(calls)
        ]
    return members


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _terms(teachers: Mapping[str, int]) -> Iterator[str]:
    for name, rows in teachers.items():
        vendor = next((terms for pattern, terms in _VENDOR_TERMS.items() if re.search(pattern, name.lower())), "")
        note = f"the terms of {vendor} limit what may be trained on its answers" if vendor else "terms not known here"
        yield f"| {' '.join(name.replace('|', '/').split())} | {rows} | {note} |"


def _card(
    agent: AgentSpec, dataset: Artifact, examples: Mapping[str, Sequence[Example]], publication: Publication
) -> str:
    """The dataset card: YAML for the hub, then what is in the rows, whose answers they are and what was left out."""
    report = dataset.read_json("report.json")
    every = [example.meta for rows in examples.values() for example in rows]
    teachers = Counter(meta["model"] or "unknown" for meta in every)
    left_out = Counter({**report["dropped"], **publication.left_out})
    return _CARD.format(
        licence=publication.licence,
        files="".join(f"  - split: {side}\n    path: data/{side}.jsonl\n" for side in publication.rows),
        name=agent.name,
        description=agent.description,
        sides=_counts(publication.rows),
        cut="of sessions, tasks and near duplicates kept together" if publication.split else "not split yet",
        payloads=agent.payload_format,
        rows=len(every),
        sessions=len({meta["session_id"] for meta in every}),
        sources=len({meta["source_sha256"] or meta["source_file"] for meta in every}),
        version=dataset.version,
        outcomes=_counts(Counter(meta["status"] for meta in every)),
        completeness=_counts(Counter(meta["completeness"] for meta in every)),
        teachers="\n".join(_terms(dict(teachers.most_common()))),
        measured=measured.sentence(),
        not_looked_for=measured.NOT_LOOKED_FOR,
        turns=report["turns"],
        left_out="\n".join(f"- {count} {name}" for name, count in left_out.most_common()) or "- nothing",
        duplicates=report["duplicates"],
    )
