"""`improvement`: what the worker made lies among the recordings, once a round."""

from pathlib import Path
from typing import Any

from grokora_pipeline.agents import AgentSpec, AnswerSpec, Improve
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.improvement import improvement_asset
from grokora_pipeline.evaluation.improve import FILE, ImprovePlan
from grokora_pipeline.evaluation.plan import read_plan
from grokora_pipeline.settings import Settings
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.gateway import add_adapter, make_store
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.workers import materialize

IMPROVE = Improve(verify="command", command=("true",))
AGENT = AgentSpec(name="actor", description="acts", improve=IMPROVE, answer=AnswerSpec(type="tool_call"))


def improve(tmp_path: Path, lines: int, **config: Any) -> dict[str, str]:
    """The recordings after a round whose worker keeps so many answers, by name."""

    def work(module: str, plan: dict[str, Any], output: Path) -> dict[str, Any]:
        checked = read_plan(ImprovePlan, plan)  # the real worker's own check
        assert (checked.adapters["actor"] is None) == ("actor" in checked.prompts)
        assert checked.answer == AGENT.answer
        (output / FILE).write_text(f"{plan['improve']['seed']}\n" * lines)
        return {"asked": 4, "kept": lines, "lines": lines, "accepted_share": lines / 4}

    project = Project(Settings(home=tmp_path, store=str(tmp_path / "store"), logs=tmp_path / "logs"), (AGENT,))
    assert materialize(project, [improvement_asset(project, AGENT, IMPROVE)], work, **config).success
    folder = tmp_path / "logs" / "recordings" / "improve"
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.is_dir() else {}


def test_a_round_is_one_file_of_recordings_and_another_seed_another(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    add_adapter(store, "actor", "v1")
    Registry(store).promote("actor", "v1", "better", {})
    for link in ("task_dataset", "tokenized_split"):
        publish_files(store, f"actor/{link}", "d1", {"data": b"x"})
    assert improve(tmp_path, 0, seed=1) == {}
    first = improve(tmp_path, 2)
    assert list(first.values()) == ["7\n7\n"]
    assert improve(tmp_path, 2) == first
    assert sorted(improve(tmp_path, 1, seed=9).values()) == ["7\n7\n", "9\n"]
    publish_files(store, "actor/prompt", "prompt-1", {"prompt.json": {"instruction": "Be brief."}})
    Registry(store).promote("actor", "prompt-1", "better", {})
    assert len(improve(tmp_path, 3)) == 3  # another champion, another round
