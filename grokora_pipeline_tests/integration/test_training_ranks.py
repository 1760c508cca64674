"""Rank trials through the definitions: ranks as config, made on demand only, and a report that compares them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from grokora_pipeline.settings import get_settings
from grokora_pipeline.store import Store
from grokora_pipeline_tests.chain import environment, script

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chain")]


@pytest.fixture
def defs(
    home: Path, run: subprocess.CompletedProcess[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.Definitions]:
    from grokora_pipeline.definitions import environment_defs

    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    yield environment_defs()
    get_settings.cache_clear()


def materialize(defs: dg.Definitions, name: str, **config: Any) -> dict[str, Any]:
    """Make one of the actor's rank assets; returns its metadata."""
    made = defs.resolve_job_def("rank_experiment").execute_in_process(
        asset_selection=[dg.AssetKey(["actor", name])],
        run_config={"ops": {f"actor__{name}": {"config": config}}} if config else {},
        instance=dg.DagsterInstance.get(),
    )
    (event,) = made.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def records(shown: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [dict(record.data) for record in shown[name].records]


def test_ranks_are_tried_one_by_one_and_compared(defs: dg.Definitions, home: Path) -> None:
    knobs = {"max_steps": 4, "max_validation": 4}
    (first,) = records(materialize(defs, "rank_trial", ranks=[8], seeds=[7, 8], rows=0, knobs=knobs), "ranks")
    shown = materialize(defs, "rank_trial", ranks=[16], seeds=[7], rows=2, knobs=knobs)
    (second,), (record,) = records(shown, "ranks"), records(shown, "seeds_apart")
    assert (first["rank"], first["seeds"], second["seeds"]) == (8, 2, 1)
    assert second["adapter_mib"] > 1.5 * first["adapter_mib"]
    assert first["metric"] == "None"
    assert 0 <= second["metric"] <= 1
    assert (record["rank"], record["seed"]) == (16, 7)
    shown = materialize(defs, "rank_report")
    assert shown["ranks_not_tried"] == "32, 64"
    assert "data:image/png" in shown["picture"]
    folder = Store(str(home / "store")).require("actor/rank_report").path
    report = json.loads((folder / "report.json").read_bytes())
    assert [row["rank"] for row in report["ranks"]] == [8, 16]
    assert report["recommendation"]["rank"] in {8, 16}
    assert f"rank: {report['recommendation']['rank']}" in shown["for_agents_yaml"]


def test_materialize_all_runs_and_tries_no_rank(defs: dg.Definitions) -> None:
    made = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=dg.DagsterInstance.get())
    assert made.success
    keys = {event.asset_key for event in made.get_asset_materialization_events() if event.asset_key}
    assert {dg.AssetKey(["actor", link]) for link in ("eval_report", "champion")} <= keys
    assert not [key for key in keys if key.path[-1].startswith("rank_")]


def test_no_other_job_and_no_demo_tries_ranks(defs: dg.Definitions) -> None:
    from grokora_pipeline.assets.common import load_project
    from grokora_pipeline.cli import demo

    keys, _ = demo.out_of_date(load_project(), dg.DagsterInstance.get())
    for job in ("retrain_all", "retrain_actor", "ingest", "evaluate_only"):
        keys += defs.resolve_job_def(job).asset_layer.executable_asset_keys
    assert not [key for key in keys if key.path[-1].startswith("rank_")]


def test_an_adapter_is_shrunk_by_one_command(home: Path, run: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    small, adapter = tmp_path / "small", Store(str(home / "store")).require("actor/lora_adapter").path
    command = [script("grokora"), "shrink", "actor", "--rank", "2", "--output", str(small)]
    done = subprocess.run(command, env=environment(home), cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("MiB, validation loss") == 3
    assert json.loads((small / "adapter_config.json").read_text())["r"] == 2
    sizes = [(folder / "adapter_model.safetensors").stat().st_size for folder in (small, adapter)]
    assert sizes[0] < sizes[1] / 4
    again = subprocess.run(command, env=environment(home), cwd=home, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "exists; give a new folder" in again.stderr
