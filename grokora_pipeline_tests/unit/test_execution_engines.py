"""One tag says how many GPUs a step wants, and each engine understands it; the instance files agree."""

import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from grokora_pipeline import execution
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.execution.executor import chosen_executor
from grokora_pipeline.execution.process import cuda_tags
from grokora_pipeline.settings import PROJECT_ROOT, get_settings


@dg.asset(op_tags=cuda_tags(gpus=2))
def trained() -> None: ...


@pytest.fixture
def on_ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GROKORA_EXECUTOR", "ray")
    monkeypatch.setenv("GROKORA_STORE", "s3://bucket/store")
    monkeypatch.setenv("GROKORA_DEVICES", "0,1")
    get_settings.cache_clear()
    yield
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


def test_the_setting_chooses_ray_and_nodes_get_what_holds_everywhere(on_ray: None) -> None:
    pytest.importorskip("dagster_ray", reason="grokora_pipeline[ray] is not installed")
    executor = chosen_executor()
    assert executor.name == "ray"
    config = executor.apply_config_mapping({"config": {}}).value
    assert config is not None
    ray = config["config"]["ray"]
    assert ray["env_vars"] == ["GROKORA_STORE=s3://bucket/store"]  # not the devices, which are each node's own
    assert (ray["num_gpus"], ray["runtime_env"]) == (None, {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}})


def test_ray_that_is_not_installed_is_one_sentence(on_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dagster_ray", None)
    with pytest.raises(GrokoraError, match="GROKORA_EXECUTOR=ray needs Ray; run `pip install"):
        chosen_executor()


def test_both_instance_files_say_the_same_but_for_where_history_is_and_who_counts_gpus() -> None:
    local = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    shared = yaml.safe_load((Path(execution.__path__[0]) / "dagster-postgres.yaml").read_text())
    differs = {"storage", "local_artifact_storage", "compute_logs", "concurrency"}
    assert {name: value for name, value in local.items() if name not in differs} == {
        name: value for name, value in shared.items() if name not in differs
    }
