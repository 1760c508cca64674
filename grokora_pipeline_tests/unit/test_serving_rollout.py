"""Trials of new champions, in simulated time."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.gateway.champions import Champions
from grokora_pipeline.serving.gateway.rollout import Rollout, Rule
from grokora_pipeline.store.champions import BASE, Registry
from grokora_pipeline_tests.gateway import ScriptedEngine, add_adapter, make_store
from grokora_pipeline_tests.stores import publish_files


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def calls(rollout: Rollout, clock: Clock, healthy: Iterable[bool], every: float = 5.0, seconds: float = 1.0) -> None:
    for one in healthy:
        clock.now += every
        rollout.observe("s", rollout.version, one, seconds)


def test_a_share_of_the_sessions_goes_to_the_new_version_and_a_session_never_changes_sides() -> None:
    rollout = Rollout("v2", 0.15)
    taken = [rollout.takes(f"session-{number}") for number in range(4000)]
    assert 0.13 < sum(taken) / len(taken) < 0.17
    assert taken == [rollout.takes(f"session-{number}") for number in range(4000)]


def test_a_healthy_window_with_enough_calls_is_promoted_and_not_before() -> None:
    clock = Clock()
    rollout = Rollout("v2", 0.15, clock=clock)
    calls(rollout, clock, [True] * 119)
    assert rollout.decision() is None  # 595 of 600 seconds
    calls(rollout, clock, [False] + [True] * 5)
    assert rollout.decision() == "promote"
    assert "99" in rollout.evidence()


def test_time_alone_does_not_promote() -> None:
    clock = Clock()
    rollout = Rollout("v2", 0.15, clock=clock)
    calls(rollout, clock, [True] * 19)
    clock.now = 700.0
    assert rollout.decision() is None


def test_health_below_the_rule_at_the_end_of_the_window_is_rolled_back() -> None:
    clock = Clock()
    rollout = Rollout("v2", 0.15, clock=clock)
    calls(rollout, clock, ([True] * 19 + [False]) * 7)
    assert rollout.decision() == "rollback"


def test_plain_failure_is_rolled_back_at_once_but_two_misses_are_not_yet_plain() -> None:
    clock = Clock()
    rollout = Rollout("v2", 0.15, clock=clock)
    calls(rollout, clock, [True] * 18 + [False] * 2)
    assert rollout.decision() is None
    calls(rollout, clock, [False] * 2)
    assert rollout.decision() == "rollback"


def test_old_trouble_leaves_the_window() -> None:
    clock = Clock()
    rollout = Rollout("v2", 0.15, clock=clock)
    calls(rollout, clock, [False, False])
    calls(rollout, clock, [True] * 200)
    assert rollout.health() == 1.0
    assert rollout.decision() == "promote"


def test_much_slower_answers_than_before_count_as_unhealthy() -> None:
    clock = Clock()
    rollout = Rollout("v2", 0.15, clock=clock)
    for _ in range(30):
        rollout.observe("t", "v1", True, 1.0)
    calls(rollout, clock, [True] * 25, seconds=2.9)
    assert rollout.health() == 1.0
    calls(rollout, clock, [True] * 25, seconds=3.1)
    assert rollout.decision() == "rollback"


def test_bad_ratings_of_its_sessions_count_and_those_of_others_do_not() -> None:
    clock = Clock()
    rollout = Rollout("v2", 0.15, clock=clock)
    calls(rollout, clock, [True] * 20)
    for _ in range(9):
        rollout.rate("somebody else's", 1)
    assert rollout.health() == 1.0
    for number, rating in enumerate((1, 2, 3, 3, 5)):
        rollout.observe(f"session-{number}", "v2", True, 1.0)
        rollout.rate(f"session-{number}", rating)
    assert rollout.health() == pytest.approx(26 / 30)
    for _ in range(20):
        rollout.rate("session-0", 1)  # one rating a session, however often it is sent
    assert rollout.health() == pytest.approx(26 / 30)
    assert rollout.decision() == "rollback"


@pytest.fixture
def champions(tmp_path: Path) -> Champions:
    store = make_store(tmp_path)
    for version in ("v1", "v2"):
        add_adapter(store, "actor", version)
    agent = AgentSpec(name="actor", description="acts", rollout=0.15)
    rule = Rule(window_seconds=0.0, min_requests=1)  # decided by the very next call
    made = Champions(store, [agent], lambda folder: ScriptedEngine(folder, lambda ask: "fine"), rule)
    Registry(store).promote("actor", "v1", "better", {})
    store.point("actor/champion", "canary", "v1")  # it has proved itself
    Registry(store).promote("actor", "v2", "better still", {})
    made.refresh()
    return made


def decide(champions: Champions, *, healthy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    service = champions.table["actor"]
    assert service.rollout
    monkeypatch.setattr(service.rollout, "decision", lambda: "promote" if healthy else "rollback")
    asyncio.run(champions.decide())
    champions.refresh()


def test_a_new_champion_is_rolling_out_against_the_one_before(champions: Champions) -> None:
    service = champions.table["actor"]
    assert (service.version, service.before) == ("v2", "v1")
    picked = [service.pick(f"session-{number}") for number in range(1000)]
    assert 100 < picked.count("v2") < 200
    assert picked.count("v1") == 1000 - picked.count("v2")


def test_a_promoted_trial_takes_all_sessions_and_stays_promoted_after_a_restart(
    champions: Champions, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(champions, healthy=True, monkeypatch=monkeypatch)
    again = Champions(champions.store, champions.agents, lambda folder: ScriptedEngine(folder, lambda ask: ""))
    again.refresh()
    for one in (champions, again):
        assert (one.table["actor"].version, one.table["actor"].rollout) == ("v2", None)


def test_a_failed_trial_is_rolled_back_in_the_registry_with_an_alert(
    champions: Champions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decide(champions, healthy=False, monkeypatch=monkeypatch)
    assert "ALERT actor@v2 is rolled back to v1: health" in caplog.text
    assert champions.counts["rollout_rollbacks"] == 1
    record = champions.registry.record("actor")
    assert record
    assert (record["version"], record["action"], record["replaced"]) == ("v1", "rollback", "v2")
    assert "health" in record["reason"]
    assert "was rolled back before" in champions.registry.refusal("actor", "v2")
    assert (champions.table["actor"].version, champions.table["actor"].rollout) == ("v1", None)


@pytest.mark.parametrize(("healthy", "winner"), [(True, "v2"), (False, "v1")])
def test_a_decision_holds_although_the_store_cannot_be_written(
    champions: Champions,
    healthy: bool,
    winner: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def read_only(*args: object, **facts: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(champions.store, "point", read_only)
    decide(champions, healthy=healthy, monkeypatch=monkeypatch)
    service = champions.table["actor"]
    assert (service.version, service.rollout) == (winner, None)
    assert {service.pick(f"session-{number}") for number in range(100)} == {winner}
    assert "ALERT the store does not record how the rollout of actor@v2 ended: [Errno 30]" in caplog.text


def test_a_trial_that_somebody_else_ended_is_left_alone(champions: Champions, monkeypatch: pytest.MonkeyPatch) -> None:
    champions.registry.rollback("actor", to=BASE)
    decide(champions, healthy=False, monkeypatch=monkeypatch)
    assert champions.counts["rollout_rollbacks"] == 0
    assert champions.table["actor"].version == BASE


def test_without_a_canary_share_a_promotion_takes_effect_at_once(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    add_adapter(store, "actor", "v1")
    Registry(store).promote("actor", "v1", "better", {})
    agent = AgentSpec(name="actor", description="acts")
    champions = Champions(store, [agent], lambda folder: ScriptedEngine(folder, lambda ask: "fine"))
    champions.refresh()
    assert (champions.table["actor"].version, champions.table["actor"].rollout) == ("v1", None)


def test_an_adapter_answers_only_on_the_base_model_that_it_was_trained_on(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    registry, agent = Registry(store), AgentSpec(name="actor", description="acts")
    tokenizer = store.require("base_model").read("tokenizer.json")

    def gateway() -> Champions:
        made = Champions(store, [agent], lambda folder: ScriptedEngine(folder, lambda ask: "fine"))
        made.refresh()
        return made

    def change_base(version: str, weights: str) -> None:
        facts = {"model_id": version, "path": ".", "content_hash": weights}
        files = {"base_model.json": facts, "config.json": {}, "tokenizer.json": tokenizer}
        publish_files(store, "base_model", version, files)

    def promote(version: str, base: str) -> None:
        facts = {"adapter_config.json": {"r": 12}, "training.json": {"versions": {"base_model": base}}}
        publish_files(store, "actor/lora_adapter", version, facts)
        registry.promote("actor", version, "better", {})

    promote("v1", "base1")
    running = gateway()
    change_base("base2", "other weights")
    running.refresh()
    assert (registry.version("actor"), registry.in_service("actor")) == (BASE, None)
    assert (running.table["actor"].version, running.refused) == ("v1", {})  # it runs on the base that it knows
    assert (registry.serves("actor", "v1"), registry.serves("actor", "v1", "base1")) == (False, True)
    later = gateway()
    assert (later.table["actor"].version, later.refused) == (BASE, {"actor": "v1"})
    promote("v2", "base2")
    running.refresh()
    later.refresh()
    assert (running.table["actor"].version, running.refused) == ("v1", {"actor": "v2"})
    assert (later.table["actor"].version, later.refused) == ("v2", {})
    change_base("base3", "other weights")  # the same ones, whose chat template is written otherwise
    assert gateway().table["actor"].version == registry.version("actor") == "v2"
    with pytest.raises(GrokoraError, match="actor has no adapter 'v1' of the present base model"):
        registry.rollback("actor", to="v1")
    assert registry.rollback("actor") == BASE
