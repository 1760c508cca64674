"""`A/task_dataset`: the examples that agent A may learn from, as JSONL with their provenance."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, create_model

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    AssetResult,
    Project,
    RefusedError,
    base_folder,
    code_version,
    columns,
    plain_errors,
    publish_once,
    read_json,
    result,
    scalars,
    table,
    warning,
    write_json,
)
from grokora_pipeline.assets.sources import FORGET_LIST
from grokora_pipeline.datasets.example import read_examples
from grokora_pipeline.datasets.examples import build_examples
from grokora_pipeline.datasets.lineage import forgotten
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.errors import counted
from grokora_pipeline.execution.process import NODE_RETRIES
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.store import folder_version

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = columns(
    prompt="json: list of chat messages",
    completion="json: list with the assistant's message",
    tools="json: list of tool schemas, or absent",
    meta="json: turn_id, session_id, task_key, cluster, weight, status, rating, source_file, completeness",
)
_CHECKS = {  # `schema` is blocking: what is no example is not published
    "schema": "Every line is an example.",
    "varied_answers": "No single answer dominates.",
    "few_reconstructed": "Most prompts were recorded.",
    "known_outcomes": "Most sessions say how they ended.",
    "caps": "What the caps by session and task cost.",
}
_SELECTION = 3  # raise it when the same turns and options would give other examples
_TOON_NEEDS = {"toon": ("base_model",)}  # its tokenizer counts what TOON saves
Result = Iterator[AssetResult | dg.AssetCheckResult]


class SelectionConfig(DatasetOptions, dg.Config):
    """Which turns may be learnt, and how much one session and one task may weigh."""


def selection_config(agent: AgentSpec) -> type[SelectionConfig]:
    """The launchpad's config of an agent's dataset: `DatasetOptions` with the agent's own defaults."""
    own: dict[str, Any] = {}
    for name in ("unknown_outcome", "learn_from", "unknown_blame", "replay"):
        field = DatasetOptions.model_fields[name]
        own[name] = (field.annotation, Field(default=getattr(agent, name), description=field.description))
    return create_model("SelectionConfig", __base__=SelectionConfig, **own)


def task_dataset_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `task_dataset` asset of one agent."""
    key = f"{agent.name}/task_dataset"
    # What changes an example. A description, a metric or a training knob is none of it and makes nothing stale.
    facts = agent.model_dump(include={"name", "payload_format", "unknown_outcome", "teachers"})
    later = agent.model_dump(include={"learn_from", "unknown_blame", "replay"}, exclude_defaults=True)
    later |= {"rated": "blamed"} if "learn_from" in later else {}  # a low rating is of the blamed step, not of all
    version = code_version(facts | later, _SELECTION)  # what an older store did not know counts only if it is set

    @dg.asset(
        **project.identity(key, agent.name),
        deps=[project.key(name) for name in ("session_logs", FORGET_LIST, *_TOON_NEEDS.get(agent.payload_format, ()))],
        kinds={"python", "json"},
        metadata=_COLUMNS,
        code_version=version,
        retry_policy=NODE_RETRIES,
        description=f"{agent.description} Learnable calls only: every dropped turn is counted by reason.",
        check_specs=project.check_specs(key, _CHECKS, blocking="schema"),
    )
    def task_dataset(context: dg.AssetExecutionContext, config: selection_config(agent)) -> Result:  # type: ignore[valid-type]
        """Select the learnable calls of the agent; a dataset that is no dataset is not published."""
        options = DatasetOptions(**config.model_dump())
        left_out = forgotten(project.store)
        with plain_errors():
            turns = project.store.require("session_logs")

            inputs = {
                "turns": turns.version,
                "agent": facts,
                "minimum": agent.min_examples,
                "options": options.inputs(),
                "forgotten": left_out,
                "code": version,
            }
            try:
                build = partial(
                    _build, project=project, agent=agent, options=options, turns=turns.path, left_out=left_out
                )
                artifact = publish_once(project, context, key, inputs, build)
            except RefusedError as refused:
                yield refused.check
                raise
        from grokora_pipeline.datasets.frames import examples  # pandas would slow down the loading of definitions

        frame, report = examples(project.store, agent.name), artifact.read_json("report.json")
        checks = [_schema(artifact.path), *_checks(report, frame["answer"])]
        yield result(project, artifact, _metadata(report, frame), checks)

    return task_dataset


def _build(
    staged: Path, *, project: Project, agent: AgentSpec, options: DatasetOptions, turns: Path, left_out: tuple[str, ...]
) -> str:
    """Write the dataset into a staged folder; its content's version. RefusedError if the check `schema` fails."""
    tokenizer = None
    if agent.payload_format == "toon":  # what it saves is counted in the base model's tokens
        tokenizer = ChatFormat.load(base_folder(project.store.require("base_model").path))
    report = build_examples(
        turns,
        agent,
        staged,
        options,
        forgotten=left_out,
        count_tokens=(lambda text: len(tokenizer.encode(text))) if tokenizer else None,
        earlier=[one.path for one in project.store.versions(f"{agent.name}/task_dataset")] if options.replay else [],
    )
    replayed = set() if options.replay else {"replayed"}  # the report of older stores stays what it was
    write_json(staged / "report.json", {name: value for name, value in asdict(report).items() if name not in replayed})
    if not _schema(staged).passed:
        raise RefusedError(_schema(staged))
    return folder_version(staged)


