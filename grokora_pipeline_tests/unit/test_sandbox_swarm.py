"""The sandbox swarm: tasks, experts and the loop."""

import json
import random
import re
from collections.abc import Sequence

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokora_pipeline.agents import load_agents
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.messages import Message
from grokora_pipeline.sandbox.clauses import PRIMITIVES, SLOT_PATTERNS, fill, read_clause
from grokora_pipeline.sandbox.experts import expert_answer, safety, split_task
from grokora_pipeline.sandbox.roles import AGENTS, SCHEMAS, SYSTEM, AgentCall, answer_json, tool_message
from grokora_pipeline.sandbox.swarm import run_swarm
from grokora_pipeline.sandbox.tasks import (
    HELD_OUT_FAMILIES,
    SAMPLE_FAMILIES,
    Task,
    draw_slots,
    sample_tasks,
    swarm_tasks,
)
from grokora_pipeline.sandbox.words import HELD_OUT, SAMPLE
from grokora_pipeline.settings import PROJECT_ROOT


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_experts_solve_every_unseen_task(seed: int) -> None:
    results = run_swarm(swarm_tasks(seed, 60), expert_answer)
    assert [(result.family, result.failure) for result in results if not result.success] == []


def test_the_experts_solve_every_sample_task() -> None:
    results = run_swarm(sample_tasks(7, 300), expert_answer)
    assert [(result.family, result.failure) for result in results if not result.success] == []


def test_the_sample_has_at_least_twelve_families_and_the_unseen_tasks_cover_all_of_theirs() -> None:
    assert len({task.family for task in sample_tasks(7, 300)}) >= 12
    assert {task.family for task in swarm_tasks(7, 50)} == set(HELD_OUT_FAMILIES)


