"""New logs in front of a real `dagster dev`: what should run runs, and nothing else does."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml

from grokora_pipeline.sandbox.record import record
from grokora_pipeline.settings import PROJECT_ROOT
from grokora_pipeline.store import Store
from grokora_pipeline_tests.chain import AGENTS, environment, script
from grokora_pipeline_tests.processes import free_port, started, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chain")]

INGESTED = {
    "session_logs",
    *(f"{agent}/task_dataset" for agent in ("actor", "coordinator", "grokputer")),
    *(f"{agent}/tokenized_split" for agent in ("actor", "coordinator")),
}
LORA_ADAPTER = dg.AssetKey(["actor", "lora_adapter"])
TRAINED = {f"actor/{link}" for link in ("lora_adapter", "eval_report", "champion", "merged_model")}


@pytest.fixture
def place(home: Path, run: subprocess.CompletedProcess[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the materialized chain, with the checkout's own dagster.yaml, where the actor may train at any time."""
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    place = tmp_path_factory.mktemp("dev")  # a short name: sockets below it have at most 107 characters
    for part in ("logs", "store", "dagster"):
        shutil.copytree(home / part, place / part)
    agents = yaml.safe_load(AGENTS)
    for name, needed in (("actor", 1), ("coordinator", 10_000), ("grokputer", 10_000)):
        retrain = {"window": "* * * * *", "gap_hours": 0, "new_examples": needed, "new_share": 100}
        agents["agents"][name]["retrain"] = {**retrain, "min_ratings": 10_000, "drift_rows": 10_000}
    (place / "agents.yaml").write_text(yaml.safe_dump(agents, sort_keys=False))
    instance = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    for storage in ("storage", "local_artifact_storage", "compute_logs"):
        del instance[storage]
    (place / "dagster" / "dagster.yaml").write_text(yaml.safe_dump(instance))
    return place


@contextmanager
def dagster_dev(place: Path, base_model: Path) -> Iterator[None]:
    """`grokora ui` with the automation on: web server, daemon and code server."""
    variables = {**environment(place), "GROKORA_BASE_MODEL": str(base_model), "GROKORA_AUTOMATION": "on"}
    command = [script("grokora"), "ui", "--port", str(free_port())]
    with started(command, place / "dev.log", variables, signal.SIGINT):
        yield


class Watch:
    """What the daemon did, as its instance tells."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._known = {run.run_id for run in instance.get_runs()}

    def requested(self) -> set[str]:
        """The assets of all runs since the start."""
        return {key.to_user_string() for run in self._new() for key in run.asset_selection or ()}

    def runs(self, job: str) -> int:
        """How many runs of a job there were since the start."""
        return sum(run.job_name == job for run in self._new())

    def _new(self) -> list[dg.DagsterRun]:
        return [run for run in self._instance.get_runs() if run.run_id not in self._known]

    def training(self) -> bool:
        """Whether an adapter of the actor is being made at this moment."""
        runs = self._instance.get_runs(dg.RunsFilter(job_name="retrain_actor", statuses=[dg.DagsterRunStatus.STARTED]))
        return any(LORA_ADAPTER in (run.asset_selection or ()) and not self._made(run) for run in runs)

    def _made(self, run: dg.DagsterRun) -> bool:
        found = self._instance.fetch_materializations(LORA_ADAPTER, limit=10).records
        return any(record.event_log_entry.run_id == run.run_id for record in found)

    def idle_ticks(self) -> int:
        """How often `new_logs` looked and found nothing new, up to now."""
        found = 0
        for state in self._instance.all_instigator_state():
            ticks = self._instance.get_ticks(state.instigator_origin_id, state.selector_id)
            found += sum("Nothing new" in (tick.skip_reason or "") for tick in ticks)
        return found

    def adapters(self) -> int:
        """How many adapters of the actor were made, ever."""
        return len(self._instance.fetch_materializations(LORA_ADAPTER, limit=10).records)


def learnt(store: Store) -> bool:
    """Whether the actor's adapter was trained on the split that there is now."""
    split, adapter = (store.current(f"actor/{link}") for link in ("tokenized_split", "lora_adapter"))
    assert split is not None and adapter is not None
    return bool(adapter.read_json("training.json")["versions"]["actor/tokenized_split"] == split.version)


def test_new_logs_are_learnt_also_those_that_land_during_a_training_and_the_same_again_are_not(
    place: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(place / "dagster"))
    for seed in (12, 13):
        record(tmp_path / str(seed), seed=seed, sessions=12)
    with dg.DagsterInstance.get() as instance, dagster_dev(place, home / "base"):
        watch, before = Watch(instance), Watch(instance).adapters()
        until(lambda: watch.idle_ticks() > 0, "the first look at logs that are learnt already", 90, every=0.5)
        assert watch.requested() == set()
        shutil.copytree(tmp_path / "12", place / "logs", dirs_exist_ok=True)
        until(lambda: "session_logs" in watch.requested(), "the look at new logs", 60, every=0.5)
        until(lambda: watch.requested() >= INGESTED, "what follows new logs at once", 120, every=0.5)
        until(watch.training, "the start of the training", 180, every=0.5)
        shutil.copytree(tmp_path / "13", place / "logs", dirs_exist_ok=True)
        assert watch.training(), "the training ended before more logs could land"
        until(lambda: watch.adapters() > before + 1, "the training on what landed during the first", 300, every=0.5)
        assert learnt(Store(str(place / "store")))
        for seed in (12, 13):
            shutil.copytree(tmp_path / str(seed), place / "logs", dirs_exist_ok=True)
        idle, runs = watch.idle_ticks(), watch.runs("ingest")
        until(lambda: watch.idle_ticks() > idle + 1, "the look at the same logs", 60, every=0.5)
        assert watch.requested() == INGESTED | TRAINED
        assert watch.runs("ingest") == runs
        assert watch.adapters() == before + 2
