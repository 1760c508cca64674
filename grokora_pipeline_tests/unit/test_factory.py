"""`build_defs`: definitions made from what is given alone, so that swarms stand beside each other."""

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.factory import build_defs
from grokora_pipeline.settings import Settings

AGENTS = (AgentSpec(name="actor", description="Acts."),)

PURE = """
import json, sys
import dagster, grokora_pipeline.factory as factory
from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.settings import Settings
seen = []
def watch(event, arguments):
    if event in {"open", "socket.connect", "os.listdir", "os.scandir"} and "site-packages" not in str(arguments[0]):
        seen.append(f"{event} {arguments[0]}")
sys.addaudithook(watch)
factory.build_defs(Settings(store="s3://no-such-bucket/store"), (AgentSpec(name="actor", description="Acts."),))
print(json.dumps(seen))
"""


def names(defs: dg.Definitions) -> set[str]:
    """The names of all jobs, schedules, sensors, resources and pools."""
    repository = defs.get_repository_def()
    assets = [asset for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition)]
    return {
        *(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        *(schedule.name for schedule in repository.schedule_defs),
        *(sensor.name for sensor in repository.sensor_defs),
        *(defs.resources or {}),
        *(asset.op.pool for asset in assets if asset.op.pool),
    }


def test_two_swarms_stand_beside_a_resource_gpu_and_an_executor_of_the_location(tmp_path: Path) -> None:
    swarms = [build_defs(Settings(store=str(tmp_path / name)), AGENTS, name) for name in ("one", "two")]
    own = dg.Definitions(resources={"gpu": object()}, executor=dg.in_process_executor)
    merged = dg.Definitions.merge(own, *swarms)
    dg.Definitions.validate_loadable(merged)
    keys = [spec.key.path[0] for spec in merged.resolve_all_asset_specs()]
    assert keys.count("one") == keys.count("two") == len(keys) / 2


def test_a_name_begins_every_name_and_no_name_changes_none() -> None:
    plain, named = names(build_defs(Settings(), AGENTS)), names(build_defs(Settings(), AGENTS, "night"))
    assert {"retrain_all", "rollback", "actor_when_due", "new_logs", "grokora_gpu", "cuda"} <= plain
    assert named == {f"night_{name}" for name in plain}


def test_a_named_swarm_shares_no_group_and_no_concurrency_key_with_another() -> None:
    def tags(name: str) -> set[str]:
        defs = build_defs(Settings(), AGENTS, name)
        groups = {str(spec.group_name) for spec in defs.resolve_all_asset_specs()}
        return groups | {defs.resolve_job_def(f"{name}_retrain_actor").tags["grokora/agent"]}

    assert tags("one").isdisjoint(tags("two"))


def test_two_swarms_whose_names_run_together_are_refused_by_both_their_names() -> None:
    def swarm(name: str, agent: str, store: str = "") -> dg.Definitions:
        settings = Settings(store=f"/stores/{store or name}")
        return build_defs(settings, (AgentSpec(name=agent, description="Acts."),), name)

    swarm("shift", "late_actor")
    with pytest.raises(GrokoraError, match="'shift' and 'shift_late' would both have a shift_late_actor_when_due"):
        swarm("shift_late", "actor")
    swarm("shift", "early_actor")  # renamed, and built again
    dg.Definitions.validate_loadable(dg.Definitions.merge(swarm("shift", "early_actor"), swarm("shift_late", "actor")))
    swarm("early", "late_actor")
    swarm("early_late", "actor", store="early")  # a swarm is not compared with what it was called before


def test_building_reads_no_file_and_asks_no_network() -> None:
    done = subprocess.run([sys.executable, "-c", PURE], capture_output=True, text=True, check=True)
    assert [
        line for line in json.loads(done.stdout) if "grokora_pipeline/" not in line and "/lib/python" not in line
    ] == []


@pytest.mark.parametrize("name", ["night-shift", "night.shift", "größe", "1st", "_night", "a b", "a/b"])
def test_a_name_that_would_fail_in_a_group_or_in_every_step_is_refused_at_once(name: str) -> None:
    with pytest.raises(GrokoraError, match="the first a letter"):
        build_defs(Settings(), AGENTS, name)
