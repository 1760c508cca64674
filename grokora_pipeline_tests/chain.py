"""A home for the whole chain: a small sample, a tiny random model, two agents, everything in one folder."""

import os
import subprocess
import sys
from pathlib import Path

from grokora_pipeline.sandbox.record import record
from grokora_pipeline_tests.tiny import tiny_base

AGENTS = """
agents:
  coordinator: {description: Splits a task., answer: json, preset: sample, epochs: 1, min_examples: 5}
  actor: {description: Acts., answer: tool_call, preset: sample, epochs: 1, min_examples: 5}
  grokputer: {description: The single agent., match: {system: [VRZIBRZI]}, preset: sample, min_examples: 100000}
"""


def make_home(folder: Path) -> Path:
    """Logs, base model, agents.yaml and a place for Dagster's history."""
    record(folder / "logs", seed=11, sessions=40)
    tiny_base(folder / "base")
    (folder / "agents.yaml").write_text(AGENTS)
    (folder / "dagster").mkdir()
    (folder / "dagster" / "dagster.yaml").write_text("nux: {enabled: false}\ntelemetry: {enabled: false}\n")
    return folder


def environment(home: Path) -> dict[str, str]:
    """The environment in which every command acts on this home."""
    return {
        **os.environ,
        "GROKORA_LOGS": str(home / "logs"),
        "GROKORA_STORE": str(home / "store"),
        "GROKORA_AGENTS": str(home / "agents.yaml"),
        "GROKORA_BASE_MODEL": str(home / "base"),
        "GROKORA_DEVICES": "cpu",
        "GROKORA_SETTLE_SECONDS": "0",
        "DAGSTER_HOME": str(home / "dagster"),
        "TMPDIR": str(home),
    }


def script(name: str) -> str:
    """A command of this virtual environment."""
    return str(Path(sys.executable).with_name(name))


def materialize(home: Path, selection: str) -> subprocess.CompletedProcess[str]:
    """Materialize by Dagster's own command line."""
    command = [script("dagster"), "asset", "materialize", "-m", "grokora_pipeline.definitions", "--select", selection]
    return subprocess.run(command, env=environment(home), cwd=home, capture_output=True, text=True, check=False)


def demo(home: Path) -> subprocess.CompletedProcess[str]:
    """`grokora demo`."""
    command = [script("grokora"), "demo"]
    return subprocess.run(command, env=environment(home), cwd=home, capture_output=True, text=True, check=False)
