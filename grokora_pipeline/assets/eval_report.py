"""`A/eval_report`: base, few-shot, adapter and champion on the same held-out rows, with intervals."""

from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    OWNERS,
    Made,
    base_folder,
    code_version,
    get_store,
    key_of,
    plain_errors,
    publish_once,
    read_json,
    result,
)
from grokora_pipeline.assets.knobs import resolve
from grokora_pipeline.evaluation.registry import Registry
from grokora_pipeline.execution.process import CUDA_POOL, DEVICE_RETRIES, GpuProcess, cuda_tags
from grokora_pipeline.store import Artifact


class EvaluationConfig(dg.Config):
    """How much is evaluated; more rows give narrower intervals and take longer."""

    max_rows: int = 0  # 0: 32 with the preset `sample`, else 200
    few_shot: int = 0
    seed: int = 7


def champion_of(agent: str) -> Artifact | None:
    """The adapter in service for an agent, or None."""
    return Registry(get_store()).in_service(agent)


def eval_report_asset(agent: AgentSpec) -> dg.AssetsDefinition:
    """The `eval_report` asset of one agent."""
    key = key_of(agent, "eval_report")
    version = code_version(agent.answer.model_dump(), agent.metric)

    @dg.asset(
        key=key.split("/"),
        deps=[[agent.name, "lora_adapter"], [agent.name, "tokenized_split"], "base_model"],
        group_name=agent.name,
        kinds={"huggingface", "html"},
        owners=OWNERS,
        code_version=version,
        op_tags=cuda_tags(),
        pool=CUDA_POOL,
        retry_policy=DEVICE_RETRIES,
        description=f"Is the adapter better than the base model? Main metric: {agent.metric}.",
    )
    def eval_report(context: dg.AssetExecutionContext, config: EvaluationConfig, gpu: GpuProcess) -> Made:
        with plain_errors():
            rows = config.max_rows or (32 if resolve(agent).preset == "sample" else 200)
            inputs, plan = _inputs(agent, {**config.model_dump(), "max_rows": rows})

            def build(staged: Path) -> None:
                gpu.run(context, "grokora_pipeline.evaluation", {**plan, "output": str(staged)}, staged)

            artifact = publish_once(context, key, inputs, build)
        return result(artifact, _metadata(artifact))

    return eval_report


def _inputs(agent: AgentSpec, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the report depends on (its fingerprint), and the plan for the process that makes it."""
    store = get_store()
    names = ("task_dataset", "tokenized_split", "lora_adapter")
    dataset, split, adapter = (store.require(key_of(agent, name)) for name in names)
    base, champion = store.require("base_model"), champion_of(agent.name)
    if champion and champion.version == adapter.version:
        champion = None  # nothing to compare: this very adapter is in service
    versions: dict[str, str | None] = {artifact.key: artifact.version for artifact in (base, dataset, split, adapter)}
    answer = agent.answer.model_dump(by_alias=True)
    versions |= {"adapter": adapter.version, "champion": champion.version if champion else None}
    inputs = {
        "versions": versions,
        "answer": answer,
        "metric": agent.metric,
        "config": config,
        "code": code_version(),
    }
    plan = {
        "agent": agent.name,
        "answer": answer,
        "main_metric": agent.metric,
        "base": str(base_folder(base.path)),
        "base_hash": base.version,
        "adapter": str(adapter.path),
        "champion": str(champion.path) if champion else None,
        "split": str(split.path),
        "examples": str(dataset.path / "examples.jsonl"),
        "cache": str(store.root / ".cache" / "answers"),
        "versions": versions,
        **config,
    }
    return inputs, plan


def _metadata(artifact: Artifact) -> dict[str, Any]:
    report = read_json(artifact.path / "report.json")
    flat = {
        f"{system}/{metric}": score["value"]
        for system, scores in report["systems"].items()
        for metric, score in scores["metrics"].items()
        if score["value"] is not None
    }
    return {
        "report": dg.MetadataValue.path(artifact.link("report.html")),
        "table": dg.MetadataValue.md(report["markdown"]),
        "dagster/row_count": report["rows"],
        **flat,
    }
