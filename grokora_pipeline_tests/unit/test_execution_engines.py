"""One tag says how many GPUs a step wants, and each engine understands it; the instance files agree."""

import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from grokora_pipeline import execution
from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.lora_adapter import lora_adapter_asset
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.execution.executor import chosen_executor
from grokora_pipeline.execution.process import cuda_tags
from grokora_pipeline.settings import PROJECT_ROOT, Settings


@dg.asset(op_tags=cuda_tags(gpus=2))
def trained() -> None: ...


@pytest.fixture(params=["ray", "k8s"])
def cluster(request: pytest.FixtureRequest) -> Settings:
    """Settings that send steps to a cluster."""
    return Settings(executor=request.param, store="s3://bucket/store", devices="0,1")


def test_kubernetes_gives_the_step_as_many_gpus_as_its_tag_says() -> None:
    job = pytest.importorskip("dagster_k8s.job", reason="grokora_pipeline[k8s] is not installed")
    config = job.get_user_defined_k8s_config(trained.op.tags)
    made = job.construct_dagster_k8s_job(
        job_config=job.DagsterK8sJobConfig(job_image="grokora:1"),
        args=["dagster", "api", "execute_step"],
        job_name="step",
        user_defined_k8s_config=config,
    )
    (container,) = made.spec.template.spec.containers
    assert container.resources.limits == {"nvidia.com/gpu": "2"}


def test_ray_gives_the_step_as_many_gpus_as_its_tag_says() -> None:
    configs = pytest.importorskip("dagster_ray.configs", reason="grokora_pipeline[ray] is not installed")
    assert configs.RayExecutionConfig.from_tags(trained.op.tags).num_gpus == 2


def test_the_setting_chooses_the_cluster_and_nodes_get_what_holds_everywhere(cluster: Settings) -> None:
    pytest.importorskip(f"dagster_{cluster.executor}", reason=f"grokora_pipeline[{cluster.executor}] is not installed")
    executor = chosen_executor(cluster)
    assert executor.name == cluster.executor
    config = (executor.apply_config_mapping({"config": {}}).value or {})["config"]
    handed_on = (config["ray"] if cluster.executor == "ray" else config)["env_vars"]
    assert handed_on == ["GROKORA_STORE=s3://bucket/store"]  # not the devices, which are each node's own


def test_an_extra_that_is_not_installed_is_one_sentence(cluster: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"dagster_{cluster.executor}", None)
    name = cluster.executor
    with pytest.raises(GrokoraError, match=rf"GROKORA_EXECUTOR={name} needs .* run `pip install .*\[{name}\]"):
        chosen_executor(cluster)


def test_both_instance_files_say_the_same_but_for_where_history_is_and_who_counts_gpus() -> None:
    local = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    shared = yaml.safe_load((Path(execution.__path__[0]) / "dagster-postgres.yaml").read_text())
    differs = {"storage", "local_artifact_storage", "compute_logs", "concurrency"}
    assert {name: value for name, value in local.items() if name not in differs} == {
        name: value for name, value in shared.items() if name not in differs
    }


@pytest.mark.parametrize(("processes", "devices"), [("auto", "1"), (2, "2")])
def test_a_training_asks_for_a_device_a_process(processes: str | int, devices: str) -> None:
    agent = AgentSpec(name="actor", description="Acts.", training={"num_processes": processes})
    assert lora_adapter_asset(Project(Settings(), (agent,)), agent).op.tags["grokora/gpus"] == devices