def _metadata(report: dict[str, Any], frame: "pd.DataFrame") -> dict[str, Any]:
    preview = frame.head(10)[["question", "answer"]].astype(str)
    return {
        "dagster/row_count": report["rows"],
        "preview": table(preview.apply(lambda texts: texts.str[:300]).to_dict("records")),
        "contradictions": table(report["contradiction_examples"]),
        **{name: value for name, value in scalars(report).items() if name != "contradictions"},
        "contradictions_count": report["contradictions"],
    }


def _schema(folder: Path) -> dg.AssetCheckResult:
    rows = int(read_json(folder / "report.json")["rows"])
    readable = sum(1 for example in read_examples(folder) if example.prompt and example.completion)
    return dg.AssetCheckResult(
        check_name="schema",
        passed=readable == rows,
        description=f"With a prompt and an answer: {readable} of {counted(rows, 'line')}.",
    )


def _checks(report: dict[str, Any], answers: "pd.Series[str]") -> list[dg.AssetCheckResult]:
    rows, share = int(report["rows"]), float(report["reconstructed_share"])
    shares = answers.value_counts(normalize=True)
    commonest = float(shares.max()) if rows else 0.0
    unknown, capped = int(report["by_status"].get("unknown", 0)), dict(report.get("capped", {}))
    unlearnt, turns = int(report["dropped"].get("unknown_outcome", 0)), int(report["turns"])
    lost = sum(capped.values())
    return [
        warning(
            "varied_answers",
            commonest <= 0.5,
            f"The commonest answer is {commonest:.0%} of all.",
            commonest_answer_share=commonest,
            different_answers=len(shares),
        ),
        warning(
            "few_reconstructed", share <= 0.5, f"{share:.0%} of the prompts were rebuilt from the log, not recorded."
        ),
        warning(
            "known_outcomes",
            unknown + unlearnt <= 0.5 * max(1, turns),
            f"Nobody said how the sessions of {unlearnt + unknown} of {counted(turns, 'turn')} ended: {unlearnt} left "
            f"out, {unknown} learnt all the same. `unknown_outcome` in agents.yaml says which.",
            left_out=unlearnt,
            learnt=unknown,
            turns=turns,
        ),
        warning(
            "caps",
            lost <= 0.2 * (rows + lost),
            f"The caps left out {lost} of {counted(rows + lost, 'example')}"
            + (f" ({', '.join(f'{name} {count}' for name, count in capped.items())})." if lost else "."),
            **{name: int(count) for name, count in capped.items()},
        ),
    ]
