"""The committed sample, from its log files to the split of every agent."""

from pathlib import Path

import pytest

from grokora_pipeline.agents import load_agents
from grokora_pipeline.datasets.example import read_examples
from grokora_pipeline.datasets.examples import build_examples, read_near_pairs
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.datasets.split import SplitOptions, split_examples, straddling
from grokora_pipeline.sessions.ingest import IngestReport
from grokora_pipeline.sessions.redaction.audit import surviving_secrets
from grokora_pipeline_tests.unit.session_logs import run, turns

DATA = Path(__file__).resolve().parents[2] / "data"
SPEC = load_agents(DATA / "agents.yaml")


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> tuple[IngestReport, Path]:
    """The sample's turns."""
    folder = tmp_path_factory.mktemp("sample") / "turns"
    return run(DATA / "session_logs", folder, agents=SPEC), folder


def test_bad_files_of_the_sample_are_set_aside_and_all_others_are_read(ingested: tuple[IngestReport, Path]) -> None:
    report, _ = ingested
    assert sorted(row["reason"] for row in report.quarantine) == ["not_utf8", "truncated", "truncated"]
    assert report.turns > 1500
    assert set(report.by_format) == {"recording", "session_v1", "swarm_v2"}


def test_no_planted_secret_of_the_sample_is_stored(ingested: tuple[IngestReport, Path]) -> None:
    report, folder = ingested
    assert len(report.redactions) >= 7
    assert "FAKE" not in "".join(str(turn) for turn in turns(folder))
    assert list(surviving_secrets(folder)) == []


@pytest.mark.parametrize("agent", SPEC[:4], ids=lambda agent: agent.name)
def test_every_agent_gets_enough_examples_and_a_split_without_leaks(
    ingested: tuple[IngestReport, Path], tmp_path: Path, agent: object
) -> None:
    spec = next(one for one in SPEC if one is agent)
    report = build_examples(ingested[1], spec, tmp_path, DatasetOptions())
    examples = list(read_examples(tmp_path))
    assert report.rows + report.duplicates + sum(report.dropped.values()) == report.turns
    assert report.rows >= 150
    pairs = read_near_pairs(tmp_path, examples)
    split = split_examples(examples, SplitOptions(), pairs)
    assert abs(split.validation_share - 0.2) < 0.03
    assert straddling(examples, split.sides, pairs) == []
    assert split.divided == []
