"""`A/tokenized_split`: train and validation, leak-proof, in the base model's own tokens."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import orjson

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    OWNERS,
    Project,
    RefusedError,
    base_folder,
    code_version,
    columns,
    plain_errors,
    publish_once,
    result,
    scalars,
    selected,
    warning,
    write_json,
)
from grokora_pipeline.assets.knobs import resolve
from grokora_pipeline.assets.plots import length_histogram
from grokora_pipeline.datasets.example import read_examples, read_worse
from grokora_pipeline.datasets.examples import near_places, read_near_pairs
from grokora_pipeline.datasets.preferences import judged_rows
from grokora_pipeline.datasets.split import SplitOptions, read_assignment, split_examples, straddling
from grokora_pipeline.errors import counted
from grokora_pipeline.execution.process import NODE_RETRIES
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.store import Artifact, folder_version
from grokora_pipeline.training.tokenize import tokenize_split

_COLUMNS = columns(
    input_ids="list<int32>: token ids of prompt and completion",
    completion_mask="list<int8>: 1 where the loss is taken",
    turn_id="string: the turn that the example came from",
    group="string: its session",
    weight="float32: how often the example was logged, capped",
)
_CHECKS = {  # `no_straddling_group` is blocking: it is asked before the publication
    "enough_examples": "Fewer are not worth a training.",
    "no_straddling_group": "Validation stays unseen.",
    "undivided_groups": "No task or cluster is too large.",
    "fits_context": "No example is longer than the limit.",
}
_SPLIT = 2  # raise it when the same dataset and options would give another split
_ARE_DIVIDED = "sessions, tasks or near duplicates are"
TRAINABLE = "trainable.json"  # beside `current`: how many examples of which dataset fit the length limit


class SplitConfig(SplitOptions, dg.Config):
    """How the examples are divided."""


def tokenized_split_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `tokenized_split` asset of one agent."""
    key = f"{agent.name}/tokenized_split"
    spec = dg.AssetSpec(
        project.key(key),
        deps=project.links_and_base(agent.name, "task_dataset"),
        group_name=project.label(agent.name),
        kinds={"huggingface"},
        owners=OWNERS,
        metadata={**_COLUMNS, "dagster/io_manager_key": project.io_manager},  # specs have no parameter for it
        code_version=_version(project, agent),
        skippable=True,
        description="80/20 by groups of session, task and near-duplicates; who was in validation once never trains.",
    )

    # With `can_subset` the outputs of checks are optional: `@asset` demands a result of every check of the asset, of
    # those too that were not made.
    @dg.multi_asset(
        name="__".join(spec.key.path),
        specs=[spec],
        can_subset=True,
        retry_policy=NODE_RETRIES,
        check_specs=project.check_specs(key, _CHECKS, blocking="no_straddling_group"),
    )
    def tokenized_split(context: dg.AssetExecutionContext, config: SplitConfig) -> Iterator[Any]:
        """Checks come before the publication; a check that was not made yields no result."""
        with plain_errors():
            try:
                artifact = _publish(project, agent, context, config)
            except RefusedError as refused:
                yield refused.check
                if refused.check.check_name == "enough_examples":  # nothing is wrong, there is only too little
                    context.log.warning(f"{agent.name} is skipped: {refused.check.description}")
                    return
                raise
        report = artifact.read_json("report.json")
        lengths = length_histogram(report["length_histogram"], report["max_length"])
        shown = {"lengths": lengths, **scalars(report)}
        shown.pop("wanted_share", None)  # the check `undivided_groups` shows it beside what it became
        materialization = result(project, artifact, shown, _checks(agent, report))
        yield from selected(context, materialization)

    return tokenized_split


def _version(project: Project, agent: AgentSpec) -> str:
    return code_version(resolve(project, agent).max_length, _SPLIT)


