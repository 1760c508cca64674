"""The definitions load fast, without torch, and describe the whole chain."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from grokora_pipeline.definitions import defs
from grokora_pipeline.execution.process import CUDA_POOL, CUDA_TAG

LINKS = {"task_dataset", "tokenized_split", "lora_adapter", "eval_report", "champion", "merged_model"}
AGENTS = {"coordinator", "observer", "actor", "validator", "grokputer"}
PROBE = """
import json, sys, time
import grokora_pipeline.definitions
heavy = [name for name in ("torch", "transformers", "trl", "peft", "pandas") if name in sys.modules]
print(json.dumps({"seconds": time.process_time(), "heavy": heavy}))
"""


def test_loading_the_definitions_imports_no_torch_and_takes_under_three_seconds_of_the_processor() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, env=os.environ)
    loaded = json.loads(done.stdout)
    assert loaded["heavy"] == []
    assert loaded["seconds"] < 3  # of the processor, so that other tests on the machine do not count


# what a webserver's or a daemon's image does not need (docs/dagster.md)
NOT_NEEDED = (
    *("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "evaluate", "datasketch"),
    *("gguf", "httpx", "huggingface_hub", "jsonschema", "llguidance", "matplotlib", "pandas"),
    *("rouge_score", "sacrebleu", "safetensors", "scipy", "starlette", "tensorboard", "typer", "uvicorn"),
)
BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[2].split(","), None))  # as if they were not installed
__import__(sys.argv[1])
"""


@pytest.mark.parametrize("module", ["grokora_pipeline.definitions", "grokora_pipeline.execution.launcher"])
def test_a_webserver_or_daemon_image_needs_none_of_the_heavy_packages(module: str) -> None:
    command = [sys.executable, "-c", BLOCKED, module, ",".join(NOT_NEEDED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_agent_has_the_whole_chain() -> None:
    keys = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}
    assert keys >= {f"{agent}/{link}" for agent in AGENTS for link in LINKS}
    assert keys >= {f"{agent}/{name}" for agent in AGENTS for name in ("rank_trial", "rank_report", "export")}
    assert keys >= {"session_logs", "session_log_files", "base_model", "swarm_report"}


def test_materialize_all_is_one_run_of_every_asset_that_can_be_made() -> None:
    job = defs.resolve_implicit_global_asset_job_def()
    makes = {key for asset in defs.assets or () if isinstance(asset, dg.AssetsDefinition) for key in asset.keys}
    assert makes <= set(job.asset_layer.executable_asset_keys)
    assert job.partitions_def is None  # Dagster refuses a run of partitioned and other assets together
    assert not [spec.key for spec in defs.resolve_all_asset_specs() if spec.partitions_def]


def test_no_schedule_is_on_the_page_of_retrain_all() -> None:
    jobs = {one.name: one.job_name for one in defs.schedules or () if isinstance(one, dg.ScheduleDefinition)}
    assert "retrain_all" not in jobs.values()
    assert jobs["swarm_when_due"] == "evaluate_swarm"
    assert jobs["actor_when_due"] == "retrain_actor"


def test_gpu_work_carries_the_tag_and_the_pool() -> None:
    for name in ("lora_adapter", "eval_report", "merged_model"):
        asset = defs.resolve_assets_def(["actor", name])
        assert asset.op.tags[CUDA_TAG] == "cuda"
        assert asset.op.pool == CUDA_POOL
    assert CUDA_TAG not in defs.resolve_assets_def(["actor", "task_dataset"]).op.tags


def test_the_launchpad_describes_every_field_of_every_step() -> None:
    def fields(kind: Any, place: str) -> Iterator[tuple[str, str | None]]:
        """(place, description) of all fields below a type of Dagster's config."""
        for name, field in getattr(kind, "fields", {}).items():
            yield f"{place}.{name}", field.description
            yield from fields(field.config_type, f"{place}.{name}")

    nodes = {node.name: node.definition for job in defs.resolve_all_job_defs() for node in job.nodes}
    schemas = {name: node.config_schema for name, node in nodes.items() if isinstance(node, dg.OpDefinition)}
    told = [one for name, schema in schemas.items() for one in fields(schema.config_type if schema else None, name)]
    assert len(told) > 100
    assert [place for place, text in told if not text] == []


def test_every_asset_has_a_description_an_owner_and_a_code_version() -> None:
    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        if spec.key.to_user_string() not in ("session_log_files", "forget_list"):  # nobody materializes these
            assert spec.owners, spec.key
            assert spec.code_version, spec.key
