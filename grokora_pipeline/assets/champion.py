"""`A/champion`: the decision who answers in the agent's place, and the pointer that acts on it."""

from typing import Any

import dagster as dg
from pydantic import ValidationError

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import OWNERS, code_version, get_store, key_of, plain_errors, read_json
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.gate import GateRule, decide


class GateConfig(dg.Config):
    """Fields of the rule to change for this run, such as `{"alpha": 0.01}`; see `evaluation/gate.py` for all."""

    rule: dict[str, Any] = {}  # noqa: RUF012


def champion_asset(agent: AgentSpec) -> dg.AssetsDefinition:
    """The `champion` asset of one agent."""
    key = key_of(agent, "champion")

    @dg.asset(
        key=key.split("/"),
        deps=[[agent.name, "eval_report"]],
        group_name=agent.name,
        kinds={"python"},
        owners=OWNERS,
        code_version=code_version(),
        description="The adapter in service. A challenger takes its place only where the report proves it better.",
        check_specs=[dg.AssetCheckSpec("has_champion", asset=key.split("/"))],
    )
    def champion(context: dg.AssetExecutionContext, config: GateConfig) -> dg.MaterializeResult[Any]:
        store = get_store()
        with plain_errors():
            report = store.require(key_of(agent, "eval_report"))
            adapter = store.require(key_of(agent, "lora_adapter"))
            decision = decide(read_json(report.path / "report.json"), _rule(config.rule))
            if decision.promote:
                evidence = decision.model_dump()
                store.point(key, "champion", adapter.version, reason=decision.reason, decision=evidence)
        now = store.pointer(key, "champion")
        version = now["version"] if now else "none"
        context.log.info(decision.reason)
        return dg.MaterializeResult(
            metadata={
                "champion": version,
                "challenger": adapter.version,
                "promoted": decision.promote,
                "decision": decision.reason,
                "report": dg.MetadataValue.path(report.path / "report.html"),
            },
            data_version=dg.DataVersion(version),
            check_results=[
                dg.AssetCheckResult(
                    check_name="has_champion",
                    passed=now is not None,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=decision.reason,
                )
            ],
        )

    return champion


def _rule(fields: dict[str, Any]) -> GateRule:
    try:
        return GateRule(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise GrokoraError(f"The gate's rule, {first['loc'][0]}: {first['msg']}; correct the run's config.") from error
