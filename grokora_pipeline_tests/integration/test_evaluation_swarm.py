"""The swarm test on a tiny random model: it runs to its end, counts honestly, and a champion answers only its role."""

import json
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.evaluation import swarm
from grokora_pipeline.evaluation.policy import PolicyResponder
from grokora_pipeline.evaluation.systems import Systems
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.prompt import encode_behind
from grokora_pipeline.sandbox.swarm import AgentCall, expert_answer
from grokora_pipeline.serving.engine.decoder import Decoder
from grokora_pipeline.serving.engine.request import Completion
from grokora_pipeline.workers.frame import Reporter
from grokora_pipeline_tests.tiny import tiny_base

ROLES = ("coordinator", "observer", "actor", "validator")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model."""
    return tiny_base(tmp_path_factory.mktemp("base"))


def _plan(base: Path, output: Path, **more: Any) -> dict[str, Any]:
    adapters = dict.fromkeys(ROLES)
    return {"base": str(base), "adapters": adapters, "output": str(output), "tasks": 4, "max_new_tokens": {}, **more}


def test_a_random_model_solves_nothing_and_the_report_says_so(base: Path, tmp_path: Path) -> None:
    report = swarm.swarm_test(_plan(base, tmp_path, seeds=[1, 2]), Reporter())
    run = report["systems"]["base"]
    assert run["success_rate"] == 0
    assert run["calls"] == {"coordinator": 8}
    assert run["pass^2"] == 0
    assert report["verdict"] == "No role has a champion: the base model solves 0% of 4 unseen tasks."
    assert json.loads((tmp_path / "swarm.json").read_text())["verdict"] == report["verdict"]
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "http" not in page


def test_what_two_systems_ask_alike_is_answered_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    generate = Decoder.generate

    def counted(self: Decoder, requests: Any, *rest: Any) -> list[Completion]:
        made.append(len(requests))
        return generate(self, requests, *rest)

    monkeypatch.setattr(Decoder, "generate", counted)
    report = swarm.swarm_test(_plan(base, tmp_path, seeds=[1, 2]), Reporter())
    assert sum(made) == 2 * 4  # the swarm without champions is the base
    assert report["comparison"]["value"] == 0


def test_with_examples_the_base_is_asked_another_question(base: Path, tmp_path: Path) -> None:
    shot = {"prompt": [{"role": "user", "content": "Task: x"}], "completion": [{"role": "assistant", "content": "[]"}]}
    (tmp_path / "examples.jsonl").write_text(json.dumps(shot) + "\n")
    examples = {"coordinator": str(tmp_path / "examples.jsonl")}
    report = swarm.swarm_test(_plan(base, tmp_path, few_shot=1, examples=examples), Reporter())
    assert list(report["systems"]) == ["base", "few_shot", "champions"]


def _expert(chat: ChatFormat, call: AgentCall) -> Completion:
    """What the scripted expert answers, in the tokens a model would have written."""
    text = chat.render_completion(call.messages, expert_answer([call]), call.tools)
    return Completion(chat.encode(text.removesuffix(chat.stop_token)), "stop", 0.1)


@pytest.fixture
def experts(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A plan in which every role has a champion, and those champions are the experts."""
    chat = ChatFormat.load(base)
    pending: dict[str, AgentCall] = {}
    asked: list[str | None] = []
    answer = PolicyResponder.__call__

    def remember(self: PolicyResponder, calls: Any) -> list[Any]:
        for call in calls:
            prompt = self.policies[call.task].prompts.get(call.agent)
            pending[json.dumps(encode_behind(prompt, call.messages, call.tools, chat))] = call
        return answer(self, calls)

    def answers(self: Systems, adapter: str | None, prompts: Any, decoding: Any, **more: Any) -> Any:
        asked.append(adapter)
        if adapter is None:
            return [(Completion(chat.encode("I cannot do that."), "stop", 0.1), False) for _ in prompts]
        return [(_expert(chat, pending[json.dumps(list(prompt))]), False) for prompt in prompts]

    monkeypatch.setattr(PolicyResponder, "__call__", remember)
    monkeypatch.setattr(Systems, "answers", answers)
    monkeypatch.setattr(Systems, "__init__", lambda self, *args, **kwargs: None)
    adapters = {role: str(tmp_path / role) for role in ROLES}
    return _plan(base, tmp_path / "out", adapters=adapters, tasks=12, ablation=True) | {"asked": asked}


def test_champions_that_know_their_work_solve_the_tasks_and_no_single_one_does(experts: dict[str, Any]) -> None:
    asked = experts.pop("asked")
    report = swarm.swarm_test(experts, Reporter())
    assert report["systems"]["champions"]["success_rate"] == 1
    assert report["systems"]["base"]["success_rate"] == 0
    assert {name: run["success_rate"] for name, run in report["systems"].items() if name.startswith("only_")} == {
        f"only_{role}": 0 for role in ROLES
    }
    assert 0.5 < report["comparison"]["low"] < report["comparison"]["high"] == 1  # twelve tasks do not prove "always"
    assert report["comparison"]["p_value"] < 0.001
    assert set(asked) == {None, *ROLES}


def test_a_round_is_one_batch_for_each_role_over_all_systems_and_trials(experts: dict[str, Any]) -> None:
    asked = experts.pop("asked")
    report = swarm.swarm_test({**experts, "seeds": [1, 2, 3]}, Reporter())
    assert asked.count("coordinator") == 1
    assert report["systems"]["champions"]["pass^3"] == 1
    assert set(report["comparisons"]) == {"champions_vs_base", *(f"only_{role}_vs_base" for role in ROLES)}
