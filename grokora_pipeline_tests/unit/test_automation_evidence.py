"""What speaks for a training is read from what the ingest wrote, and judged by the policy of agents.yaml."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.agents import AgentSpec, RetrainPolicy, load_agents
from grokora_pipeline.assets.common import Project
from grokora_pipeline.automation.evidence import Evidence, gather, reason_to_train
from grokora_pipeline.automation.schedules import schedules
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.settings import Settings
from grokora_pipeline.store import Store
from grokora_pipeline_tests.unit.session_logs import call, run, write_lines

NOTHING = Evidence(
    split="s2",
    trained_on="s1",
    adapter="a1",
    trained_at=None,
    base_changed=False,
    evaluated=True,
    report_current=False,
    known=100,
    new=0,
    new_held_out=0,
    ratings=(),
    drift=None,
)


def but(**changes: Any) -> Evidence:
    return replace(NOTHING, **changes)


@pytest.mark.parametrize(
    ("evidence", "due"),
    [
        (but(), False),
        (but(new=19), False),
        (but(new=20), True),  # 20 % of 100
        (but(known=1000, new=49), False),
        (but(known=1000, new=50), True),
        (but(ratings=(3,) * 9), False),
        (but(ratings=(3,) * 10), True),
        (but(ratings=(4, 3, 4, 4, 4, 4, 4, 4, 4, 4)), False),
        (but(drift=1.29), False),
        (but(drift=1.31), True),
        (but(base_changed=True), True),
        (but(adapter=None), True),
        (but(trained_on="s2", new=500, ratings=(1,) * 50, drift=9.0), False),  # nothing in it that it did not learn
        (but(split=None, adapter=None), False),
    ],
)
def test_the_default_policy_is_the_documented_one(evidence: Evidence, due: bool) -> None:
    assert bool(reason_to_train(evidence, RetrainPolicy())) is due


def test_only_sessions_that_an_agent_took_part_in_speak_about_it(tmp_path: Path) -> None:
    for number, (agent, rating) in enumerate([("actor", 5), ("actor", 1), ("observer", 2), ("actor", None)]):
        lines = [call(f"s{number}", step, f"do {number} {step}", "done", agent) for step in (1, 2)]
        if rating:
            lines.append({"session_id": f"s{number}", "outcome": {"status": "success", "rating": rating}})
        write_lines(tmp_path / "logs" / f"s{number}.jsonl", lines)
    store = Store(str(tmp_path / "store"))
    run(tmp_path / "logs", tmp_path / "out")
    store.publish("session_logs", "v1", tmp_path / "out")
    found = {name: gather(store, AgentSpec(name=name, description=name)).ratings for name in ("actor", "observer")}
    assert {name: sorted(ratings) for name, ratings in found.items()} == {"actor": [1, 5], "observer": [2]}


@pytest.mark.parametrize(
    ("policy", "says"),
    [("{window: at night}", "no cron expression"), ("{new_examples: 0}", "retrain.new_examples"), ("{gap: 3}", "gap")],
)
def test_a_wrong_policy_is_one_sentence_that_names_the_field(tmp_path: Path, policy: str, says: str) -> None:
    path = tmp_path / "agents.yaml"
    path.write_text(f"agents: {{actor: {{description: Acts., retrain: {policy}}}}}")
    with pytest.raises(GrokoraError, match=says) as error:
        load_agents(path)
    assert "agent 'actor'" in str(error.value)


def test_a_window_that_never_comes_is_one_sentence() -> None:
    agent = AgentSpec(name="actor", description="Acts.", retrain=RetrainPolicy(window="0 99 * * *"))
    with pytest.raises(GrokoraError, match=r"'actor', key 'retrain\.window': '0 99"):
        schedules(Project(Settings(), (agent,)), [])
