"""The chain's cheap links on an S3 store, by the local executor, from machines that share nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grokora_pipeline.sandbox.record import record
from grokora_pipeline_tests.outside import s3

pytestmark = pytest.mark.slow
__all__ = ["s3"]

AGENTS = "agents: {actor: {description: Acts., answer: tool_call, preset: sample, min_examples: 5}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    record(folder / "logs", seed=11, sessions=24)
    (folder / "agents.yaml").write_text(AGENTS)
    return folder


def on(machine: str, folder: Path, url: str, *command: str) -> str:
    """Run a command on a machine of that name; returns all that it printed."""
    home = folder / machine
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "GROKORA_LOGS": str(folder / "logs"),
        "GROKORA_AGENTS": str(folder / "agents.yaml"),
        "GROKORA_STORE": f"{url}/chain",
        "GROKORA_CACHE": str(home / "cache"),
        "GROKORA_DEVICES": "cpu",
        "GROKORA_SETTLE_SECONDS": "0",
        "DAGSTER_HOME": str(home / "dagster"),
        "TMPDIR": str(home),
    }
    words = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
    done = subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def test_another_machine_finds_everything_up_to_date_and_forgets_for_all(folder: Path, s3: str) -> None:
    materialize = ("dagster", "asset", "materialize", "-m", "grokora_pipeline.definitions", "--select")
    first = on("one", folder, s3, *materialize, "session_logs,actor/task_dataset")
    assert "turns of 24 sessions" in first
    assert "actor/task_dataset is up to date" in on("two", folder, s3, *materialize, "actor/task_dataset")
    (examples,) = (folder / "two" / "cache").rglob("examples.jsonl")
    session = json.loads(examples.read_text().splitlines()[0])["meta"]["session_id"]
    assert "is forgotten from the next run on" in on("one", folder, s3, "grokora", "forget", session)
    assert "is up to date" not in on("two", folder, s3, *materialize, "actor/task_dataset")
    kept = [path.read_text() for path in (folder / "two" / "cache").rglob("examples.jsonl")]
    assert [session in text for text in kept].count(False) == 1
