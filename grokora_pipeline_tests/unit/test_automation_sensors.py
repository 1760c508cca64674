"""The automation decides by level: what is there against what things were made from, and says why it does nothing."""

import os
import shutil
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import dagster as dg
import pytest

from grokora_pipeline.agents import load_agents
from grokora_pipeline.assets.common import Project
from grokora_pipeline.automation import history, sensors
from grokora_pipeline.automation.history import AGENT_TAG, gpu_hours
from grokora_pipeline.automation.schedules import schedules
from grokora_pipeline.factory import build_defs
from grokora_pipeline.settings import Settings
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.unit.automation_world import CHAIN, GpuStandIn, World

AGENTS = """
agents:
  actor:
    {description: Acts., answer: tool_call, min_examples: 2, retrain: {new_examples: 3, new_share: 0.5, drift_rows: 2}}
  observer:
    {description: Looks., answer: json, min_examples: 2, retrain: {new_examples: 3, window: "* * * * *", gpu_hours: 1}}
"""
NIGHT = datetime.fromisoformat("2026-03-03T02:30:00+00:00")


@pytest.fixture
def world(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "agents.yaml").write_text(AGENTS)
    places = Settings(home=tmp_path, logs=tmp_path / "logs", store=str(tmp_path / "store"))
    settings = places.model_copy(update={"base_model": str(base), "settle_seconds": 0})
    world = World(Project(settings, load_agents(settings.agents)), NIGHT, GpuStandIn(base))
    monkeypatch.setattr(history, "clock", lambda: world.now)
    return world


def asked(result: Any) -> list[set[str]]:
    return [{key.to_user_string() for key in request.asset_selection} for request in result.run_requests or []]


def chain(agent: str, *links: str) -> set[str]:
    return {f"{agent}/{link}" for link in links or CHAIN}


def trained(world: World, agent: str = "actor") -> World:
    """A world in which an agent was trained on six examples, long ago."""
    world.drop(agent, *(f"a{n}" for n in range(6)), "held0", "held1")
    world.settle()
    (request,) = world.tick(agent).run_requests
    world.run(request)
    world.later(days=365)
    return world


def fail_until_silent(world: World, sensor: str, *, ticks: int, minutes: float) -> tuple[list[int], list[str]]:
    """At which ticks a sensor requested a run, when every run fails; and what it said at the others."""
    world.now = datetime.now().astimezone() + timedelta(seconds=30)  # a run's end has the time of this machine
    tries, skips = [], []
    for tick in range(ticks):
        result = world.tick(sensor)
        for request in result.run_requests or []:
            world.fail(request)
            tries.append(tick)
        skips += [result.skip_message] if result.skip_message else []
        world.later(minutes=minutes)
    return tries, skips


def test_logs_become_turns_then_datasets_then_splits_each_once_its_inputs_are_made(world: World) -> None:
    world.drop("actor", "one", "two")
    assert asked(world.tick("new_logs")) == [{"base_model"}]
    waves = []
    for _ in range(6):
        result = world.tick("new_logs")
        waves += asked(result)
        for request in result.run_requests or []:
            world.run(request)
    assert waves == [
        {"session_logs", "base_model"},
        {"actor/task_dataset", "observer/task_dataset"},
        {"actor/tokenized_split"},
    ]


def test_a_file_that_is_still_being_written_is_waited_for(world: World) -> None:
    world.settle()
    for n in range(3):
        world.drop("actor" + " " * n, "one")
        assert "are changing" in world.tick("new_logs").skip_message
    assert asked(world.tick("new_logs")) == [{"session_logs"}]


def test_a_file_that_never_rests_holds_the_others_up_for_a_while_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "MAX_UNSETTLED_TICKS", 4)
    world.settle()
    result = []
    for n in range(5):
        world.drop("actor" + " " * n, "one")
        result += asked(world.tick("new_logs"))
    assert result == [{"session_logs"}, {"session_logs"}]


def test_the_same_logs_again_add_nothing_and_say_so(world: World) -> None:
    world.drop("actor", "one", "two")
    world.settle()
    result = world.tick("new_logs")
    assert asked(result) == []
    assert "Nothing new" in result.skip_message