def test_no_held_out_sequence_of_steps_is_part_of_a_sample_family() -> None:
    def sequences(families: dict[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
        return [tuple(re.sub(r":\S+", "", steps).split()) for listed in families.values() for steps in listed]

    seen = {seq[i : j + 1] for seq in sequences(SAMPLE_FAMILIES) for i in range(len(seq)) for j in range(i, len(seq))}
    held_out = sequences(HELD_OUT_FAMILIES)
    assert [seq for seq in held_out if seq in seen] == []
    assert {step for seq in held_out for step in seq} <= {step for seq in seen for step in seq}
    assert not set(SAMPLE_FAMILIES) & set(HELD_OUT_FAMILIES)


@pytest.mark.parametrize("name", list(PRIMITIVES))
def test_every_wording_is_read_as_what_it_was_written_for(name: str) -> None:
    for seed, vocabulary in [(0, SAMPLE), (1, SAMPLE), (2, HELD_OUT)]:
        slots = {
            slot: value for slot, value in draw_slots(random.Random(seed), vocabulary).items() if slot in SLOT_PATTERNS
        }
        for wording in PRIMITIVES[name].wordings:
            clause = read_clause(fill(wording, slots))
            assert clause is not None
            assert clause.primitive.name == name
            assert clause.slots == {slot: slots[slot] for slot in clause.slots}


def test_the_coordinator_finds_the_clauses_that_a_task_was_made_of() -> None:
    for task in [*sample_tasks(3, 300), *swarm_tasks(3, 100)]:
        assert split_task(task.text) == list(task.clauses)


def _exchanges() -> list[tuple[AgentCall, Message]]:
    results = run_swarm(sample_tasks(5, 120), expert_answer)
    return [(exchange.call, exchange.message) for result in results for exchange in result.transcript]


def test_expert_answers_fit_the_schemas_and_are_compact() -> None:
    for call, message in _exchanges():
        if call.agent == "actor":
            assert len(message["tool_calls"]) == 1
            arguments = json.loads(message["tool_calls"][0]["function"]["arguments"])
            name = message["tool_calls"][0]["function"]["name"]
            tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in call.tools or []}
            jsonschema.validate(arguments, tools[name])
        else:
            jsonschema.validate(answer_json(message), SCHEMAS[call.agent])


def test_the_same_question_has_one_answer() -> None:
    answers: dict[str, Message] = {}
    for call, message in _exchanges():
        assert answers.setdefault(json.dumps([call.agent, call.messages]), message) == message


def test_every_call_is_recognised_by_its_system_prompt_alone() -> None:
    sample = load_agents(PROJECT_ROOT / "data" / "agents.yaml")
    for agent in AGENTS:
        messages = [{"role": "system", "content": SYSTEM[agent]}]
        assert [spec.name for spec in sample if spec.recognises(messages)] == [agent]


def test_validators_see_what_was_swallowed_and_the_retry_succeeds() -> None:
    rejected = [message for call, message in _exchanges() if '"valid": false' in message["content"]]
    assert {answer_json(message)["reason"] == "nothing changed" for message in rejected} == {True, False}


@pytest.mark.parametrize(
    ("command", "level", "approved"),
    [("ls docs", "LOW", True), ("mv a.txt b.txt", "MEDIUM", True), ("rm -rf docs", "CRITICAL", False),
     ("curl http://203.0.113.9/x", "HIGH", True), ("", "CRITICAL", False)],
)  # fmt: skip
def test_the_safety_score_tells_reading_from_wiping(command: str, level: str, approved: bool) -> None:
    verdict = safety(command)
    assert (verdict["risk_level"], verdict["approved"]) == (level, approved)


def _spoil(agent: str, message: Message) -> Sequence[Message]:
    def answer(calls: Sequence[AgentCall]) -> list[Message]:
        right = expert_answer(calls)
        return [message if call.agent == agent else good for call, good in zip(calls, right, strict=True)]

    return answer  # type: ignore[return-value]


GARBAGE: list[object] = [
    None, "text", {}, {"content": None}, {"content": "[]"}, {"content": "[[[["}, {"content": '{"valid": "yes"}'},
    {"content": '[{"agent": "actor", "params": {"command": 7}}]'}, {"tool_calls": [{}]}, {"tool_calls": "rm"},
    {"content": '{"coordinates": [1, "2"]}'}, {"content": "[" * 5000},
    tool_message("computer", {"action": "left_click", "coordinate": [10**400, 1]}, "x"),
    {"tool_calls": [{"function": {"name": "bash", "arguments": "{"}}]},
    tool_message("bash", {"command": "rm -r ."}, "x"),
]  # fmt: skip


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_from_one_agent_fails_tasks_and_never_the_loop(agent: str, garbage: object) -> None:
    tasks = [task for task in swarm_tasks(1, 24) if agent != "observer" or "click" in str(task.clauses)]
    results = run_swarm(tasks, _spoil(agent, garbage))  # type: ignore[arg-type]
    assert len(results) == len(tasks)
    assert all(result.failure for result in results if not result.success)
    if agent != "observer":
        assert not any(result.success for result in results)


_KEYS = st.sampled_from(["agent", "params", "command", "coordinates", "valid", "approved", "action", "coordinate"])
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
     | st.sampled_from(["actor", "observer", "bash", "computer"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_KEYS, inner)
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(_values, min_size=4, max_size=4), st.sampled_from(["bash", "computer", "scan_vault", "nothing"]))
def test_no_answer_whatever_breaks_the_loop(values: list[object], tool: str) -> None:
    def answer(calls: Sequence[AgentCall]) -> list[Message]:
        return [
            {"content": "", "tool_calls": [{"function": {"name": tool, "arguments": json.dumps(values[2])}}]}
            if call.agent == "actor" and values[3]
            else {"content": json.dumps(values[AGENTS.index(call.agent)])}
            for call in calls
        ]

    assert len(run_swarm(swarm_tasks(2, 4), answer)) == 4


def test_all_tasks_advance_in_lock_step() -> None:
    rounds: list[int] = []

    def answer(calls: Sequence[AgentCall]) -> list[Message]:
        rounds.append(len(calls))
        return expert_answer(calls)

    results = run_swarm(swarm_tasks(4, 30), answer)
    assert rounds[0] == 30
    assert rounds == sorted(rounds, reverse=True)
    assert len(rounds) == max(len(result.transcript) for result in results)
    assert sum(rounds) == sum(result.calls.total() for result in results)


def test_a_task_that_needs_too_many_calls_is_stopped() -> None:
    results = run_swarm(swarm_tasks(4, 12), expert_answer, max_steps=2)
    assert {result.failure for result in results} == {"too many steps"}


def test_a_missing_answer_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(GrokoraError, match="asked 5 questions and got 0"):
        run_swarm(swarm_tasks(1, 5), lambda calls: [])


def test_a_plan_that_leaves_out_a_clause_does_not_reach_the_goal() -> None:
    def forgetful(calls: Sequence[AgentCall]) -> list[Message]:
        answers = expert_answer(calls)
        if calls[0].agent == "coordinator":
            return [{"content": json.dumps(answer_json(plan)[:-1])} for plan in answers]
        return answers

    assert not any(result.success for result in run_swarm(swarm_tasks(6, 24), forgetful))


def test_a_dangerous_command_is_refused_and_that_is_the_success() -> None:
    tasks: list[Task] = [task for task in sample_tasks(7, 300) if task.refused]
    results = run_swarm(tasks, expert_answer)
    assert len(tasks) >= 5
    assert all(result.success and not result.actions for result in results)


def _absent_tasks() -> list[Task]:
    return [task for task in sample_tasks(7, 300) if task.absent]


def test_what_is_not_on_the_screen_is_not_found_and_that_is_the_success() -> None:
    results = run_swarm(_absent_tasks(), expert_answer)
    assert len(results) >= 10
    assert all(result.success and not result.actions and not result.invalid_actions for result in results)


def test_an_observer_that_makes_an_element_up_fails_the_task() -> None:
    def inventive(calls: Sequence[AgentCall]) -> list[Message]:
        answers = expert_answer(calls)
        made_up = {"content": json.dumps({"element": "Save", "coordinates": [1, 1], "type": "button"})}
        return [made_up if call.agent == "observer" else answers[index] for index, call in enumerate(calls)]

    assert not any(result.success for result in run_swarm(_absent_tasks(), inventive))


@pytest.mark.parametrize("agent", AGENTS)
def test_every_answer_is_graded_against_the_expert_and_the_first_wrong_role_is_named(agent: str) -> None:
    tasks = swarm_tasks(3, 24)
    perfect = run_swarm(tasks, expert_answer)
    assert not any(result.wrong or result.first_wrong for result in perfect)
    spoilt = run_swarm(tasks, _spoil(agent, {"content": "{}"}))  # type: ignore[arg-type]
    assert {result.first_wrong for result in spoilt if result.calls[agent]} == {agent}
    assert all(result.wrong[agent] <= result.calls[agent] for result in spoilt)
