"""`A/improvement`: recordings of the champion's own answers that a verifier accepted, for agents with `improve`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from grokora_pipeline.agents import AgentSpec, Improve
from grokora_pipeline.assets.common import (
    AssetResult,
    Project,
    base_folder,
    champions_plan,
    code_version,
    plain_errors,
    publish_once,
    result,
    write_json,
)
from grokora_pipeline.sandbox.roles import AGENTS as ROLES
from grokora_pipeline.store import content_version, write_atomic

LINK = "improvement"
_SOURCES = ("task_dataset", "tokenized_split")  # of the prompts that are asked again


class ImproveConfig(dg.Config):
    """How often is asked; what is not given is the agent's `improve` in agents.yaml."""

    tasks: int | None = Field(default=None, description="Training prompts, or tasks of the sandbox.")
    samples: int | None = Field(default=None, description="Answers a task.")
    temperature: float | None = Field(default=None, description="Of the answers.")
    seed: int | None = Field(default=None, description="Another seed asks other tasks.")


def improvement_asset(project: Project, agent: AgentSpec, improve: Improve) -> dg.AssetsDefinition:
    """The `improvement` asset of one agent."""
    key = f"{agent.name}/{LINK}"

    @dg.asset(
        **project.identity(key, "improvement"),  # a group apart from the agents', whose chains one click makes
        deps=project.links_and_base(agent.name, "champion", *_SOURCES),
        kinds={"huggingface", "json"},
        code_version=code_version(improve.model_dump()),
        **project.gpu_step(),
        description="The champion's own answers to training prompts that a verifier accepted, as recordings among the "
        "logs; the next dataset holds them.",
    )
    def improvement(context: dg.AssetExecutionContext, config: ImproveConfig) -> AssetResult:
        """Sample the champion's answers to training prompts and record those that the verifier accepts."""
        with plain_errors():
            spec = improve.model_copy(update=config.model_dump(exclude_none=True))
            inputs, plan = _inputs(project, agent, spec)
            version = content_version(inputs)[:12]

            def build(staged: Path) -> None:
                """Write the recordings in a process that has the device."""
                started = datetime.now(UTC).isoformat(timespec="seconds")
                task = {**plan, "version": version, "started_at": started}
                counts = project.run_gpu(context, "grokora_pipeline.evaluation.improve", task, staged)
                write_json(staged / "improvement.json", counts)

            artifact = publish_once(project, context, key, inputs, build)
            counts = artifact.read_json("improvement.json")
            # named by the inputs: the same round again replaces its file instead of adding a second one
            recordings = project.settings.recordings_folder / "improve" / f"{agent.name}-{version}.jsonl"
            if counts["lines"]:  # atomic: the log sensor never reads half a file
                write_atomic(recordings, artifact.read("recordings.jsonl"), permissions=0o666)
        return result(project, artifact, {**counts, "recordings": dg.MetadataValue.path(str(recordings))})

    return improvement


def _inputs(project: Project, agent: AgentSpec, spec: Improve) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the recordings depend on (their fingerprint), and the plan for the process that makes them."""
    store, registry = project.store, project.registry
    base, names = store.require("base_model"), ROLES if spec.verify == "sandbox" else (agent.name,)
    dataset, split = (store.require(f"{agent.name}/{link}") for link in _SOURCES)
    served = {name: registry.prompt(name) or registry.in_service(name) for name in names}
    inputs = {
        "base": base.version,
        "champions": {name: artifact.version if artifact else None for name, artifact in served.items()},
        # the sandbox makes its own tasks, whatever the logs hold
        "sources": {}
        if spec.verify == "sandbox"
        else dict(zip(_SOURCES, (dataset.version, split.version), strict=True)),
        "improve": spec.model_dump(),
        "code": code_version(),
    }
    plan = {
        "agent": agent.name,
        "base": str(base_folder(base.path)),
        **champions_plan(project, names),
        "improve": spec.model_dump(),
        "answer": agent.answer.model_dump(by_alias=True),
        "examples": str(dataset.path / "examples.jsonl"),
        "split": str(split.path),
    }
    return inputs, plan