def _publish(project: Project, agent: AgentSpec, context: dg.AssetExecutionContext, config: SplitConfig) -> Artifact:
    """The split of the present dataset. Raises RefusedError, and publishes nothing, if a check refuses it."""
    store, key = project.store, f"{agent.name}/tokenized_split"
    dataset, base = store.require(f"{agent.name}/task_dataset"), store.require("base_model")
    before = store.current(key)
    rows = int(dataset.read_json("report.json")["rows"])
    if rows < agent.min_examples:
        raise RefusedError(_enough_examples(agent, rows, {}))
    lengths = _length_inputs(project, agent, dataset, base)

    def build(staged: Path) -> str:
        """Write both sides and their report; RefusedError if a check refuses them."""
        report = _build_split(dataset, base, before, staged, config=config, max_length=lengths["max_length"])
        store.write(f"{key}/{TRAINABLE}", orjson.dumps({**lengths, **report}))
        for check in (_enough_examples(agent, _trainable(report), report["fitting"]), _no_straddling(report)):
            if not check.passed:
                raise RefusedError(check)
        return folder_version(staged)

    inputs = {**lengths, "config": config.model_dump(), "code": _version(project, agent)}
    return publish_once(project, context, key, inputs, build)


def _length_inputs(project: Project, agent: AgentSpec, dataset: Artifact, base: Artifact) -> dict[str, Any]:
    """What decides how many tokens the examples have and how many they may have."""
    record = base.read_json("base_model.json")
    return {
        "dataset": dataset.version,
        "tokenizer": record["tokenizer_sha256"],
        "template": record["chat_template_sha256"],
        "max_length": min(resolve(project, agent).max_length, int(record["context_length"])),
    }


def _build_split(
    dataset: Artifact,
    base: Artifact,
    before: Artifact | None,
    staged: Path,
    *,
    config: SplitConfig,
    max_length: int,
) -> dict[str, Any]:
    """Split and tokenize the dataset into `staged`; returns the content of its `report.json`."""
    examples, worse = list(read_examples(dataset.path)), read_worse(dataset.path)
    pairs = read_near_pairs(dataset.path, examples)
    learnt, examples = examples, [*examples, *worse]
    if worse:
        ordered = sorted(examples, key=lambda one: one.id)
        near = near_places(ordered, float(dataset.read_json("report.json")["near_duplicate"])).tolist()
        pairs = [(ordered[first].id, ordered[second].id) for first, second in near]
    split = split_examples(examples, config, pairs, read_assignment(before.path) if before else None)
    chat = ChatFormat.load(base_folder(base.path))
    rows = list(judged_rows(learnt, worse, split.sides))
    tokens = tokenize_split(
        *([row for row, _ in rows], [side for _, side in rows]), chat, staged, max_length=max_length, seed=config.seed
    )
    report = {
        **asdict(tokens),
        "groups": len(set(split.groups.values())),
        "held_back": len(split.held_back),
        "divided": split.divided,
        "validation_share": split.validation_share,
        "wanted_share": config.validation_share,
        "straddling": straddling(examples, split.sides, pairs, split.divided_keys),
        "naive_leaks": split.naive_leaks,
    }
    if worse:  # rows that compare answers are no examples: they do not count as trainable
        report["compared_rows"] = sum(
            bool(side) for row, side in rows if row["meta"].get("pair") or row["meta"].get("judged") == "worse"
        )
    write_json(staged / "examples.json", {one.id: split.sides[one.id] for one in learnt if one.id in split.sides})
    write_json(staged / "assignment.json", asdict(split.assignment))
    write_json(staged / "report.json", report)
    return report


def _trainable(report: dict[str, Any]) -> int:
    return int(report["train_rows"]) + int(report["validation_rows"]) - int(report.get("compared_rows", 0))


