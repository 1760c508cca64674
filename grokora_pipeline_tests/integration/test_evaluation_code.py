"""An agent whose answer is code, from its recordings to its report: what it writes is judged by running it."""

from pathlib import Path

import orjson

from grokora_pipeline.agents import load_agents
from grokora_pipeline.datasets.example import read_examples
from grokora_pipeline.datasets.examples import build_examples
from grokora_pipeline.datasets.preferences import judged_rows
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.datasets.split import SplitOptions, split_examples
from grokora_pipeline.evaluation.__main__ import evaluate
from grokora_pipeline.evaluation.metrics import METRICS
from grokora_pipeline.evaluation.metrics.answers import Answer
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.sandbox.coder import record
from grokora_pipeline.sessions.ingest import ingest
from grokora_pipeline.settings import PROJECT_ROOT
from grokora_pipeline.training.run import train
from grokora_pipeline.training.tokenize import tokenize_split
from grokora_pipeline.workers.frame import Reporter
from grokora_pipeline_tests.tiny import tiny_base


def test_the_sample_coder_is_trained_and_every_row_of_it_is_judged_by_running_it(tmp_path: Path) -> None:
    agents = load_agents(PROJECT_ROOT / "data" / "agents.coder.yaml")
    record(tmp_path / "logs", 7, 60)
    for folder in ("turns", "dataset"):
        (tmp_path / folder).mkdir()
    ingest(tmp_path / "logs", agents, None, tmp_path / "turns", settle_seconds=0, workers=1)
    build_examples(tmp_path / "turns", agents[0], tmp_path / "dataset", DatasetOptions())
    examples = sorted(read_examples(tmp_path / "dataset"), key=lambda one: one.id)
    expected = [Answer(one.completion[0], one.completion[0], answer_type="code") for one in examples]
    assert all(METRICS["code_runs"].value([answer]) == 1.0 for answer in expected)
    base = tiny_base(tmp_path / "base")
    rows = list(judged_rows(examples, [], split_examples(examples, SplitOptions(), []).sides))
    texts, sides = [row for row, _ in rows], [side for _, side in rows]
    tokenize_split(texts, sides, ChatFormat.load(base), tmp_path / "split", max_length=512, seed=7)
    folders = {"base": str(base), "split": str(tmp_path / "split")}
    knobs = {"preset": "sample", "max_steps": 2, "self_test": False}
    train({**folders, "output": str(tmp_path / "adapter"), "knobs": knobs}, Reporter())
    plan = {
        **folders,
        "agent": agents[0].name,
        "answer": agents[0].answer.model_dump(by_alias=True),
        "main_metric": agents[0].main_metric,
        "base_hash": "tiny",
        "adapter": str(tmp_path / "adapter"),
        "examples": str(tmp_path / "dataset" / "examples.jsonl"),
        "output": str(tmp_path / "report"),
        "max_new_tokens": 8,
        "probe": False,
    }
    evaluate(plan, Reporter())
    report = orjson.loads((tmp_path / "report" / "report.json").read_bytes())
    assert report["main_metric"] == "code_runs"
    assert report["rows"] == sides.count("validation") > 0
    for system in report["systems"].values():
        assert system["metrics"]["code_runs"]["value"] == 0.0  # a random model's words are no command
        assert "code_parses" not in system["metrics"]  # shell is no Python
