"""`swarm_report`: the worker is told who is in service, and asked again once another champion is."""

import json
from pathlib import Path
from typing import Any

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.swarm_report import swarm_report_asset
from grokora_pipeline.evaluation.plan import read_plan
from grokora_pipeline.evaluation.swarm import SwarmPlan
from grokora_pipeline.sandbox.roles import AGENTS as ROLES
from grokora_pipeline.settings import Settings
from grokora_pipeline_tests.gateway import add_adapter, make_store
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.workers import materialize


def test_the_champions_are_asked_once_and_again_when_another_is_in_service(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    agents = tuple(AgentSpec(name=role, description=role, preset="sample") for role in ROLES)
    project = Project(Settings(home=tmp_path, store=str(tmp_path / "store")), agents)
    plans = list[SwarmPlan]()

    def work(module: str, plan: dict[str, Any], output: Path) -> dict[str, Any]:
        plans.append(read_plan(SwarmPlan, plan))  # the real worker's own check
        score = {"success_rate": 0.5, "low": 0.4, "high": 0.6, "steps": 1.0}
        report = {"verdict": "equal", "systems": {"base": score, "champions": score}, "markdown": "", "tasks": 30}
        (output / "swarm.json").write_text(json.dumps(report))
        return report

    def report() -> bool:
        asset = swarm_report_asset(project)
        return asset is not None and materialize(project, [asset], work).success

    add_adapter(store, "actor", "v1")
    project.registry.promote("actor", "v1", "better", {})
    publish_files(store, "observer/prompt", "prompt-1", {"prompt.json": {"instruction": "Be brief."}})
    project.registry.promote("observer", "prompt-1", "better", {})
    assert report() and report()
    (plan,) = plans
    assert {role: folder and folder.name for role, folder in plan.adapters.items()} == {
        **dict.fromkeys(ROLES), "actor": "v1",
    }  # fmt: skip
    assert {role: prompt.instruction for role, prompt in plan.prompts.items()} == {"observer": "Be brief."}
    project.registry.rollback("actor")
    assert report()
    assert [plan.adapters["actor"] is None for plan in plans] == [False, True]
