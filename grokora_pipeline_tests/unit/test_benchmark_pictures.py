"""The README's pictures: what is drawn, and which swarm report belongs to which round of improve."""

from pathlib import Path

import orjson
import pytest

from grokora_pipeline.store import Store
from grokora_pipeline_tests.benchmarks.pictures import draw, generations
from grokora_pipeline_tests.stores import publish_files


def test_success_is_drawn_over_the_rounds_of_improve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"))
    assert draw(store, tmp_path)["written"] == []
    for version, rate in (("v1", 0.1), ("v2", 0.2), ("v5", 0.5)):
        champions = {"success_rate": rate, "low": rate - 0.1, "high": rate + 0.1}
        publish_files(store, "swarm_report", version, {"swarm.json": {"systems": {"champions": champions}}})
    for version in ("v3", "v4"):
        publish_files(store, "actor/improvement", version, {"improvement.json": {}})
    history = store.history  # all was published within one second, so the days are given here
    days = {"swarm_report": ["2026-01-01", "2026-01-02", "2026-01-05"]}
    days |= {"actor/improvement": ["2026-01-03", "2026-01-04"]}
    monkeypatch.setattr(
        Store,
        "history",
        lambda self, key, name: [{**one, "at": at} for one, at in zip(history(key, name), days[key], strict=True)],
    )
    assert [(one["round"], one["value"]) for one in generations(store)] == [(0, 0.2), (2, 0.5)]
    metrics = {"metrics": {"exact_match": {"value": 0.5, "low": 0.4, "high": 0.6}}}
    systems = {"base": metrics, "adapter": metrics}
    report = {"main_metric": "exact_match", "systems": systems, "ladder": {"cheapest": "base"}}
    publish_files(store, "actor/eval_report", "r1", {"report.json": report})
    drawn = draw(store, tmp_path / "pictures")
    assert drawn["written"] == ["ladder.png", "improve.png"]
    assert all((tmp_path / "pictures" / name).read_bytes().startswith(b"\x89PNG") for name in drawn["written"])


def test_a_round_that_the_benchmark_measured_is_drawn_with_its_intervals(tmp_path: Path) -> None:
    stages = {"before": [True, False, False, False], "after": [True, True, True, False], "again": [True] * 4}
    rows = [{"seed": 1, "stage": stage, "solved": solved} for stage, solved in stages.items()]
    rows += [{"seed": 2, "stage": stage, "solved": [stage == "after"] * 4} for stage in ("before", "after")]
    rows.append({"seed": 3, "stage": "before", "solved": [True] * 4})  # its round was not finished yet
    (tmp_path / "improve.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    drawn = draw(Store(str(tmp_path / "store")), tmp_path / "pictures", tmp_path / "improve.jsonl")
    rounds = [(one["seed"], one["round"], one["value"], one["control"]) for one in drawn["generations"]]
    alone = (1, 1, 1, True)  # as good without the round
    assert rounds == [(1, 0, 0.25, False), (1, 1, 0.75, False), alone, (2, 0, 0, False), (2, 1, 1, False)]
    assert all(one["low"] < one["value"] < one["high"] for one in drawn["generations"][:2])
    assert drawn["written"] == ["improve.png"]
