"""`A/export`: the champion as files for another engine, with a card. On demand only (job `export_champions`).

Without an engine in its config it makes nothing, so that "Materialize all" in the global graph costs nothing here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    AssetResult,
    Project,
    code_version,
    plain_errors,
    publish_once,
    result,
    write_json,
)
from grokora_pipeline.assets.eval_report import evaluation_plan
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import Artifact

LINK, GROUP = "export", "exports"  # a group apart from the agents', whose chains one click makes
WORKER = "grokora_pipeline.evaluation.export"


class ExportConfig(dg.Config):
    """For which engine, and how."""

    to: str = Field(default="", description="gguf, ollama, vllm, mlx or peft; empty: nothing is written.")
    kind: str = Field(default="bf16", description="Of the base's weights in a GGUF file: f32, bf16, q8_0 or q4_0.")
    merged: bool = Field(default=False, description="One GGUF file of base and adapter, instead of two.")
    prompts: int = Field(
        default=12, ge=0, description="Held-out prompts that a llama.cpp is asked as proof, if there is one; 0: none."
    )


def export_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `export` asset of one agent."""
    key = f"{agent.name}/{LINK}"

    @dg.asset(
        **project.identity(key, GROUP),
        deps=project.links_and_base(agent.name, "champion", "tokenized_split", "task_dataset"),
        output_required=False,
        kinds={"huggingface"},
        code_version=code_version(agent.payload_format),
        **project.gpu_step(),
        description="The champion for llama.cpp, Ollama, vLLM, MLX or PEFT, with its template and a card.",
    )
    def export(context: dg.AssetExecutionContext, config: ExportConfig) -> Iterator[AssetResult]:
        """Write the champion for the configured engine; nothing if none is configured or there is no adapter."""
        if not config.to:
            context.log.info("No engine is configured, so nothing is exported; the job export_champions does it.")
            return
        champion = project.registry.in_service(agent.name)
        if champion is None:
            context.log.warning(f"{agent.name} has no adapter of the present base in service: nothing is exported.")
            return
        with plain_errors():
            plan = export_plan(project, agent, config, champion)

            def build(staged: Path) -> None:
                """Write the export's folder and `export.json`."""
                write_json(staged / "export.json", project.run_gpu(context, WORKER, plan, staged))

            folders = ("base", "adapter", "split", "examples", "base_hash")  # paths differ from machine to machine
            facts = {name: value for name, value in plan.items() if name not in folders}
            artifact = publish_once(project, context, key, {"plan": facts, "code": code_version()}, build)
        card = artifact.read_json("export.json")
        text = (artifact.path / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)[-1]
        shown = {name: card[name] for name in ("target", "command", "proof", "bytes")}
        yield result(project, artifact, {**shown, "card": dg.MetadataValue.md(text)})

    return export


def export_plan(
    project: Project, agent: AgentSpec, config: ExportConfig, champion: Artifact | None = None
) -> dict[str, Any]:
    """What the process of an export has to know, but for `output`, of the `champion` or of the adapter in service.

    GrokoraError if there is none.
    """
    registry = project.registry
    champion = champion or registry.in_service(agent.name)
    if champion is None:
        raise GrokoraError(
            f"{agent.name} has no adapter of the present base in service; `grokora champion history {agent.name}` says "
            "why."
        )
    judged = evaluation_plan(project, agent, champion.path)
    base = project.store.require("base_model")
    record = base.read_json("base_model.json")
    return {
        **{name: judged[name] for name in ("agent", "answer", "main_metric", "base", "adapter", "split", "examples")},
        **{name: record[name] for name in ("model_id", "revision", "licence")},
        "versions": {"base_model": base.version, "lora_adapter": champion.version},
        "target": config.to,
        "kind": config.kind,
        "merged": config.merged,
        "prompts": config.prompts,
        "toon": agent.payload_format == "toon",
        "prompted": registry.prompt(agent.name) is not None,
        "evidence": str((registry.record(agent.name) or {}).get("reason") or "set by hand"),
        "metrics": _metrics(project, agent, champion.version),
    }


def _metrics(project: Project, agent: AgentSpec, adapter: str) -> str:
    """The main metric of an adapter and of the base in its latest report, in words."""
    store, key = project.store, f"{agent.name}/eval_report"
    for record in reversed(store.history(key, "current")):
        artifact = store.find(key, record["version"])
        report = artifact.read_json("report.json") if artifact else {"versions": {}}
        if report["versions"].get("adapter") == adapter:
            name = report["main_metric"]
            scores = (report["systems"][system]["metrics"].get(name) for system in ("adapter", "base"))
            ours, base = ("{value:.3f} ({low:.3f} to {high:.3f})".format(**one) if one else "none" for one in scores)
            return f"{name} {ours} on {report['rows']} held-out rows, the base's {base}"
    return "no report of this adapter is in the store"
