"""What the champion answers well becomes recordings: only what the verifier accepts, of training prompts alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.agents import AgentSpec, AnswerSpec, Improve
from grokora_pipeline.datasets.example import read_examples
from grokora_pipeline.datasets.examples import build_examples
from grokora_pipeline.datasets.selection import DatasetOptions
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation import improve
from grokora_pipeline.evaluation.systems import Systems
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.sandbox.experts import expert_answer
from grokora_pipeline.sandbox.swarm import run_swarm
from grokora_pipeline.sandbox.tasks import sample_tasks
from grokora_pipeline.serving.engine.request import Completion
from grokora_pipeline.training.tokenize import tokenize_split
from grokora_pipeline.workers.frame import Reporter
from grokora_pipeline_tests.tiny import tiny_base
from grokora_pipeline_tests.unit.session_logs import AGENTS, run

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "required": ["command"]}}}


def text(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def tool_call(name: str, arguments: str) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


def accepted(spec: Improve, answer: AnswerSpec, message: dict[str, Any]) -> bool:
    return improve.verifier(spec, answer)([{"role": "user", "content": "4"}], [TOOL], message)


@pytest.mark.parametrize(
    ("message", "good"),
    [
        (text('{"n": 1}'), True),
        (text('{"n": "1"}'), False),
        (text('{"n": 1, "more": NaN}'), False),
        (text("{"), False),
        (text(""), False),
        (text("[" * 5000), False),
        (text('{"n": 1, "deep": ' + "[" * 5000 + "]" * 5000 + "}"), False),
    ],
)
def test_a_json_answer_is_kept_if_its_schema_accepts_it(message: dict[str, Any], good: bool) -> None:
    answer = AnswerSpec.model_validate({"type": "json", "schema": SCHEMA})
    assert accepted(Improve(verify="schema"), answer, message) is good


@pytest.mark.parametrize(
    ("message", "good"),
    [
        (tool_call("bash", '{"command": "ls"}'), True),
        (tool_call("bash", "{}"), False),
        (tool_call("bash", "[oops"), False),
        (tool_call("sh", '{"command": "ls"}'), False),
        (text("ls"), False),
    ],
)
def test_a_tool_call_is_kept_if_the_tool_was_offered_and_its_arguments_fit(message: dict[str, Any], good: bool) -> None:
    assert accepted(Improve(verify="schema"), AnswerSpec(type="tool_call"), message) is good


@pytest.mark.parametrize(
    "parameters",
    [{"type": "nonsense"}, {"properties": 5}, 5, {"$ref": "#/none"}, {"properties": {"x": {"pattern": "("}}}],
)
def test_what_a_logs_tools_say_breaks_nothing_and_accepts_nothing(parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "bash", "parameters": parameters}}
    lists: list[list[Any]] = [[tool], [5, tool], [{"function": None}, tool]]
    for tools in lists:
        assert not improve.fits_schema(AnswerSpec(type="tool_call"), tools, tool_call("bash", '{"x": "1"}'))


def test_a_logs_schema_is_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_: pytest.fail("a schema was fetched"))
    tool = {"function": {"name": "bash", "parameters": {"$ref": "http://example.invalid/schema"}}}
    assert not improve.fits_schema(AnswerSpec(type="tool_call"), [tool], tool_call("bash", "{}"))


def test_a_command_reads_the_answer_and_its_exit_status_decides() -> None:
    spec = Improve(verify="command", command=("grep", "-q", "yes"))
    assert accepted(spec, AnswerSpec(), text("yes; rm -rf /"))
    assert not accepted(spec, AnswerSpec(), text("no"))
    assert not accepted(Improve(verify="command", command=("sleep", "9"), seconds=0.1), AnswerSpec(), text("x"))
    with pytest.raises(GrokoraError, match="no_such_program"):
        accepted(Improve(verify="command", command=("no_such_program",)), AnswerSpec(), text("x"))


def test_a_users_own_function_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_checks.py").write_text("def square(prompt, answer):\n    return answer['content'] == '16'\n")
    monkeypatch.chdir(tmp_path)
    spec = Improve(verify="function", function="my_checks:square")
    assert accepted(spec, AnswerSpec(), text("16"))
    assert not accepted(spec, AnswerSpec(), text("15"))
    with pytest.raises(GrokoraError, match="nothing_here"):
        accepted(Improve(verify="function", function="my_checks:nothing_here"), AnswerSpec(), text("x"))
    with pytest.raises(GrokoraError, match="schema"):
        accepted(Improve(verify="schema"), AnswerSpec(type="json"), text("x"))


ODD = """
def raises(prompt, answer):
    return answer["content"]["no such key"]
def leaves(prompt, answer):
    raise SystemExit(3)
def hangs(prompt, answer):
    try:
        while True: pass
    except Exception: return True
def forgets(prompt, answer):
    answer["content"] == "x"
def counts(prompt, answer):
    return 1
def numpys(prompt, answer):
    import numpy
    return numpy.bool_(answer.pop("content") == "x" and not prompt.clear())
