"""The benchmark of ways to learn, on a random model: it runs to its end and goes on where it was stopped."""

from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.training.run import train
from grokora_pipeline.workers.frame import Reporter
from grokora_pipeline_tests.benchmarks import learning
from grokora_pipeline_tests.tiny import tiny_base


@pytest.mark.slow
def test_every_way_of_learning_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(tmp_path / "base")
    arguments = ["--base", str(base), "--output", str(tmp_path / "out"), "--agents", "actor", "--seeds", "1", "--tiny"]
    report = learning.main(arguments)
    assert [row["way"] for row in report["table"]] == list(learning.WAYS)
    assert all(row["seeds"] == 1 and 0 <= row["exact"] <= 1 for row in report["table"])
    lines = (tmp_path / "out" / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out" / "results.jsonl").write_bytes(b"".join(lines[:-1]))  # stopped before the last training
    trained: list[str] = []

    def counted(plan: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
        trained.append(Path(plan["output"]).name)
        return train(plan, reporter)

    monkeypatch.setattr("grokora_pipeline_tests.benchmarks.learning.train", counted)
    assert learning.main(arguments)["table"] == report["table"]
    assert trained == ["actor-preferences-1"]


@pytest.mark.exhaustive
def test_a_round_of_improve_is_measured_against_training_again(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    arguments = ["--base", str(base), "--output", str(tmp_path / "out"), "--seeds", "1", "--tiny"]
    (row,) = learning.main([*arguments, "--question", "improve"])["table"]
    # a random model solves nothing
    assert row.items() >= {"seed": 1, "before": 0.0, "after": 0.0, "again": 0.0}.items()
    assert row["after_p"] == row["again_p"] == 1


def test_rounds_of_several_seeds_are_judged_together_over_their_tasks() -> None:
    solved = {(1, "before"): [1, 0, 0, 0], (1, "after"): [1, 1, 0, 0], (2, "before"): [0] * 4, (2, "after"): [1] * 4}
    results = [{"seed": seed, "stage": stage, "solved": solved[seed, stage]} for seed, stage in solved]
    table = list(learning.improvement(results))
    assert [(row["seed"], row["before"], row["after"]) for row in table] == [
        (1, 0.25, 0.5),
        (2, 0, 1),
        ("all", 0.125, 0.75),
    ]


@pytest.mark.exhaustive
def test_what_a_chain_of_trainings_keeps_is_measured_with_and_without_replay(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    arguments = ["--base", str(base), "--output", str(tmp_path / "out"), "--agents", "actor", "--seeds", "1", "--tiny"]
    table = learning.main([*arguments, "--question", "forgetting", "--replay", "0", "1"])["table"]
    assert [row["replay"] for row in table] == [None, 0, 1]
    assert [row["replayed"] > 0 for row in table] == [False, False, True]
    assert table[2]["steps"] == 2 * table[1]["steps"]  # as many passes over twice the rows
