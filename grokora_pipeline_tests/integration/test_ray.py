"""Off one machine: Ray's nodes do the steps, S3 holds the artifacts, PostgreSQL the history; and a node may die."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec
import psutil
import pytest

from grokora_pipeline import execution
from grokora_pipeline.sandbox.record import record
from grokora_pipeline.sandbox.roles import AGENTS as ROLES
from grokora_pipeline.store import COMPLETE, Store
from grokora_pipeline_tests.outside import postgres, s3
from grokora_pipeline_tests.tiny import tiny_base

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(900)]
cluster_utils = pytest.importorskip("ray.cluster_utils", reason="grokora_pipeline[ray] is not installed")
__all__ = ["postgres", "s3"]

NODES = ("head", "one", "two")
AGENTS = """
agents:
  coordinator: {description: Splits., answer: json, preset: sample, min_examples: 5, max_steps: 2, max_validation: 4}
  observer: {description: Looks., answer: json, preset: sample, min_examples: 5, max_steps: 2, max_validation: 4}
  actor:
    {description: Acts., answer: tool_call, preset: sample, min_examples: 5, epochs: 100, max_steps: 150,
     max_validation: 4, checkpoint_steps: 10}
  validator: {description: Judges., answer: json, preset: sample, min_examples: 5, max_steps: 2, max_validation: 4}
"""
WHOLE_CHAIN = 'not group:"rank_trials"'
LINKS = ("task_dataset", "tokenized_split", "lora_adapter", "eval_report", "champion")
WHERE = """
import os
import dagster as dg
import fsspec
from grokora_pipeline.execution.executor import chosen_executor
from grokora_pipeline.execution.process import GpuProcess, cuda_tags
from grokora_pipeline.settings import get_settings

@dg.asset(op_tags=cuda_tags())
def one(context: dg.AssetExecutionContext, gpu: GpuProcess) -> dg.MaterializeResult:
    return look(context, gpu)

@dg.asset(op_tags=cuda_tags())
def two(context: dg.AssetExecutionContext, gpu: GpuProcess) -> dg.MaterializeResult:
    return look(context, gpu)

@dg.asset
def three() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"devices": os.environ["CUDA_VISIBLE_DEVICES"]})

def look(context, gpu):
    from pathlib import Path
    return dg.MaterializeResult(metadata=gpu.run(context, "where_worker", {}, Path(os.environ["TMPDIR"]) / "staged"))

defs = dg.Definitions([one, two, three], resources={"gpu": GpuProcess()}, executor=chosen_executor(get_settings()))
"""
WORKER = """
import os, sys, time
from grokora_pipeline.workers.frame import run

def main(plan, reporter):
    started = time.time()
    time.sleep(3)
    where = {"devices": os.environ["CUDA_VISIBLE_DEVICES"], "node": os.environ["TMPDIR"]}
    return {**where, "from": started, "to": time.time()}

sys.exit(run(main))
"""


@dataclass(frozen=True, slots=True)
class Home:
    """A cluster and what a person has on the machine where Dagster runs."""

    folder: Path
    cluster: Any
    nodes: dict[str, Any]
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Materialize by Dagster's own command line."""
        command = [str(Path(sys.executable).with_name("dagster")), "asset", "materialize", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=pipe, stderr=pipe, text=True)

    def instance(self) -> dg.DagsterInstance:
        """Dagster's history."""
        return dg.DagsterInstance.from_config(str(self.folder / "dagster"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, s3: str, postgres: str) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("ray")
    record(folder / "logs", seed=11, sessions=24)
    tiny_base(folder / "base")
    (folder / "agents.yaml").write_text(AGENTS)
    (folder / "where.py").write_text(WHERE)
    (folder / "where_worker.py").write_text(WORKER)
    (folder / "dagster").mkdir()
    shutil.copy(Path(execution.__path__[0]) / "dagster-postgres.yaml", folder / "dagster" / "dagster.yaml")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("GROKORA_", "RAY_"))]:
            patch.delenv(name)
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # nodes call `dagster`
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setenv("DAGSTER_POSTGRES_URL", postgres)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else its processes look for 127.0.0.1 outside of it
        cluster, nodes = start_cluster(folder)
        environment = {
            **os.environ,
            "RAY_ADDRESS": f"http://{cluster.webui_url}",
            "DAGSTER_HOME": str(folder / "dagster"),
            "GROKORA_EXECUTOR": "ray",
            "GROKORA_STORE": f"{s3}/store",
            "GROKORA_CACHE": str(folder / "here"),
            "GROKORA_LOGS": str(folder / "logs"),
            "GROKORA_AGENTS": str(folder / "agents.yaml"),
            "GROKORA_BASE_MODEL": str(folder / "base"),
            "GROKORA_SETTLE_SECONDS": "0",
        }
        yield Home(folder, cluster, nodes, environment)
        session = cluster.head_node.get_session_dir_path()
        cluster.shutdown()
        shutil.rmtree(session, ignore_errors=True)


