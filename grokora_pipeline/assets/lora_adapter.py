"""`A/lora_adapter`: one LoRA adapter, trained by a process of its own on the agent's tokenized split."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from grokora_pipeline.agents import AgentSpec, find_agent
from grokora_pipeline.assets.common import (
    AssetResult,
    Project,
    base_folder,
    code_version,
    plain_errors,
    publish_once,
    result,
    warning,
)
from grokora_pipeline.assets.knobs import KnobOverrides, resolve
from grokora_pipeline.assets.plots import training_curves
from grokora_pipeline.store import content_version
from grokora_pipeline.workers.frame import run_alone

MEMORY_TOLERANCE = 0.15  # of predicted against measured peak memory
_SHOWN = (  # of the numbers of training.json, in this order; the GPU seconds are the twelfth
    *("validation_loss", "initial_validation_loss", "train_rows", "validation_rows", "rows_too_long", "steps"),
    *("steps_planned", "tokens_per_second", "train_seconds", "peak_memory_mib", "trainable_parameters"),
)


class TrainingConfig(dg.Config):
    """What can be set for one run alone."""

    knobs: KnobOverrides = Field(
        default=KnobOverrides(), description="Training knobs for this run; they win over agents.yaml and the preset."
    )


def lora_adapter_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `lora_adapter` asset of one agent."""
    key, source = f"{agent.name}/lora_adapter", f"{agent.name}/tokenized_split"
    knobs = resolve(project, agent)
    version = code_version(knobs.model_dump())

    @dg.asset(
        **project.identity(key, agent.name),
        deps=project.links_and_base(agent.name, "tokenized_split"),
        kinds={"pytorch", "huggingface"},
        code_version=version,
        **project.gpu_step(1 if knobs.num_processes == "auto" else knobs.num_processes),
        description="LoRA weights (safetensors) and the record of their training.",
        check_specs=project.check_specs(
            key, {"learnt_something": "Validation loss went down.", "memory_as_predicted": "Within 15 %."}
        ),
    )
    def lora_adapter(context: dg.AssetExecutionContext, config: TrainingConfig) -> AssetResult:
        """Train the adapter of the present split, dataset and knobs."""
        with plain_errors():
            plan = training_plan(project, agent, config.knobs.as_knobs())
            inputs = {"versions": plan["versions"], "knobs": plan["knobs"], "code": version}

            def build(staged: Path) -> None:
                """Write the adapter's folder in a process that has the device."""
                with project.store.work(key, content_version(inputs)) as work:  # a retry of a killed run goes on there
                    project.run_gpu(context, "grokora_pipeline.training", {**plan, "work": str(work)}, staged)

            artifact = publish_once(project, context, key, inputs, build)
            forget_work(project, key, inputs)
        training = artifact.read_json("training.json")
        numbers = {name: value for name, value in training.items() if isinstance(value, int | float)}
        shown = {name: numbers.pop(name) for name in _SHOWN if name in numbers}
        metadata = {"curves": training_curves(training), **shown, "more": dg.MetadataValue.json(numbers)}
        return result(
            project, artifact, metadata, _checks(training), **{"grokora/trained_on": plan["versions"][source]}
        )

    return lora_adapter


def forget_work(project: Project, key: str, inputs: dict[str, Any]) -> None:
    """Remove the work folder of what is published now. Until then it holds the adapter, so that a retry finds it."""
    with project.store.work(key, content_version(inputs)) as work:
        shutil.rmtree(work, ignore_errors=True)


def training_plan(project: Project, agent: AgentSpec, knobs: dict[str, Any]) -> dict[str, Any]:
    """The plan of a training process without its folders; `knobs` win over the agent's and the preset's."""
    store, source = project.store, f"{agent.name}/tokenized_split"
    split, base = store.require(source), store.require("base_model")
    return {
        "agent": agent.name,
        "base": str(base_folder(base.path)),
        "base_id": base.read_json("base_model.json")["model_id"],
        "split": str(split.path),
        "knobs": resolve(project, agent, knobs).model_dump(),
        "versions": {source: split.version, "base_model": base.version},
        "self_tests": str(store.root / ".self_tests"),  # of this machine: made once a base
    }


def shrink_adapter(project: Project, agent: str, rank: int, output: Path) -> dict[str, Any]:
    """Write the agent's current adapter at a lower rank (see `training/shrink.py`); returns sizes and losses."""
    spec, adapter = find_agent(project.agents, agent), project.store.require(f"{agent}/lora_adapter")
    plan = {**training_plan(project, spec, {}), "adapter": str(adapter.path), "output": str(output), "rank": rank}
    return run_alone("grokora_pipeline.training.shrink", plan)


def _checks(training: dict[str, Any]) -> list[dg.AssetCheckResult]:
    before, after = float(training["initial_validation_loss"]), float(training["validation_loss"])
    learnt = f"Validation loss went from {before:.3f} to {after:.3f}."
    predicted, measured = training["predicted_memory_mib"], training["peak_memory_mib"]
    off = predicted / measured - 1
    memory = f"{predicted:.0f} MiB were predicted before the run, {measured:.0f} MiB measured ({off:+.0%})."
    figures = {"predicted_mib": predicted, "measured_mib": measured, "off_percent": round(100 * off, 1)}
    return [
        warning("learnt_something", after < before, learnt, before=before, after=after),
        warning("memory_as_predicted", abs(off) <= MEMORY_TOLERANCE, memory, **figures),
    ]