def missing_examples(project: Project, agent: AgentSpec) -> int:
    """How many examples an agent lacks to be trained; 0 if it has enough or its dataset was not made yet.

    Examples that are too long to be trained do not count, once the dataset was tokenized.
    """
    store = project.store
    dataset, base = store.current(f"{agent.name}/task_dataset"), store.current("base_model")
    if dataset is None:
        return 0
    count = int(dataset.read_json("report.json")["rows"])
    tokenized = orjson.loads(store.read(f"{agent.name}/tokenized_split/{TRAINABLE}") or b"{}")
    if tokenized and base and _length_inputs(project, agent, dataset, base).items() <= tokenized.items():
        count = _trainable(tokenized)
    return max(0, agent.min_examples - count)


def _enough_examples(agent: AgentSpec, trainable: int, fitting: dict[str, int]) -> dg.AssetCheckResult:
    missing = max(0, agent.min_examples - trainable)
    text = f"{counted(trainable, 'example')} can be trained; {agent.min_examples} are needed."
    if missing:
        needed = counted(agent.min_examples, "example is", "examples are")
        text = f"{missing} of {needed} missing, so nothing is trained yet."
    more = {limit: count for limit, count in fitting.items() if count > trainable}
    if more:
        text += " Longer examples are left out: " + _would_keep(more)
    figures = {"needed": agent.min_examples, "trainable": trainable, "missing": missing}
    return warning("enough_examples", not missing, text, **figures)


def _would_keep(fitting: dict[str, int]) -> str:
    return "; ".join(f"max_length {limit} would keep {count}" for limit, count in fitting.items()) + "."


def _no_straddling(report: dict[str, Any]) -> dg.AssetCheckResult:
    leaks = report["straddling"]
    return dg.AssetCheckResult(
        check_name="no_straddling_group",
        passed=not leaks,
        metadata={"straddling": leaks[:20], "a_split_by_rows_would_leak": report["naive_leaks"]},
        description=f"{counted(len(leaks), 'session, task or near duplicate is', _ARE_DIVIDED)} on both sides of the "
        f"split. {counted(report.get('held_back', 0), 'example is', 'examples are')} on neither: near duplicates of "
        "one on the other side, and what shares a session or a task with both.",
    )


def _checks(agent: AgentSpec, report: dict[str, Any]) -> list[dg.AssetCheckResult]:
    """The checks of a published split; `report` may be one of an older store."""
    dropped, refused = int(report["too_long"]), int(report.get("refused", 0))
    divided, fitting = report.get("divided", []), report.get("fitting", {})
    kept = _trainable(report)
    longer = {limit: count for limit, count in fitting.items() if count > kept}
    share, wanted = float(report["validation_share"]), float(report.get("wanted_share", 0))
    outgrown = bool(wanted) and not 0.5 * wanted <= share <= 2 * wanted
    return [
        _enough_examples(agent, kept, fitting),
        _no_straddling(report),
        warning(
            "undivided_groups",
            not divided and not outgrown,
            (
                f"{counted(len(divided), 'cluster, task or session holds', 'clusters, tasks or sessions hold')} so "
                "many examples that validation would have been empty; each was divided and is on both sides, the "
                f"largest: {divided[0]}."
                if divided
                else "No cluster, task or session had to be divided."
            )
            + (
                f" Validation holds {share:.0%} of the examples instead of {wanted:.0%}: what has a side keeps it, "
                "however it grows, and new sessions go to the other until the share is right."
                if outgrown
                else ""
            ),
            divided=divided[:20],
            validation_share=share,
            wanted_share=wanted,
        ),
        warning(
            "fits_context",
            dropped + refused == 0,
            f"{counted(dropped, 'example was', 'examples were')} longer than {report['max_length']} tokens and left out"
            + (f"; {_would_keep(longer)}" if longer else ".")
            + (f" The chat template refused {counted(refused, 'example')}. {report['refusal']}" if refused else ""),
            too_long=dropped,
            fitting=fitting,
            refused_by_the_template=refused,
        ),
    ]