def start_cluster(folder: Path) -> tuple[Any, dict[str, Any]]:
    """A head without GPU and two nodes of one fake GPU each; every machine has its own temporary folder and cache."""
    own = {
        name: {"TMPDIR": str(folder / name / "tmp"), "GROKORA_CACHE": str(folder / name / "cache")} for name in NODES
    }
    for places in own.values():
        Path(places["TMPDIR"]).mkdir(parents=True)
    small: dict[str, Any] = {
        "num_cpus": 1,
        "object_store_memory": 80 << 20,
        "node_ip_address": "127.0.0.1",
    }  # listens there only
    small["dashboard_agent_listen_port"] = 0  # a free one a node: by default all of them want the same
    head: dict[str, Any] = {
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": 0,
        "num_gpus": 0,
    }
    head["_system_config"] = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}  # notice a death soon
    head["env_vars"] = own.pop("head")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**small, **head})
    add = {name: {**small, "num_gpus": 1, "env_vars": places} for name, places in own.items()}
    nodes = {name: cluster.add_node(**arguments, wait=False) for name, arguments in add.items()}
    cluster.wait_for_nodes()
    wait_for_jobs(f"http://{cluster.webui_url}")
    return cluster, nodes


def wait_for_jobs(address: str) -> None:
    """Until the head takes jobs: on a busy machine its agent comes later than its nodes, and Ray waits ten seconds."""
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + 90
    while True:
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true", entrypoint_num_cpus=0)
        except (RuntimeError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def test_gpu_steps_have_a_device_each_on_different_nodes_and_cpu_steps_see_none(home: Home) -> None:
    process = home.start("-m", "where", "--select", "*")
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output[-3000:] + errors[-6000:]
    with home.instance() as instance:
        seen: list[dict[str, Any]] = [
            {name: value.value for name, value in event.asset_materialization.metadata.items()}
            for key in ("one", "two", "three")
            if (event := instance.get_latest_materialization_event(dg.AssetKey(key))) and event.asset_materialization
        ]
    assert [found["devices"] for found in seen] == ["0", "0", ""]
    assert len({found["node"] for found in seen[:2]}) == 2
    assert max(found["from"] for found in seen[:2]) < min(found["to"] for found in seen[:2])


@pytest.fixture(scope="module")
def chain(home: Home) -> tuple[str, str]:
    """The chain's output, and the node that was killed in the middle of the training."""
    process = home.start("-m", "grokora_pipeline.definitions", "--select", WHOLE_CHAIN)
    killed = kill_the_node_that_trains(home, process)
    output, errors = process.communicate(timeout=420)
    with home.instance() as instance:
        (run,) = instance.get_runs(limit=1)
        entries = instance.all_logs(run.run_id)
    assert process.returncode == 0, output[-3000:] + errors[-6000:]
    return "\n".join(entry.user_message for entry in entries), killed


def kill_the_node_that_trains(home: Home, process: subprocess.Popen[str]) -> str:
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if any(name.endswith(f"/{COMPLETE}") for name in unfinished(home, "actor")):
            pattern = "*/*/*/.work/actor-lora_adapter/*"
            (name,) = [name for name in home.nodes if list((home.folder / name / "cache").glob(pattern))]
            power_off(home.folder / name)
            home.cluster.remove_node(home.nodes[name], allow_graceful=False)
            return name
        time.sleep(0.2)
    pytest.fail("".join(process.communicate(timeout=60)))


def unfinished(home: Home, agent: str) -> list[str]:
    """The checkpoints of an agent that another node would find."""
    folder = f"{home.environment['GROKORA_STORE']}/.work/{agent}-lora_adapter"
    files: list[str] = fsspec.filesystem("s3", use_listings_cache=False).find(folder)
    return files


def power_off(node: Path) -> None:
    """Kill every process of a simulated node at once; killing its raylet alone leaves the step running for a while."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("GROKORA_CACHE") == str(node / "cache"):
                process.kill()


def store_of(home: Home, name: str) -> Store:
    return Store(home.environment["GROKORA_STORE"], home.folder / name / "cache")


@pytest.mark.exhaustive  # four minutes, most of them Ray's own patience with a node that is gone
def test_a_node_dies_the_training_goes_on_elsewhere_and_the_chain_is_whole(home: Home, chain: tuple[str, str]) -> None:
    log, killed = chain
    assert "going on from checkpoint-" in log
    assert "the report is about" not in log  # another adapter than the one in the store
    other = store_of(home, "two" if killed == "one" else "one")
    assert list((other.root / "actor" / "lora_adapter").iterdir())
    assert not (store_of(home, killed).root / "actor" / "lora_adapter").exists()
    assert_whole(home)


def assert_whole(home: Home) -> None:
    """Every link of every agent is in the bucket and in PostgreSQL."""
    store = store_of(home, "fresh")
    training = json.loads(store.require("actor/lora_adapter").read("training.json"))
    assert training["steps"] == 150
    assert (store.require("actor/lora_adapter").path / "adapter_model.safetensors").is_file()
    assert json.loads(store.require("actor/eval_report").read("report.json"))["systems"].keys() >= {"base", "adapter"}
    assert [unfinished(home, agent) for agent in ROLES] == [[]] * 4
    assert store.require("swarm_report").read("report.html")
    with home.instance() as instance:
        made = {key.to_user_string() for key in instance.get_asset_keys()}
        (run,) = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]), limit=1)
    assert run.job_name
    assert made >= {"session_logs", "base_model", "swarm_report"}
    assert made >= {f"{agent}/{link}" for agent in ROLES for link in LINKS}
