"""Promotion, rollback and pin: what moves the champion, and what may not."""

import threading
from pathlib import Path

import pytest

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import BASE, Registry
from grokora_pipeline_tests.stores import publish_files


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    store = Store(str(tmp_path))
    for version in ("v1", "v2"):
        publish_files(store, "actor/lora_adapter", version, {"adapter_model.safetensors": version.encode()})
    return Registry(store)


def in_service(registry: Registry) -> str | None:
    found = registry.in_service("actor")
    return found.version if found else None


def test_the_base_model_answers_until_an_adapter_is_promoted(registry: Registry) -> None:
    assert in_service(registry) is None
    registry.promote("actor", "v1", "better", {})
    assert in_service(registry) == "v1"


def test_a_rollback_goes_to_the_champion_before_and_then_to_the_base(registry: Registry) -> None:
    registry.promote("actor", "v1", "better", {})
    registry.promote("actor", "v2", "better still", {})
    assert registry.rollback("actor") == "v1"
    assert in_service(registry) == "v1"
    assert registry.rollback("actor", to=BASE) == BASE
    assert in_service(registry) is None


def test_a_rolled_back_adapter_is_not_promoted_again(registry: Registry) -> None:
    registry.promote("actor", "v1", "better", {})
    registry.rollback("actor")
    assert "rolled back" in registry.refusal("actor", "v1")
    assert registry.refusal("actor", "v2") == ""


def test_a_pinned_champion_stays_until_it_is_unpinned(registry: Registry) -> None:
    registry.promote("actor", "v1", "better", {})
    registry.pin("actor")
    assert "pinned" in registry.refusal("actor", "v2")
    assert in_service(registry) == "v1"
    registry.pin("actor", pinned=False)
    assert registry.refusal("actor", "v2") == ""


def test_every_move_is_in_the_history(registry: Registry) -> None:
    registry.promote("actor", "v1", "better", {})
    registry.promote("actor", "v1", "better again", {})
    registry.rollback("actor")
    assert [record["action"] for record in registry.history("actor")] == ["promote", "rollback"]


def test_a_challenger_that_was_not_promoted_is_in_the_history_with_its_evidence(registry: Registry) -> None:
    registry.promote("actor", "v1", "better", {})
    for _ in range(2):
        registry.keep("actor", "v2", "Not promoted: no better.", {"promote": False})
    registry.keep("actor", "v1", "Not promoted: this adapter is the champion already.", {})
    assert in_service(registry) == "v1"
    told = [(event["action"], event["version"], event["reason"]) for event in registry.events("actor")]
    assert told == [("promote", "v1", "better"), ("keep", "v2", "Not promoted: no better.")]
    assert registry.refusal("actor", "v2") == ""


def test_two_gateways_that_refuse_one_champion_roll_it_back_once(registry: Registry) -> None:
    for version in ("v1", "v2"):
        registry.promote("actor", version, "better", {})
    assert [Registry(Store(registry.store.url)).rollback("actor", of="v2") for _ in range(2)] == ["v1", "v1"]
    assert in_service(registry) == "v1"
    assert registry.refusal("actor", "v1") == ""


def test_who_pins_while_the_gate_decides_waits_for_it_and_is_not_undone(registry: Registry) -> None:
    registry.promote("actor", "v1", "better", {})
    with registry.store.lock:
        pinning = threading.Thread(target=Registry(Store(registry.store.url)).pin, args=("actor",))
        pinning.start()
        assert registry.refusal("actor", "v2") == ""
        registry.promote("actor", "v2", "better still", {})
    pinning.join()
    assert [record["action"] for record in registry.history("actor")] == ["promote", "promote", "pin"]
    assert (in_service(registry), "pinned" in registry.refusal("actor", "v3")) == ("v2", True)


def test_another_adapter_or_other_rows_are_another_look_and_the_same_again_is_none(registry: Registry) -> None:
    for adapter, rows in (("v1", "s1/30"), ("v1", "s1/30"), ("v2", "s1/30"), ("v1", "s2/30")):
        decision = {"promote": False, "versions": {"adapter": adapter, "rows": rows}}
        registry.keep("actor", adapter, "Not promoted: no better.", decision)
    looks = [registry.look("actor", *one) for one in (("v1", "s1/30"), ("v2", "s1/30"), ("v1", "s2/30"))]
    assert looks == [1, 2, 3]
    assert [registry.look("actor", *one) for one in (("v1", "s1/60"), ("v3", "s1/30"))] == [4, 4]


def test_a_decision_that_names_no_rows_is_of_any(registry: Registry) -> None:
    registry.keep("actor", "v1", "Not promoted: no better.", {"versions": {"adapter": "v1"}})
    assert (registry.look("actor", "v1", "s1/30"), registry.look("actor", "v2", "s1/30")) == (1, 2)


def test_rolling_back_to_what_is_not_there_is_one_sentence(registry: Registry) -> None:
    with pytest.raises(GrokoraError, match="never had a champion"):
        registry.rollback("actor")
    registry.promote("actor", "v1", "better", {})
    with pytest.raises(GrokoraError, match="no adapter 'v9'"):
        registry.rollback("actor", to="v9")
