"""`A/task_dataset`: the examples that agent A may learn from, as JSONL with their provenance."""

from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    OWNERS,
    code_version,
    get_store,
    key_of,
    plain_errors,
    publish_once,
    read_json,
    result,
    table,
    write_json,
)
from grokora_pipeline.sessions.examples import DatasetOptions, build_examples, read_examples
from grokora_pipeline.store import folder_version


class SelectionConfig(dg.Config):
    """Which turns may be learnt from, and how much one source may weigh."""

    learn_unknown: bool = True  # turns whose outcome nobody recorded, where their own step did not fail
    max_per_session: int = 100
    max_per_source_share: float = 0.05
    near_duplicate_similarity: float = 0.9


def task_dataset_asset(agent: AgentSpec) -> dg.AssetsDefinition:
    """The `task_dataset` asset of one agent."""
    key = key_of(agent, "task_dataset")
    version = code_version(agent.model_dump())

    @dg.asset(
        key=key.split("/"),
        deps=["session_logs"],
        group_name=agent.name,
        kinds={"python", "json"},
        owners=OWNERS,
        code_version=version,
        description=f"{agent.description} Learnable calls only: every dropped turn is counted by reason.",
        check_specs=[
            dg.AssetCheckSpec("schema", asset=key.split("/"), blocking=True, description="Every line is an example."),
            dg.AssetCheckSpec("few_reconstructed", asset=key.split("/"), description="Most prompts were recorded."),
        ],
    )
    def task_dataset(context: dg.AssetExecutionContext, config: SelectionConfig) -> dg.MaterializeResult[Any]:
        options = DatasetOptions(**config.model_dump())
        with plain_errors():
            turns = get_store().require("session_logs")

            def build(staged: Path) -> str:
                report = build_examples(turns.path, agent, staged, options)
                write_json(staged / "report.json", report.as_dict())
                return folder_version(staged)

            inputs = {
                "turns": turns.version,
                "agent": agent.model_dump(),
                "options": config.model_dump(),
                "code": version,
            }
            artifact = publish_once(context, key, inputs, build)
        return result(artifact, _metadata(artifact.path), _checks(artifact.path))

    return task_dataset


def _metadata(folder: Path) -> dict[str, Any]:
    report = read_json(folder / "report.json")
    preview = [
        {"prompt": str(example["prompt"][-1].get("content"))[:300], "completion": str(example["completion"][0])[:300]}
        for example in read_examples(folder, limit=10)
    ]
    return {"dagster/row_count": report["rows"], "preview": table(preview), **scalars(report)}


def scalars(report: dict[str, Any]) -> dict[str, Any]:
    """The numbers and small mappings of a report, ready to be metadata."""
    return {
        name: value for name, value in report.items() if isinstance(value, int | float | str | dict) and name != "rows"
    }


def _checks(folder: Path) -> list[dg.AssetCheckResult]:
    report = read_json(folder / "report.json")
    rows, share = int(report["rows"]), float(report["share_reconstructed"])
    readable = sum(1 for example in read_examples(folder) if {"prompt", "completion", "meta"} <= example.keys())
    return [
        dg.AssetCheckResult(
            check_name="schema", passed=readable == rows, metadata={"rows": rows, "readable": readable}
        ),
        dg.AssetCheckResult(
            check_name="few_reconstructed",
            passed=share <= 0.5,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{share:.0%} of the prompts were rebuilt from the log, not recorded.",
        ),
    ]