nothing = 5
"""


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("raises", "raised TypeError at line 3"),
        ("leaves", "raised SystemExit at line 5"),
        ("hangs", "took too long"),
        ("forgets", "returned NoneType"),
        ("counts", "returned int"),
    ],
)
def test_a_users_function_that_fails_keeps_no_answer_and_says_how(
    name: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_checks.py").write_text(ODD)
    monkeypatch.chdir(tmp_path)
    judge = improve.UserFunction(Improve(verify="function", function=f"odd_checks:{name}", seconds=0.2))
    said = list[str]()
    assert not judge([{"role": "user", "content": "q"}], None, text("secret"))
    judge.report(2, said.append)
    assert how in said[0]
    assert "judged 1 of 2" in said[0]
    assert "secret" not in said[0]
    with pytest.raises(GrokoraError, match="judged 0 of 1"):
        judge.report(1, said.append)


def test_a_users_function_may_say_numpys_true_and_changes_nothing_that_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_checks.py").write_text(ODD)
    (tmp_path / "broken_checks.py").write_text("def square(:\n")
    monkeypatch.chdir(tmp_path)
    judge, prompt, answer = (
        improve.UserFunction(Improve(verify="function", function="odd_checks:numpys")),
        [text("q")],
        text("x"),
    )
    assert judge(prompt, None, answer)
    assert (prompt, answer) == ([text("q")], text("x"))
    for name, why in (("broken_checks:square", "SyntaxError"), ("odd_checks:nothing", "is no function")):
        with pytest.raises(GrokoraError, match=why):
            improve.UserFunction(Improve(verify="function", function=name))


def answers_of(monkeypatch: pytest.MonkeyPatch, chat: ChatFormat, texts: Any) -> tuple[list[int], list[str]]:
    """The model says what `texts` (place of the prompt -> text) says; returns the seeds and prompts that it gets."""
    seeds, asked = list[int](), list[str]()

    def made(self: Systems, adapter: Any, prompts: Any, *_: Any, **options: Any) -> list[tuple[Completion, bool]]:
        seeds.extend(options["seeds"])
        asked.extend(map(chat.decode, prompts))
        return [(Completion(chat.encode(texts(place)), "stop", 0.0), False) for place in range(len(prompts))]

    monkeypatch.setattr(Systems, "answers", made)
    return seeds, asked


def test_verified_answers_to_training_prompts_are_recordings_that_are_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(tmp_path / "base")
    chat = ChatFormat.load(base)
    rows = [
        {"prompt": [{"role": "user", "content": f"question {n}"}], "completion": [text("{}")],
         "meta": {"turn_id": f"turn{n}", "example_id": f"id{n}", "session_id": f"s{n}"}}
        for n in range(4)
    ]  # fmt: skip
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sides = ["train", "train", "validation", "train"]
    tokenize_split(rows, sides, chat, tmp_path / "split", max_length=256, seed=7)
    seeds, asked = answers_of(monkeypatch, chat, lambda place: f'{{"n": {place}}}' if place % 3 else "nonsense")
    plan = {
        **{"agent": "actor", "version": "v1", "base": str(base), "adapters": {"actor": None}},
        "prompts": {"actor": {"instruction": "Be brief."}},  # a champion that is a prompt is asked with it
        **{"output": str(tmp_path / "logs"), "started_at": "2026-01-01T00:00:00Z"},
        **{"improve": {"verify": "schema", "samples": 2}, "answer": {"type": "json", "schema": SCHEMA}},
        **{"examples": str(tmp_path / "examples.jsonl"), "split": str(tmp_path / "split")},
    }
    assert improve.improve(plan, Reporter()) == {"asked": 6, "kept": 4, "lines": 4, "accepted_share": 4 / 6}
    assert len(set(seeds)) == 2
    assert all("Be brief." in prompt for prompt in asked)
    run(tmp_path / "logs", tmp_path / "turns")
    build_examples(tmp_path / "turns", AGENTS[2], tmp_path / "turns", DatasetOptions())
    learnt = list(read_examples(tmp_path / "turns"))
    assert {one.prompt[0]["content"] for one in learnt} <= {"question 0", "question 1", "question 3"}
    assert len(learnt) == 4
    assert "Be brief." not in str([one.prompt for one in learnt])  # the next adapter learns to do without
    assert {one.meta["model"] for one in learnt} == {"grokora-improve/actor/v1"}
    refusing = AgentSpec.model_validate(
        {"name": "actor", "description": "acts", "teachers": {"refuse": ["^grokora-improve"]}}
    )
    assert build_examples(tmp_path / "turns", refusing, tmp_path / "turns", DatasetOptions()).rows == 0


def test_sessions_that_reach_the_sandboxs_goal_are_recorded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(tmp_path / "base")
    wrong = {task.text for task in sample_tasks(5, 6)[::2]}

    plan = {
        **{"agent": "coordinator", "version": "v1", "base": str(base), "adapters": {}},
        **{"output": str(tmp_path / "logs"), "started_at": "2026-01-01T00:00:00Z"},
        **{"improve": {"verify": "sandbox", "samples": 2, "tasks": 6, "seed": 5}},
    }

    def swarm(tasks: Any, answer: Any) -> Any:
        """The expert answers instead of the model, but plans nothing for every other task."""

        def say(asked: Any) -> list[Any]:
            return [
                text("[]") if call.agent == "coordinator" and any(task in str(call.messages) for task in wrong)
                else expert_answer([call])[0]
                for call in asked
            ]  # fmt: skip

        return run_swarm(tasks, say)

    monkeypatch.setattr("grokora_pipeline.evaluation.improve.run_swarm", swarm)
    counts = improve.improve(plan, Reporter())
    assert counts["asked"] == 12
    assert 0 < counts["kept"] <= 6
    lines = [json.loads(line) for line in (tmp_path / "logs" / "recordings.jsonl").read_text().splitlines()]
    assert len({line["session_id"] for line in lines}) == counts["kept"]
    assert not any(task in str(line["request"]["messages"]) for line in lines for task in wrong)
    assert len({line["request"]["metadata"]["task_id"] for line in lines}) == counts["kept"] / 2
    assert sum("outcome" in line for line in lines) == counts["kept"]
