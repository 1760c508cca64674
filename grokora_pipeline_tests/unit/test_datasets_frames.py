"""The store as DataFrames."""

from pathlib import Path

import pytest

from grokora_pipeline.datasets import frames
from grokora_pipeline.datasets.examples import build_examples
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import Store
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.unit.session_logs import ACTOR, call, run, tool_answer, write_lines


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Turns and a dataset of three sessions; one of them is rated by a line in another file."""
    store = Store(str(tmp_path / "store"))
    lines = [call(f"s{n}", 0, f"p{n}", "done", outcome={"status": "success"}) for n in range(2)]
    lines.append(call("s2", 0, "p2", tool_answer("bash", {"command": "ls"}), outcome={"status": "success"}))
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    write_lines(tmp_path / "logs" / "b.jsonl", [{"session_id": "s1", "outcome": {"rating": 5}}])
    with store.stage("session_logs") as staged:
        run(tmp_path / "logs", staged / "made")
        logs = store.publish("session_logs", "v1", staged / "made")
    with store.stage("actor/task_dataset") as staged:
        build_examples(logs.path, ACTOR, staged, DatasetOptions())
        store.publish("actor/task_dataset", "v1", staged)
    return store


def test_turns_are_a_frame_with_times_and_the_sessions_verdicts(store: Store) -> None:
    frame = frames.turns(store).set_index("session_id")
    assert str(frame["started_at"].dtype).startswith("datetime64")
    assert frame.loc["s1", "rating"] == 5
    assert frame["status"].unique().tolist() == ["success"]


def test_examples_are_a_frame_with_their_side(store: Store) -> None:
    frame = frames.examples(store, "actor")
    assert frame.groupby("session_id")["weight"].sum().to_dict() == {"s0": 1, "s1": 1, "s2": 1}
    assert frame["side"].isna().all()
    assert sorted(frame["question"]) == ["p0", "p1", "p2"]
    assert "bash" in str(frame.set_index("session_id").loc["s2", "answer"])
    publish_files(store, "actor/tokenized_split", "v1", {"examples.json": {frame["example_id"][0]: "validation"}})
    assert frames.examples(store, "actor")["side"].fillna("none").tolist() == ["validation", "none", "none"]


def test_what_was_not_made_yet_is_one_sentence(store: Store) -> None:
    with pytest.raises(GrokoraError, match="observer/task_dataset is not in the store"):
        frames.examples(store, "observer")


def test_a_dataset_without_examples_is_an_empty_frame(store: Store, tmp_path: Path) -> None:
    publish_files(store, "actor/task_dataset", "v2", {"examples.jsonl": b""})
    frame = frames.examples(store, "actor")
    assert (len(frame), frame["answer"].value_counts().size) == (0, 0)
