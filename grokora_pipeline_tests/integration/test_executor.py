"""Steps on two simulated devices: never two on one, both busy, none lost to a kill, none waited for in a circle."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from grokora_pipeline.execution.executor import fit_pool
from grokora_pipeline.settings import PROJECT_ROOT, get_settings
from grokora_pipeline.workers.lease import acquire, die_with_parent
from grokora_pipeline_tests.chain import script
from grokora_pipeline_tests.devices import FOLDER, SECONDS
from grokora_pipeline_tests.processes import until

pytestmark = pytest.mark.slow

Record = dict[str, Any]
FOUR = "coordinator,observer,actor,validator"


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with two devices and an instance with the checkout's limits, whose pool fits them."""
    folder = tmp_path_factory.mktemp("two")  # a short name: sockets below it have at most 107 characters
    settings = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    (folder / "dagster.yaml").write_text(yaml.safe_dump({"concurrency": settings["concurrency"]}))
    for name, value in (("DAGSTER_HOME", folder), ("TMPDIR", folder), (FOLDER, folder)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("GROKORA_DEVICES", "0,1")
    monkeypatch.setenv(SECONDS, "1.5")
    get_settings.cache_clear()
    with dg.DagsterInstance.get() as instance:
        fit_pool(instance, get_settings())
    yield folder
    get_settings.cache_clear()


def start(place: Path, selection: str) -> subprocess.Popen[bytes]:
    command = [script("dagster"), "asset", "materialize", "-m", "grokora_pipeline_tests.devices", "--select", selection]
    with (place / "run.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=PROJECT_ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )


def records(place: Path) -> list[Record]:
    found = [path.read_text() for path in place.glob("*.held.json")]
    return [json.loads(text) for text in found if text]


def overlap(first: Record, second: Record) -> bool:
    return bool(first["start"] < second["end"] and second["start"] < first["end"])


def test_four_agents_on_two_devices_never_share_one_and_keep_both_busy(place: Path) -> None:
    run = start(place, f"{FOUR},beside")
    assert run.wait(timeout=120) == 0, (place / "run.log").read_text()[-4000:]
    held = records(place)
    assert len(held) == 4
    together = [(a, b) for a, b in combinations(held, 2) if overlap(a, b)]
    assert all(a["devices"] != b["devices"] for a, b in together)
    assert together, "the devices were used one after the other"
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("beside"))
        assert event is not None
        assert event.asset_materialization is not None
        assert event.asset_materialization.metadata["sees"].value == ""


def test_two_runs_at_once_never_share_and_who_wants_two_devices_gets_them(place: Path) -> None:
    runs = [start(place, "coordinator,observer,wide"), start(place, "actor,validator,wide")]
    assert [run.wait(timeout=180) for run in runs] == [0, 0], (place / "run.log").read_text()[-4000:]
    held = records(place)
    assert sorted(len(record["devices"]) for record in held) == [1, 1, 1, 1, 2, 2]
    for first, second in combinations(held, 2):
        if overlap(first, second):
            assert not set(first["devices"]) & set(second["devices"]), (first, second)


def test_a_step_that_is_killed_frees_its_device(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECONDS, "300")
    run = start(place, "coordinator,observer")
    try:
        until(lambda: len(records(place)) == 2, "both steps' work", 60)
        first, second = records(place)
        os.kill(first["step"], signal.SIGKILL)
        folder = place / f"grokora-leases-{os.getuid()}"
        until(lambda: acquire(first["devices"], 1, folder) == first["devices"], "the end of the lease", 20)
        assert acquire(second["devices"], 1, folder) == []
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
