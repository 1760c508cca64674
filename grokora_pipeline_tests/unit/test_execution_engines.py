"""One tag says how many GPUs a step wants, and each engine understands it; the instance files agree."""

import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from grokora_pipeline import execution
from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.lora_adapter import lora_adapter_asset
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.execution.executor import chosen_executor
from grokora_pipeline.execution.process import cuda_tags
from grokora_pipeline.settings import PROJECT_ROOT, get_settings


@dg.asset(op_tags=cuda_tags(gpus=2))
def trained() -> None: ...


@pytest.fixture(params=["ray", "k8s"])
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A setting that sends steps to a cluster."""
    monkeypatch.setenv("GROKORA_EXECUTOR", request.param)
    monkeypatch.setenv("GROKORA_STORE", "s3://bucket/store")
    monkeypatch.setenv("GROKORA_DEVICES", "0,1")
    get_settings.cache_clear()
    yield request.param
    get_settings.cache_clear()


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


def test_the_setting_chooses_the_cluster_and_nodes_get_what_holds_everywhere(cluster: str) -> None:
    pytest.importorskip(f"dagster_{cluster}", reason=f"grokora_pipeline[{cluster}] is not installed")
    executor = chosen_executor()
    assert executor.name == cluster
    config = (executor.apply_config_mapping({"config": {}}).value or {})["config"]
    handed_on = (config["ray"] if cluster == "ray" else config)["env_vars"]
    assert handed_on == ["GROKORA_STORE=s3://bucket/store"]  # not the devices, which are each node's own


def test_an_extra_that_is_not_installed_is_one_sentence(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"dagster_{cluster}", None)
    with pytest.raises(GrokoraError, match=rf"GROKORA_EXECUTOR={cluster} needs .* run `pip install .*\[{cluster}\]"):
        chosen_executor()


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
    assert lora_adapter_asset(agent).op.tags["grokora/gpus"] == devices
