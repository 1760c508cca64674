"""The chain on real sessions of Claude Code and Codex (../shared/data/agent_logs): from the files to a report."""

import json
import shutil
from pathlib import Path

import orjson
import pytest

from grokora_pipeline.store import Store
from grokora_pipeline_tests.chain import environment, materialize
from grokora_pipeline_tests.tiny import tiny_base
from grokora_pipeline_tests.unit.session_logs import SHARED

SAMPLES = SHARED / "data" / "agent_logs"
AGENTS = """
agents:
  coder:
    description: Works on a repository.
    match: {names: [claude-code, codex]}
    answer: tool_call
    preset: sample
    epochs: 1
    max_length: 6000
    min_examples: 5
"""
LINKS = ("task_dataset", "tokenized_split", "lora_adapter", "eval_report")


@pytest.mark.exhaustive
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs ../shared/data/agent_logs")
def test_sessions_of_coding_agents_become_an_adapter_with_a_report(tmp_path: Path) -> None:
    for name in ("claude_code", "codex"):
        shutil.copytree(SAMPLES / name, tmp_path / "logs" / name)
    base = tiny_base(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())  # rotary positions have no weights: any length will do
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16384}))
    (tmp_path / "agents.yaml").write_text(AGENTS)
    (tmp_path / "dagster").mkdir()
    keys = [f"coder/{link}" for link in LINKS]
    done = materialize(tmp_path, ",".join(["session_logs", "base_model", *keys]))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    store = Store(environment(tmp_path)["GROKORA_STORE"])
    teachers = store.require("coder/task_dataset").read_json("report.json")["by_teacher"]
    assert {"claude-sonnet-4-5-20250929", "gpt-5-codex"} <= teachers.keys()
    report = store.require("coder/eval_report")
    assert {"base", "adapter"} <= report.read_json("report.json")["systems"].keys()
    rows = [orjson.loads(line) for line in (report.path / "predictions.jsonl").read_bytes().splitlines()]
    split = store.require("coder/tokenized_split").read_json("examples.json")
    assert {row["system"] for row in rows} >= {"base", "adapter"}
    assert "validation" in split.values()
