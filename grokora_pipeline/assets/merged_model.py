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
    RefusedError,
    base_folder,
    code_version,
    plain_errors,
    publish_once,
    result,
    selected,
    write_json,
)
from grokora_pipeline.datasets.example import read_examples
from grokora_pipeline.store import Artifact

_PROMPTS = 8


def merged_model_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `merged_model` asset of one agent."""
    key = f"{agent.name}/merged_model"
    spec = dg.AssetSpec(
        project.key(key),
        deps=project.links_and_base(agent.name, "champion", "task_dataset"),
        group_name=project.label(agent.name),
        kinds={"huggingface"},
        owners=OWNERS,
        metadata={"dagster/io_manager_key": project.io_manager},  # specs have no parameter for it
        code_version=code_version(),
        skippable=True,
        description="Merged in bf16 from the unquantised base, and compared with base + adapter.",
    )

    @dg.multi_asset(
        name="__".join(spec.key.path),
        specs=[spec],
        can_subset=True,  # else a result of the check is demanded even if it was not made
        check_specs=project.check_specs(key, {"same_logits": "Merging changed no answer."}, blocking="same_logits"),
        **project.gpu_step(tags={"dagster/priority": "-1"}),  # nobody waits for it; others wait for a device
    )
    def merged_model(context: dg.AssetExecutionContext) -> Iterator[Any]:
        """The comparison comes before the publication; without a champion there is neither model nor check."""
        adapter, prompt = project.registry.in_service(agent.name), project.registry.prompt(agent.name)
        if prompt and adapter:
            context.log.warning(f"{agent.name} is served with the prompt {prompt.version}, which no weights hold.")
        if adapter is None:
            why = "is served by a fixed prompt" if prompt else "has no champion on the present base model"
            context.log.warning(f"{agent.name} {why}, so no adapter is in service and there is nothing to merge.")
            return
        with plain_errors():
            try:
                artifact = _publish(project, agent, context, adapter)
            except RefusedError as refused:
                yield refused.check
                raise
        record = artifact.read_json("merge.json")
        shown = {**record, "adapter": adapter.version}
        yield from selected(context, result(project, artifact, shown, [_same_logits(record)]))

    return merged_model


def _publish(project: Project, agent: AgentSpec, context: dg.AssetExecutionContext, adapter: Artifact) -> Artifact:
    """The merged model. Raises RefusedError, and publishes nothing, if it answers differently."""
    store, key = project.store, f"{agent.name}/merged_model"
    base, dataset = store.require("base_model"), store.require(f"{agent.name}/task_dataset")

    def build(staged: Path) -> None:
        """Write base and adapter as one model, with the answers that prove it."""
        examples = islice(read_examples(dataset.path), _PROMPTS)
        plan = {
            "base": str(base_folder(base.path)),
            "adapter": str(adapter.path),
            "prompts": [{"prompt": example.prompt, "tools": example.tools} for example in examples],
        }
        record = project.run_gpu(context, "grokora_pipeline.models.merge", plan, staged)
        if not (check := _same_logits(record)).passed:
            raise RefusedError(check)
        write_json(staged / "merge.json", record)

    inputs = {"base": base.version, "adapter": adapter.version, "code": code_version()}
    return publish_once(project, context, key, inputs, build)


def _same_logits(record: dict[str, Any]) -> dg.AssetCheckResult:
    difference = record["relative_rms_difference"]
    return dg.AssetCheckResult(
        check_name="same_logits",
        passed=bool(record["agrees"]),
        metadata={name: value for name, value in record.items() if isinstance(value, int | float)},
        description=f"The merged model's logits differ from base + adapter by {difference:.2%} of their spread.",
    )
