"""`A/champion`: the decision who answers in the agent's place, and the pointer that acts on it."""

from typing import Any

import dagster as dg

# private: no public question of Dagster 1.13 leaves out the plans of checks that were not made
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from pydantic import Field, ValidationError

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import AssetResult, Project, code_version, plain_errors, table, warning, write_json
from grokora_pipeline.errors import GrokoraError, first_mistake
from grokora_pipeline.evaluation.gate import WITH_PROMPT, Decision, GateRule, decide
from grokora_pipeline.execution.process import NODE_RETRIES
from grokora_pipeline.store import Artifact, Store
from grokora_pipeline.store.champions import BASE, BESIDE_FILE

BLOCKING = (  # (asset, check) of all that must hold before an adapter goes into service
    ("session_logs", "no_secret_survives"),
    ("{agent}/task_dataset", "schema"),
    ("{agent}/tokenized_split", "no_straddling_group"),
)
_JUDGED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


class GateConfig(dg.Config):
    """What a promotion takes, if it differs from `GateRule`'s defaults."""

    rule: dict[str, Any] = Field(
        default={},
        description='Fields of the rule for this run, such as {"alpha": 0.01}: '
        + "; ".join(f"{name} ({field.default})" for name, field in GateRule.model_fields.items()),
    )


def champion_asset(project: Project, agent: AgentSpec) -> dg.AssetsDefinition:
    """The `champion` asset of one agent."""
    key = f"{agent.name}/champion"

    @dg.asset(
        **project.identity(key, agent.name),
        deps=[project.key(agent.name, "eval_report")],
        kinds={"python"},
        code_version=code_version(),
        retry_policy=NODE_RETRIES,
        description="Who answers: an adapter, a prompt that is as good, or both. A challenger must be proven better.",
        check_specs=[dg.AssetCheckSpec("has_champion", asset=project.key(key))],
    )
    def champion(context: dg.AssetExecutionContext, config: GateConfig) -> AssetResult:
        """Let the gate decide, and move the pointer if the challenger passes."""
        with plain_errors():
            try:
                rule = GateRule(**config.rule)
            except ValidationError as error:
                keys, why, _ = first_mistake(error)
                raise GrokoraError(f"The gate's rule, {'.'.join(keys)}: {why}; correct the run's config.") from error
            decision, report = _judge(project, agent.name, rule, context.instance)
            registry, challenger = project.registry, str(decision.versions["adapter"])
            if decision.promote and decision.system != "adapter":
                challenger = _publish_prompt(project.store, agent.name, report, decision.system)
            with project.store.lock:  # who is pinned or rolled back while the gate decides stays so
                # after the decision: whoever is pinned or was rolled back is told what the figures said all the same
                refusal = registry.refusal(agent.name, challenger)
                reason = f"Not promoted: {refusal}." if refusal else decision.reason
                # kept challengers are recorded, too: they count as looks at the held-out rows
                act = registry.promote if decision.promote and not refusal else registry.keep
                act(agent.name, challenger, reason, decision.model_dump())
        version = registry.version(agent.name)
        context.log.info(reason)
        # the main metric of who is in service on rows by which it was not chosen, if the report has any
        fresh = report.read_json("report.json").get("fresh") or {"systems": {}}
        score = fresh["systems"].get(decision.system if version == challenger else "champion")
        return dg.MaterializeResult(
            metadata={
                "decision": reason,
                "champion": version,
                "challenger": challenger,
                "promoted": version == challenger,
                **({f"{fresh['metric']}, fresh rows": score["value"]} if score else {}),
                "evidence": table([item.model_dump() for item in decision.evidence]),
                "report": dg.MetadataValue.path(report.link("report.html")),
            },
            data_version=dg.DataVersion(version),  # what follows is stale only if who is in service changed
            check_results=[warning("has_champion", version != BASE, reason)],
        )

    return champion


def _judge(project: Project, agent: str, rule: GateRule, instance: dg.DagsterInstance) -> tuple[Decision, Artifact]:
    """The decision about the current adapter of an agent, and the report that it rests on."""
    store, registry = project.store, project.registry
    report, adapter, split = (
        store.require(f"{agent}/{name}") for name in ("eval_report", "lora_adapter", "tokenized_split")
    )
    served, judged = registry.version(agent), _at(rule.alpha, report)
    decision = decide(
        judged,
        rule,
        adapter=adapter.version,
        champion=None if served in (BASE, adapter.version) else served,
        checks={"leak_free_split": not split.read_json("report.json")["straddling"]}
        | blocking_checks(project, instance, agent),
        look=registry.look(agent, adapter.version, judged["versions"].get("rows")),
    )
    return decision.model_copy(update={"versions": {**decision.versions, "adapter": adapter.version}}), report


def _at(alpha: float, report: Artifact) -> dict[str, Any]:
    """What `report.json` holds, with its intervals at a rule's alpha if that is not the report's own."""
    document = report.read_json("report.json")
    if alpha == document.get("alpha", alpha):
        return document
    # here, since the definitions load without what metrics need
    from grokora_pipeline.evaluation.ladder import fresh_look, ladder
    from grokora_pipeline.evaluation.scoring import read_rows, score

    judged, fresh = (read_rows(report.path, fresh=part) for part in (False, True))
    metric, level = document["main_metric"], {"alpha": alpha, "seed": document["seed"]}
    return {
        **document,
        **score(judged, **level),
        "ladder": ladder(judged, metric, few_shot=document["few_shot"], **level),
        "fresh": fresh_look(fresh, metric, **level),
    }


def _publish_prompt(store: Store, agent: str, report: Artifact, system: str) -> str:
    """Put a report's fixed prompt, with the name of the adapter that it stands before, into the store; its version."""
    version = str(report.read_json("report.json")["prompts"][system])
    with store.stage(f"{agent}/prompt") as staged:
        write_json(staged / "prompt.json", report.read_json("prompts.json")[system])
        if system == WITH_PROMPT:
            write_json(staged / BESIDE_FILE, {"version": report.read_json("report.json")["versions"]["adapter"]})
        store.publish(f"{agent}/prompt", version, staged, report=report.version)
    return version


def blocking_checks(project: Project, instance: dg.DagsterInstance, agent: str) -> dict[str, bool]:
    """Whether the blocking checks before the champion held when they ran last, by name.

    Dagster stops only the run in which such a check fails; a later run of the champion alone would go on.
    """
    verdicts: dict[str, bool] = {}
    for asset, name in BLOCKING:
        key = dg.AssetCheckKey(project.key(asset.format(agent=agent)), name)
        # the latest record may be another run's plan: queued, under way, or cut off before the check was made
        history = instance.event_log_storage.get_asset_check_execution_history
        for record in history(key, limit=1, status=_JUDGED):
            verdicts[name] = record.status == AssetCheckExecutionRecordStatus.SUCCEEDED
    return verdicts


def report_rollback(project: Project, instance: dg.DagsterInstance, agent: str, version: str) -> None:
    """Make a rollback by hand a materialization too, so that the UI shows who is in service."""
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            project.key(agent, "champion"),
            metadata={"champion": version, "promoted": False, "decision": "rolled back by hand"},
            tags={"dagster/data_version": version},
        )
    )
