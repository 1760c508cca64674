"""`A/tokenized_split`: train and validation, leak-proof, in the base model's own tokens."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    OWNERS,
    Project,
    base_folder,
    code_version,
    columns,
    key_of,
    plain_errors,
    publish_once,
    read_json,
    result,
    write_json,
)
from grokora_pipeline.assets.knobs import resolve
from grokora_pipeline.assets.plots import length_histogram
from grokora_pipeline.assets.task_dataset import scalars
from grokora_pipeline.datasets.examples import read_examples
from grokora_pipeline.datasets.split import split_examples, straddling
from grokora_pipeline.execution.process import NODE_RETRIES
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.store import folder_version
from grokora_pipeline.training.tokenize import tokenize_split

_COLUMNS = columns(
    input_ids="list<int32>: token ids of prompt and completion",
    completion_mask="list<int8>: 1 where the loss is taken",
    turn_id="string: the turn that the example came from",
    group="string: its session",
    weight="float32: how often the example was logged, capped",
)


class SplitConfig(dg.Config):
    """How the examples are divided."""

    validation_share: float = 0.2
    seed: int = 7


def tokenized_split_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `tokenized_split` asset of one agent."""
    key, source = key_of(agent, "tokenized_split"), key_of(agent, "task_dataset")
    asset_key = project.key(key)
    version = code_version(resolve(project, agent).max_length, agent.min_examples)

    @dg.asset(
        key=asset_key,
        deps=[project.key(source), project.key("base_model")],
        group_name=project.label(agent.name),
        kinds={"huggingface"},
        owners=OWNERS,
        metadata=_COLUMNS,
        code_version=version,
        retry_policy=NODE_RETRIES,
        output_required=False,
        description="80/20 by groups of session, task and near-duplicates; who was in validation once never trains.",
        check_specs=[
            dg.AssetCheckSpec("enough_examples", asset=asset_key, description="Fewer are not worth a training."),
            dg.AssetCheckSpec(
                "no_straddling_group", asset=asset_key, blocking=True, description="Validation stays unseen."
            ),
            dg.AssetCheckSpec("fits_context", asset=asset_key, description="No example is longer than the limit."),
        ],
    )
    def tokenized_split(context: dg.AssetExecutionContext, config: SplitConfig) -> Iterator[Any]:
        store = project.store
        with plain_errors():
            dataset, base = store.require(source), store.require("base_model")
            if missing := missing_examples(project, agent):
                checks = _too_few(asset_key, missing, agent.min_examples)
                context.log.warning(f"{agent.name} is skipped: {checks[0].description}")
                yield from checks
                return
            record = read_json(base.path / "base_model.json")
            max_length = min(resolve(project, agent).max_length, int(record["context_length"]))
            before = store.current(key)
            previous = read_json(before.path / "assignment.json") if before else None

            def build(staged: Path) -> str:
                examples = list(read_examples(dataset.path))
                split = split_examples(
                    examples, seed=config.seed, validation_share=config.validation_share, previous=previous
                )
                chat = ChatFormat.load(base_folder(base.path))
                rows = [asdict(example) for example in examples]
                sides = [split.sides.get(example.id, "") for example in examples]
                tokens = tokenize_split(rows, sides, chat, staged, max_length=max_length, seed=config.seed)
                write_json(staged / "examples.json", split.sides)
                write_json(staged / "assignment.json", {**(previous or {}), **split.sides})
                write_json(
                    staged / "report.json",
                    {
                        **tokens.as_dict(),
                        "groups": len(set(split.groups.values())),
                        "held_back": len(split.held_back),
                        "validation_share": split.validation_share,
                        "straddling": straddling(examples, split.sides),
                        "naive_leaks": split.naive_leaks,
                    },
                )
                return folder_version(staged)

            inputs = {
                "dataset": dataset.version,
                "tokenizer": record["tokenizer_sha256"],
                "template": record["chat_template_sha256"],
                "max_length": max_length,
                "config": config.model_dump(),
                "code": version,
            }
            artifact = publish_once(project, context, key, inputs, build)
        report = read_json(artifact.path / "report.json")
        lengths = length_histogram(report["length_histogram"], report["max_length"])
        yield result(project, artifact, {"lengths": lengths, **scalars(report)}, _checks(report))

    return tokenized_split


def missing_examples(project: Project, agent: AgentSpec) -> int:
    """How many examples an agent lacks to be trained; 0 when it has enough or its dataset was not made yet."""
    dataset = project.store.current(key_of(agent, "task_dataset"))
    return max(0, agent.min_examples - int(read_json(dataset.path / "report.json")["rows"])) if dataset else 0


def _too_few(key: dg.AssetKey, missing: int, needed: int) -> list[dg.AssetCheckResult]:
    too_few = dg.AssetCheckResult(
        asset_key=key,
        check_name="enough_examples",
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"needed": needed, "missing": missing},
        description=f"{missing} of {needed} examples are missing, so nothing is trained yet.",
    )
    idle = [
        dg.AssetCheckResult(asset_key=key, check_name=name, passed=True, description="Nothing was split.")
        for name in ("no_straddling_group", "fits_context")
    ]
    return [too_few, *idle]


def _checks(report: dict[str, Any]) -> list[dg.AssetCheckResult]:
    dropped, refused, leaks = int(report["too_long"]), int(report.get("refused", 0)), report["straddling"]
    return [
        dg.AssetCheckResult(check_name="enough_examples", passed=True, metadata={"train": report["train_rows"]}),
        dg.AssetCheckResult(
            check_name="no_straddling_group",
            passed=not leaks,
            metadata={"straddling": leaks[:20], "a_split_by_rows_would_leak": report["naive_leaks"]},
            description=f"{len(leaks)} sessions, tasks or near-duplicate clusters are on both sides of the split.",
        ),
        dg.AssetCheckResult(
            check_name="fits_context",
            passed=dropped + refused == 0,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"too_long": dropped, "refused_by_the_template": refused},
            description=f"{dropped} examples were longer than the limit and left out whole, {refused} were refused by "
            f"the model's chat template. {report.get('refusal', '')}".rstrip(),
        ),
    ]