def test_only_the_agent_whose_examples_changed_gets_a_new_split(world: World) -> None:
    world.drop("actor", "one", "two")
    world.drop("observer", "three", "four")
    world.settle()
    world.drop("observer", "five")
    requested = set[str]()
    for _ in range(8):
        result = world.tick("new_logs")
        requested |= set().union(*asked(result))
        for request in result.run_requests or []:
            world.run(request)
    assert requested == {"session_logs", "actor/task_dataset", "observer/task_dataset", "observer/tokenized_split"}


def test_nothing_is_requested_while_a_run_of_it_is_under_way(world: World) -> None:
    world.drop("actor", "one", "two")
    world.tick("new_logs")
    run = world.start(world.tick("new_logs").run_requests[0])
    result = world.tick("new_logs")
    assert asked(result) == []
    assert f"run {run.run_id[:8]} of ingest is started" in result.skip_message


def test_a_lost_cursor_costs_a_tick_and_adds_nothing(world: World) -> None:
    world.drop("actor", "one", "two")
    world.settle()
    world.cursor = None
    assert [asked(world.tick("new_logs")) for _ in range(3)] == [[], [], []]


def test_clocks_set_back_and_files_from_the_future_change_nothing(world: World) -> None:
    world.drop("actor", "one", "two")
    os.utime(world.logs / "one.jsonl", (4e9, 4e9))
    world.settle()
    world.later(days=-400)
    os.utime(world.logs / "two.jsonl", (1e6, 1e6))
    world.tick("new_logs")
    assert asked(world.tick("new_logs")) == [{"session_logs"}]


def test_a_missing_log_folder_is_one_sentence(world: World) -> None:
    world.logs.rmdir()
    assert "point GROKORA_LOGS" in world.tick("new_logs").skip_message


def test_a_failed_ingest_is_tried_again_later_and_not_for_ever(world: World) -> None:
    world.drop("actor", "one", "two")
    world.tick("new_logs")
    tries, skips = fail_until_silent(world, "new_logs", ticks=12, minutes=1)
    assert tries == [0, 1, 2, 4, 8]  # each wait is twice the one before
    assert "the next is in" in skips[0]
    assert "it failed 5 times" in skips[-1]
    world.drop("actor", "three")
    world.tick("new_logs")
    assert asked(world.tick("new_logs")) == [{"session_logs", "base_model"}]


def test_an_agent_is_trained_when_it_has_enough_to_learn_and_the_other_says_what_it_lacks(world: World) -> None:
    world.drop("actor", *(f"a{n}" for n in range(6)))
    world.drop("observer", "o1")
    world.settle()
    (request,) = world.tick("actor").run_requests
    assert {key.to_user_string() for key in request.asset_selection} == chain("actor")
    world.run(request)
    said = [world.tick(name).skip_message for name in ("actor", "observer")]
    assert said == ["actor: up to date.", "observer: too few examples for a split."]


def test_new_examples_must_be_distinct_and_learnable(world: World) -> None:
    trained(world)
    world.drop("actor", "new1", "new2", "a1~2", "a2~2", "held9")
    world.settle()
    result = world.tick("actor")
    assert asked(result) == []
    assert (
        "actor: 2 of 3 new examples; mean rating none (0 sessions); perplexity drift not measured"
        in result.skip_message
    )
    world.drop("actor", "new3")
    world.settle()
    assert asked(world.tick("actor")) == [chain("actor")]


def test_logs_that_land_during_a_training_are_learnt_next(world: World) -> None:
    trained(world)
    world.drop("actor", "b1", "b2", "b3")
    world.settle()
    run = world.start(world.tick("actor").run_requests[0])
    world.make(run, "lora_adapter")  # it has read its split, and goes on
    world.drop("actor", "c1", "c2", "c3", "c4", "c5")
    world.settle()
    assert f"run {run.run_id[:8]} of retrain_actor is started" in world.tick("actor").skip_message
    world.make(run, *CHAIN[1:])
    world.finish(run)
    world.later(hours=24)
    (request,) = world.tick("actor").run_requests
    assert request.tags["grokora/why"] == "5 new examples beside the 9 it learnt"
    world.run(request)
    assert "actor: up to date" in world.tick("actor").skip_message


