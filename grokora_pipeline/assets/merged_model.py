"""`A/merged_model`: the base model and the champion's adapter in one, for servers that know no adapters."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    OWNERS,
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
from grokora_pipeline.datasets.examples import read_examples
from grokora_pipeline.execution.process import DEVICE_RETRIES, cuda_tags

_PROMPTS = 8


def merged_model_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `merged_model` asset of one agent."""
    key = key_of(agent, "merged_model")

    @dg.asset(
        key=project.key(key),
        deps=[project.key(agent.name, "champion"), project.key(agent.name, "task_dataset"), project.key("base_model")],
        group_name=project.label(agent.name),
        kinds={"huggingface"},
        owners=OWNERS,
        io_manager_key=project.io_manager,
        code_version=code_version(),
        op_tags=cuda_tags(),
        pool=project.pool,
        required_resource_keys={project.gpu_resource},
        retry_policy=DEVICE_RETRIES,
        output_required=False,
        description="Merged in bf16 from the unquantised base, and compared with base + adapter.",
        check_specs=[
            dg.AssetCheckSpec(
                "same_logits", asset=project.key(key), blocking=True, description="Merging changed no answer."
            )
        ],
    )
    def merged_model(context: dg.AssetExecutionContext) -> Iterator[Any]:
        store, adapter = project.store, champion_of(project, agent.name)
        if adapter is None:
            context.log.warning(f"{agent.name} has no champion yet: there is nothing to merge.")
            yield dg.AssetCheckResult(
                asset_key=project.key(key),
                check_name="same_logits",
                passed=True,
                description="Nothing to merge: the agent has no champion.",
            )
            return
        with plain_errors():
            base, dataset = store.require("base_model"), store.require(key_of(agent, "task_dataset"))

            def build(staged: Path) -> None:
                prompts = [
                    {"prompt": example.prompt, "tools": example.tools}
                    for example in islice(read_examples(dataset.path), _PROMPTS)
                ]
                plan = {
                    "base": str(base_folder(base.path)),
                    "adapter": str(adapter.path),
                    "output": str(staged),
                    "prompts": prompts,
                }
                write_json(
                    staged / "merge.json",
                    project.gpu(context).run(context, "grokora_pipeline.models.merge", plan, staged),
                )

            inputs = {"base": base.version, "adapter": adapter.version, "code": code_version()}
            artifact = publish_once(project, context, key, inputs, build)
        record = read_json(artifact.path / "merge.json")
        check = dg.AssetCheckResult(
            check_name="same_logits",
            passed=bool(record["agrees"]),
            metadata={name: value for name, value in record.items() if isinstance(value, int | float)},
            description=f"Merged model against base + adapter on {_PROMPTS} prompts.",
        )
        yield result(project, artifact, {**record, "adapter": adapter.version}, [check])

    return merged_model
