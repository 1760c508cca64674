"""`A/improvement`: recordings of the champion's own answers that a verifier accepted, for agents with `improve`."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.agents import AgentSpec, Improve
from grokora_pipeline.assets.common import (
    OWNERS,
    Made,
    Project,
    base_folder,
    code_version,
    key_of,
    plain_errors,
    publish_once,
    read_json,
    result,
    write_json,
)
from grokora_pipeline.assets.eval_report import champion_of
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.execution.process import DEVICE_RETRIES, cuda_tags
from grokora_pipeline.sandbox.roles import AGENTS as ROLES
from grokora_pipeline.store import content_version
from grokora_pipeline.store.champions import Registry

LINK = "improvement"


class ImproveConfig(dg.Config):
    """How often is asked; what is not given is the agent's `improve` in agents.yaml."""

    tasks: int | None = None  # training prompts, or tasks of the sandbox
    samples: int | None = None  # answers a task
    temperature: float | None = None
    seed: int | None = None  # another seed asks other tasks


def improvement_asset(project: Project, agent: AgentSpec, improve: Improve) -> dg.AssetsDefinition:
    """The `improvement` asset of one agent."""
    key = key_of(agent, LINK)
    links = ("champion", "task_dataset", "tokenized_split")

    @dg.asset(
        key=project.key(key),
        deps=[*(project.key(agent.name, link) for link in links), project.key("base_model")],
        group_name=project.label("improvement"),  # apart from the agents' groups, whose chains one click makes
        kinds={"huggingface", "json"},
        owners=OWNERS,
        io_manager_key=project.io_manager,
        code_version=code_version(improve.model_dump()),
        op_tags=cuda_tags(),
        pool=project.pool,
        required_resource_keys={project.gpu_resource},
        retry_policy=DEVICE_RETRIES,
        description="The champion's own answers to training prompts that a verifier accepted, as recordings among the "
        "logs; the next dataset holds them.",
    )
    def improvement(context: dg.AssetExecutionContext, config: ImproveConfig) -> Made:
        """Sample the champion's answers to training prompts and record those that the verifier accepts."""
        with plain_errors():
            spec = improve.model_copy(update=config.model_dump(exclude_none=True))
            store, base = project.store, project.store.require("base_model")
            names = ROLES if spec.verify == "sandbox" else (agent.name,)
            if prompted := [name for name in names if Registry(store).prompt(name)]:
                raise GrokoraError(
                    f"The champion of {', '.join(prompted)} is a fixed prompt; improve samples adapters, so "
                    "promote one with grokora champion."
                )
            champions = {name: champion_of(project, name) for name in names}
            sources = {link: store.require(key_of(agent, link)) for link in links[1:]}
            inputs = {
                "base": base.version,
                "champions": {name: found.version if found else None for name, found in champions.items()},
                "sources": {} if spec.verify == "sandbox" else {link: one.version for link, one in sources.items()},
                "improve": spec.model_dump(),
                "code": code_version(),
            }
            version = content_version(inputs)[:12]

            def build(staged: Path) -> None:
                """Write the recordings in a process that has the device."""
                plan: dict[str, Any] = {
                    "agent": agent.name,
                    "version": version,
                    "base": str(base_folder(base.path)),
                    "adapters": {name: str(found.path) if found else None for name, found in champions.items()},
                    "output": str(staged),
                    "improve": spec.model_dump(),
                    "answer": agent.answer.model_dump(by_alias=True),
                    "examples": str(sources["task_dataset"].path / "examples.jsonl"),
                    "split": str(sources["tokenized_split"].path),
                    "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                counts = project.gpu(context).run(context, "grokora_pipeline.evaluation.improve", plan, staged)
                write_json(staged / "improvement.json", counts)

            artifact = publish_once(project, context, key, inputs, build)
            counts = read_json(artifact.path / "improvement.json")
            recordings = project.settings.recordings_folder / "improve" / f"{agent.name}-{version}.jsonl"
            if counts["lines"]:
                recordings.parent.mkdir(parents=True, exist_ok=True)
                partial = recordings.with_suffix(".part")
                shutil.copyfile(artifact.path / "recordings.jsonl", partial)
                partial.replace(recordings)  # the log sensor never reads half a file
        return result(project, artifact, {**counts, "recordings": dg.MetadataValue.path(str(recordings))})

    return improvement