def test_bad_ratings_are_a_reason_where_there_is_something_new(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from grokora_pipeline.automation import evidence

    trained(world)
    ratings = [("2026", rating) for rating in [5] * 40 + [3] * 50]
    monkeypatch.setattr(evidence, "_ratings", lambda logs: {"actor": ratings})
    assert "actor: up to date" in world.tick("actor").skip_message
    world.drop("actor", "new1")
    world.settle()
    result = world.tick("actor")
    assert result.run_requests[0].tags["grokora/why"] == "mean rating 3.00 of the last 50 rated sessions"
    monkeypatch.setattr(evidence, "_ratings", lambda logs: {"actor": ratings[-9:]})
    assert "mean rating 3.00 (9 sessions)" in world.tick("actor").skip_message


def test_drift_is_measured_on_new_held_out_rows_and_is_a_reason(world: World) -> None:
    trained(world)
    world.drop("actor", "held7", "held8")
    world.settle()
    (request,) = world.tick("actor").run_requests
    assert {key.to_user_string() for key in request.asset_selection} == chain("actor", *CHAIN[1:])
    world.gpu.perplexity = 2.0
    world.run(request)
    world.later(hours=24)
    result = world.tick("actor")
    assert result.run_requests[0].tags["grokora/why"] == "perplexity on new logs is 2.72 times the old"
    assert asked(result) == [chain("actor")]


def test_a_chain_that_broke_off_is_finished_without_training_again(world: World) -> None:
    world.drop("actor", *(f"a{n}" for n in range(6)))
    world.settle()
    run = world.start(world.tick("actor").run_requests[0])
    world.make(run, "lora_adapter")
    world.instance.report_run_failed(run)
    assert asked(world.tick("actor")) == [chain("actor", *CHAIN[1:])]


def test_the_swarm_is_judged_when_a_champion_changed_and_none_is_being_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = dg.AssetKey(["actor", "champion"])
    swarm = dg.AssetSpec("swarm_report", deps=[champion])
    (schedule,) = schedules(Project(Settings(store=world.store.url), ()), [swarm])

    def tick() -> Any:
        with patch.object(dg.ScheduleEvaluationContext, "instance", world.instance):
            return schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=world.now))

    assert tick().skip_message == "swarm: up to date."
    version = {"dagster/data_version": "one"}
    world.instance.report_runless_asset_event(dg.AssetMaterialization(champion, tags=version))
    assert asked(tick()) == [{"swarm_report"}]
    world.start(dg.RunRequest(job_name="retrain_actor", asset_selection=[champion]))
    assert "of retrain_actor is started" in tick().skip_message
    made = {"dagster/input_data_version/actor/champion": "one", "dagster/data_version": "two"}
    publish_files(world.store, "swarm_report", "two")
    world.instance.report_runless_asset_event(dg.AssetMaterialization("swarm_report", tags=made))
    assert tick().skip_message == "swarm: up to date."


def test_a_failing_training_is_tried_three_times_each_later_than_before(world: World) -> None:
    world.drop("observer", *(f"a{n}" for n in range(6)))
    world.settle()
    tries, skips = fail_until_silent(world, "observer", ticks=8, minutes=10)
    assert tries == [0, 1, 2]
    assert "observer: it failed 3 times" in skips[-1]


def test_a_moment_that_was_missed_starts_nothing_outside_the_window(world: World) -> None:
    world.drop("actor", *(f"a{n}" for n in range(6)))
    world.settle()
    assert "2026-03-03 02:24 was missed" in world.tick("actor", at=world.now - timedelta(minutes=6)).skip_message
    assert asked(world.tick("actor")) == [chain("actor")]


def test_a_training_keeps_a_gap_to_the_one_before(world: World) -> None:
    trained(world, "observer")
    world.drop("observer", "b1", "b2", "b3")
    world.settle()
    world.now = datetime.now().astimezone() + timedelta(hours=5)
    assert "but it was trained 5.0 h ago; the gap is 12 h" in world.tick("observer").skip_message
    world.later(hours=8)
    assert asked(world.tick("observer")) == [chain("observer")]


