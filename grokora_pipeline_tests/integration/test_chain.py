"""The whole chain, by `grokora demo` and by Dagster's own command line, on a small sample and a tiny random model."""

import json
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from grokora_pipeline.sandbox.record import record
from grokora_pipeline.store import Store
from grokora_pipeline_tests.chain import demo, environment, materialize, script

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chain")]


def report(home: Path, key: str, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((Store(str(home / "store")).require(key).path / name).read_bytes())
    return document


def test_the_demo_makes_everything_and_ends_with_a_table(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert "Base model against adapter" in run.stdout
    assert "report.html" in run.stdout


def test_a_second_demo_finds_everything_up_to_date(home: Path, run: subprocess.CompletedProcess[str]) -> None:
    again = demo(home)
    assert again.returncode == 0
    assert "0 are to be made" in again.stdout


def test_an_adapter_is_safetensors_with_its_training_record(home: Path, run: subprocess.CompletedProcess[str]) -> None:
    folder = Store(str(home / "store")).require("actor/lora_adapter").path
    names = {path.name for path in folder.iterdir()}
    assert names >= {"adapter_model.safetensors", "adapter_config.json", "training.json", "README.md"}
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]


def test_the_report_compares_base_and_adapter_on_the_same_rows(
    home: Path, run: subprocess.CompletedProcess[str]
) -> None:
    document = report(home, "actor/eval_report", "report.json")
    assert {"base", "adapter"} <= document["systems"].keys()
    folder = Store(str(home / "store")).require("actor/eval_report").path
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    by_system = {name: [row["turn_id"] for row in rows if row["system"] == name] for name in ("base", "adapter")}
    assert by_system["base"] == by_system["adapter"] != []


def test_no_asset_shows_more_than_a_dozen_numbers(home: Path, run: subprocess.CompletedProcess[str]) -> None:
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        events = [instance.get_latest_materialization_event(key) for key in instance.get_asset_keys()]
    made = [event.asset_materialization for event in events if event and event.asset_materialization]
    assert len(made) >= 10
    for one in made:
        numbers = [name for name, value in one.metadata.items() if type(value.value) in (int, float)]
        assert len(numbers) <= 12, one.asset_key


def test_an_agent_without_enough_examples_is_skipped_and_says_why(
    home: Path, run: subprocess.CompletedProcess[str]
) -> None:
    assert Store(str(home / "store")).current("grokputer/lora_adapter") is None
    assert "grokputer is skipped" in run.stdout
    assert "grokputer/lora_adapter skipped" in run.stdout


def test_materializing_again_makes_the_same_versions(home: Path, run: subprocess.CompletedProcess[str]) -> None:
    store = Store(str(home / "store"))
    keys = ("session_logs", "base_model", "actor/task_dataset", "actor/tokenized_split", "actor/lora_adapter")
    before = [store.require(key).version for key in keys]
    again = materialize(home, "session_logs,base_model,actor/task_dataset,actor/tokenized_split,actor/lora_adapter")
    assert again.returncode == 0, again.stderr[-4000:]
    assert [store.require(key).version for key in keys] == before


def grokora(home: Path, *arguments: str) -> str:
    command = [script("grokora"), *arguments]
    done = subprocess.run(command, env=environment(home), cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_prediction_is_traced_to_its_log_line_and_a_log_to_its_adapter(
    home: Path, run: subprocess.CompletedProcess[str]
) -> None:
    store = Store(str(home / "store"))
    rows = (store.require("actor/eval_report").path / "predictions.jsonl").read_text().splitlines()
    source, _, _ = grokora(home, "trace", json.loads(rows[0])["turn_id"]).split()[2].rpartition(":")
    assert (home / "logs" / source).is_file()
    dataset = (store.require("actor/task_dataset").path / "examples.jsonl").read_text().splitlines()
    validation = set(json.loads((store.require("actor/tokenized_split").path / "examples.json").read_bytes()).items())
    trained = next(
        meta for meta in (json.loads(line)["meta"] for line in dataset) if (meta["example_id"], "train") in validation
    )
    assert f"actor/lora_adapter {store.require('actor/lora_adapter').version}" in grokora(
        home, "trace", trained["source_file"]
    )


def test_a_forgotten_session_is_in_no_dataset_any_more(home: Path, run: subprocess.CompletedProcess[str]) -> None:
    store = Store(str(home / "store"))

    def sessions() -> set[str]:
        lines = (store.require("actor/task_dataset").path / "examples.jsonl").read_text().splitlines()
        return {json.loads(line)["meta"]["session_id"] for line in lines}

    session = min(sessions())
    assert "forgotten from the next run on" in grokora(home, "forget", session)
    assert materialize(home, "actor/task_dataset,actor/tokenized_split").returncode == 0
    assert session not in sessions()


def test_no_log_was_touched(home: Path, run: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    record(tmp_path / "logs", seed=11, sessions=40)
    fresh = {p.relative_to(tmp_path): p.read_bytes() for p in (tmp_path / "logs").rglob("*") if p.is_file()}
    used = {p.relative_to(home): p.read_bytes() for p in (home / "logs").rglob("*") if p.is_file()}
    assert used == fresh
