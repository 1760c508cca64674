"""Who an agent is, and whose call a call is."""

from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import get_args

import pytest

from grokora_pipeline.agents import RESERVED, AgentSpec, MetricName, load_agents, recognise
from grokora_pipeline.assets.rank_trial import GROUP
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.metrics import METRICS

SYSTEM = [{"role": "system", "content": "You are Grokputer, the VRZIBRZI node"}, {"role": "user", "content": "hi"}]


def agents_file(folder: Path, text: str | bytes) -> Path:
    path = folder / "agents.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_name_and_a_description_are_enough(tmp_path: Path) -> None:
    (agent,) = load_agents(agents_file(tmp_path, "agents:\n  scout:\n    description: Looks ahead.\n"))
    assert (agent.metric, agent.min_examples, agent.answer.type) == ("rougeL", 40, "text")


def test_unknown_keys_are_training_knobs(tmp_path: Path) -> None:
    (agent,) = load_agents(agents_file(tmp_path, "agents:\n  a: {description: x, rank: 8, training: {epochs: 2}}\n"))
    assert agent.training == {"rank": 8, "epochs": 2}


# a value that stands for 2^25 others, a few bytes a doubling
BOMB = "".join(f"{one}: &{one} [*{last}, *{last}]\n" for last, one in pairwise(ascii_lowercase))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("agents: []", "needs a mapping"),
        ("agents: {a: {}}", "description"),
        ("agents: {'a/b': {description: x}}", "name"),
        ("agents: {session_logs: {description: x}}", "reserved"),
        ("agents: {a: {description: x, answer: poem}}", "answer"),
        ("agents: {a: {description: x, answer: {type: json, schema: {type: nonsense}}}}", "no JSON Schema"),
        ("agents: {a: {description: x, answer: {type: json, schema: {pattern: '('}}}}", "no JSON Schema"),
        ("agents: {a: {description: x, answer: {type: json, schema: {$ref: '#/$defs/no'}}}}", "nothing at '/.defs/no'"),
        ("agents: {a: {description: x, match: {user: ['(']}}}", "no regular expression"),
        ("agents: [", "not valid YAML"),
        ("agents: {all: {description: x}}", "reserved words all, auto"),
        ("agents: {rank_trials: {description: x}}", "rank_trials"),
        ("agents:\n  a:\n    description: x\n    main_metric: rougel", "yaml:4: agent 'a', key 'main_metric'.*rougeL"),
        ("agents:\n  a: {description: x}\n  b: {description: y}\n  a: {description: z}", "agent 'a' .*2 and 4"),
        ("agents:\n  a:\n    description: x\n    rank: 8\n    rank: 16\n", "agent 'a', key 'rank' .*lines 4 and 5"),
        ("agents: {a: {description: x, training: {epochs: 1, epochs: 2}}}", "agent 'a', key 'training.epochs'"),
        ("agents:\n  a: &own {description: x, answer: *own}", "an anchor holds itself"),
        ("agents:\n\ta: {description: x}", "not valid YAML.*line 2"),
        ("a: &a [x]\n" + BOMB + "agents: {a: {description: x, training: *z}}", "'training': .* valid mapping"),
        ("agents: {a: {description: 'fünf'}}".encode("latin-1"), "is not UTF-8"),
        (
            "agents: {a: {description: x, answer: {type: json, schema: {type: objekt}}}}",
            "'answer.schema': no JSON Schema",
        ),
        ("agents: {a: {description: x, retrain: {gap_hours: .inf}}}", "key 'retrain.gap_hours'"),
        ("agents: {a: {description: x, training: 3}}", "agent 'a', key 'training'"),
        ("agents: {a: {description: x}}\nagents: {b: {description: x}}", "key 'agents' .*twice"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_file(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    with pytest.raises(GrokoraError, match=complaint) as raised:
        load_agents(agents_file(tmp_path, text))
    assert "agents.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_recorded_name_decides_alone() -> None:
    single = AgentSpec.model_validate({"name": "single", "description": "x", "match": {"system": ["VRZIBRZI"]}})
    actor = AgentSpec(name="actor", description="x")
    assert recognise([single, actor], SYSTEM, "actor") == "actor"
    assert recognise([single, actor], SYSTEM, "nobody") is None


def test_without_a_name_the_first_matching_pattern_decides() -> None:
    user = AgentSpec.model_validate({"name": "greeter", "description": "x", "match": {"user": ["^HI$"]}})
    system = AgentSpec.model_validate({"name": "single", "description": "x", "match": {"system": ["vrzibrzi"]}})
    assert recognise([user, system], SYSTEM, None) == "greeter"
    assert recognise([system, user], SYSTEM, None) == "single"
    assert recognise([system], [{"role": "user", "content": [{"type": "text", "text": "x"}]}], None) is None


def test_every_metric_may_be_the_main_metric() -> None:
    assert set(get_args(MetricName)) == {"", *METRICS}


def test_the_names_of_groups_are_no_agents() -> None:
    assert {GROUP, "sources", "swarm"} <= RESERVED


def test_rollout_may_still_be_called_canary() -> None:
    fields = {"name": "actor", "description": "acts"}
    assert AgentSpec.model_validate({**fields, "canary": 0.15}).rollout == 0.15
    assert AgentSpec.model_validate({**fields, "rollout": 0.2}).rollout == 0.2


def test_tools_and_any_take_what_no_name_and_no_text_recognises() -> None:
    def agent(name: str, match: object) -> AgentSpec:
        return AgentSpec.model_validate({"name": name, "description": "x", "match": match})

    rest, lookup = agent("rest", "any"), agent("lookup", {"tools": ["get_order"]})
    child = agent("child", {"names": ["claude-code/*"]})
    agents, asked = [rest, lookup, child], [{"role": "user", "content": "hi"}]
    tools = [{"type": "function", "function": {"name": name}} for name in ("get_order", "other")]
    assert recognise(agents, asked, None, tools) == "lookup"
    assert recognise(agents, asked, None, tools[1:]) == "rest"
    assert recognise(agents, asked, "claude-code/Explore", tools) == "child"
    assert recognise(agents, asked, "nobody") == "rest"
    assert recognise([lookup, child], asked, "nobody", tools[1:]) is None
    assert recognise(agents, [], "nobody") is None  # a name alone is no call
