"""`A/task_dataset`: the examples that agent A may learn from, as JSONL with their provenance."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    OWNERS,
    Made,
    Project,
    base_folder,
    code_version,
    columns,
    key_of,
    plain_errors,
    publish_once,
    read_json,
    result,
    table,
    write_json,
)
from grokora_pipeline.datasets.examples import build_examples, read_examples
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.datasets.trace import forgotten
from grokora_pipeline.execution.process import NODE_RETRIES
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.store import folder_version

_COLUMNS = columns(
    prompt="json: list of chat messages",
    completion="json: list with the assistant's message",
    tools="json: list of tool schemas, or absent",
    meta="json: turn_id, session_id, task_key, cluster, weight, status, rating, source_file, completeness",
)
_TOON_NEEDS = {"toon": ("base_model",)}  # its tokenizer counts what TOON saves


class SelectionConfig(dg.Config):
    """Which turns may be learnt, and how much one source may weigh; the fields are those of `DatasetOptions`."""

    unknown_outcome: str = ""  # tool_calls, all or none; empty: as agents.yaml says
    min_rating: int = 4
    reconstructed: bool = True
    max_weight: int = 3
    near_duplicate: float = 0.9
    max_per_session: int = 100
    max_per_source: int = 100
    max_source_share: float = 0.05


def task_dataset_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `task_dataset` asset of one agent."""
    key = key_of(agent, "task_dataset")
    facts = agent.model_dump(exclude={"retrain", "canary"})  # what changes no example
    version = code_version(facts, forgotten(project.store))

    @dg.asset(
        key=project.key(key),
        deps=[project.key(name) for name in ("session_logs", *_TOON_NEEDS.get(agent.payload_format, ()))],
        group_name=project.label(agent.name),
        kinds={"python", "json"},
        owners=OWNERS,
        metadata=_COLUMNS,
        code_version=version,
        retry_policy=NODE_RETRIES,
        description=f"{agent.description} Learnable calls only: every dropped turn is counted by reason.",
        check_specs=[
            dg.AssetCheckSpec("schema", asset=project.key(key), blocking=True, description="Every line is an example."),
            dg.AssetCheckSpec("varied_answers", asset=project.key(key), description="No single answer dominates."),
            dg.AssetCheckSpec("few_reconstructed", asset=project.key(key), description="Most prompts were recorded."),
        ],
    )
    def task_dataset(context: dg.AssetExecutionContext, config: SelectionConfig) -> Made:
        fields = {**config.model_dump(), "unknown_outcome": config.unknown_outcome or agent.unknown_outcome}
        options = DatasetOptions(**fields, forgotten=forgotten(project.store))
        with plain_errors():
            turns = project.store.require("session_logs")

            def build(staged: Path) -> str:
                report = build_examples(turns.path, agent, staged, options, count_tokens=_token_counter(project, agent))
                write_json(staged / "report.json", asdict(report))
                return folder_version(staged)

            inputs = {
                "turns": turns.version,
                "agent": facts,
                "options": asdict(options),
                "code": version,
            }
            artifact = publish_once(project, context, key, inputs, build)
        return result(project, artifact, _metadata(artifact.path), _checks(artifact.path))

    return task_dataset


def _metadata(folder: Path) -> dict[str, Any]:
    report = read_json(folder / "report.json")
    preview = [
        {"prompt": _shown(example.prompt[-1]), "completion": _shown(example.completion[0])}
        for example in islice(read_examples(folder), 10)
    ]
    return {
        "dagster/row_count": report["rows"],
        "preview": table(preview),
        "contradictions": table(report["contradiction_examples"]),
        **{name: value for name, value in scalars(report).items() if name != "contradictions"},
        "contradictions_count": report["contradictions"],
    }


def _token_counter(project: Project, agent: AgentSpec) -> Callable[[str], int] | None:
    if agent.payload_format != "toon":
        return None
    chat = ChatFormat.load(base_folder(project.store.require("base_model").path))
    return lambda text: len(chat.encode(text))


def _shown(message: dict[str, Any]) -> str:
    return f"{message.get('content') or ''} {message.get('tool_calls') or ''}".strip()[:300]


def scalars(report: dict[str, Any]) -> dict[str, Any]:
    """The numbers and small mappings of a report, ready to be metadata."""
    return {
        name: value for name, value in report.items() if isinstance(value, int | float | str | dict) and name != "rows"
    }


def _checks(folder: Path) -> list[dg.AssetCheckResult]:
    report = read_json(folder / "report.json")
    rows, share = int(report["rows"]), float(report["reconstructed_share"])
    examples = list(read_examples(folder))
    readable = sum(1 for example in examples if example.prompt and example.completion)
    answers = Counter(_shown(example.completion[0]) for example in examples)
    commonest = max(answers.values(), default=0) / max(1, rows)
    return [
        dg.AssetCheckResult(
            check_name="schema",
            passed=readable == rows,
            description=f"{readable} of {rows} lines are examples with a prompt and an answer.",
        ),
        dg.AssetCheckResult(
            check_name="varied_answers",
            passed=commonest <= 0.5,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"commonest_answer_share": commonest, "different_answers": len(answers)},
            description=f"The commonest answer is {commonest:.0%} of all.",
        ),
        dg.AssetCheckResult(
            check_name="few_reconstructed",
            passed=share <= 0.5,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{share:.0%} of the prompts were rebuilt from the log, not recorded.",
        ),
    ]