def test_no_training_starts_when_the_gpu_hours_of_the_day_are_spent(world: World) -> None:
    world.gpu.seconds = 5400
    trained(world, "observer")
    world.drop("observer", "b1", "b2", "b3")
    world.settle()
    world.now = datetime.now().astimezone() + timedelta(hours=13)
    assert "but 1.50 of 1 GPU hours are spent in the last 24" in world.tick("observer").skip_message
    world.later(hours=12)
    assert asked(world.tick("observer")) == [chain("observer")]


def test_what_failed_trainings_cost_counts_too() -> None:
    @dg.asset(key=["actor", "lora_adapter"])
    def failing() -> None:
        raise dg.Failure("out of memory", metadata={"gpu_seconds": 7200.0})

    instance = dg.DagsterInstance.ephemeral()
    dg.materialize([failing], instance=instance, tags={AGENT_TAG: "actor"}, raise_on_error=False)
    assert gpu_hours(instance, "actor", [dg.AssetKey(["actor", "lora_adapter"])], datetime.now().astimezone()) == 2.0


@pytest.mark.parametrize(("setting", "status"), [("on", "RUNNING"), ("off", "STOPPED")])
def test_sensor_and_schedules_run_from_the_start_only_where_the_setting_says_so(
    world: World, setting: Literal["on", "off"], status: str
) -> None:
    settings = world.project.settings.model_copy(update={"automation": setting})
    made = build_defs(settings, world.project.agents)
    states = {one.name: one.default_status.value for one in [*(made.sensors or []), *(made.schedules or [])]}
    assert states == dict.fromkeys(["new_logs", "actor_when_due", "observer_when_due"], status)


def test_an_agent_may_be_trained_when_its_window_says_in_local_time(world: World) -> None:
    settings = world.project.settings.model_copy(update={"timezone": "Europe/Berlin"})
    made = schedules(Project(settings, world.project.agents), world.specs)
    windows = {one.name: one.cron_schedule for one in made}
    assert windows["actor_when_due"] == "*/10 2-5 * * *"
    assert windows["observer_when_due"] == "* * * * *"
    assert {one.execution_timezone for one in made} == {"Europe/Berlin"}


@pytest.mark.slow
def test_a_tick_lists_each_folder_once_and_opens_no_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.settle()
    for day in range(20):
        folder = world.logs / f"2026-{day:03}"
        folder.mkdir()
        for number in range(100):
            (folder / f"session_{number}.jsonl").touch()
    world.tick("new_logs")  # sees them; the next one finds that they grew no more
    listed, opened = Counter[str](), list[str]()
    scandir = os.scandir

    def listing(path: str = ".") -> object:
        listed[os.fspath(path)] += 1
        return scandir(path)

    def note(event: str, arguments: tuple[object, ...]) -> None:  # an audit hook stays for the life of the process
        if event == "open" and str(arguments[0]).startswith(str(world.logs)) and str(arguments[0]).endswith(".jsonl"):
            opened.append(str(arguments[0]))

    monkeypatch.setattr(os, "scandir", listing)
    sys.addaudithook(note)
    assert asked(world.tick("new_logs")) == [{"session_logs"}]
    folders = {path: count for path, count in listed.items() if path.startswith(str(world.logs / "2026-"))}
    assert len(folders) == 20
    assert set(folders.values()) == {1}
    assert opened == []


@pytest.mark.parametrize("cursor", ["{", "[]", '{"files": 1, "unsettled_ticks": "many"}', "null"])
def test_a_cursor_that_a_person_edited_starts_the_watch_anew(world: World, cursor: str) -> None:
    world.drop("actor", "a1")
    world.cursor = cursor
    world.tick("new_logs")
    assert asked(world.tick("new_logs")) == [{"session_logs", "base_model"}]


def test_a_store_that_was_deleted_is_filled_again(world: World) -> None:
    world.drop("actor", *(f"a{n}" for n in range(6)))
    world.settle()
    shutil.rmtree(world.store.root)
    assert asked(world.tick("new_logs")) == [{"session_logs", "base_model"}]
