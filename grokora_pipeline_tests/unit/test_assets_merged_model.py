"""`merged_model`: what answers differently is not published, and what was not compared has no verdict."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.merged_model import merged_model_asset
from grokora_pipeline.datasets.example import FILE
from grokora_pipeline.settings import Settings
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.gateway import add_adapter, make_store
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.workers import materialize

AGENT = AgentSpec(name="actor", description="acts")
RECORD = {"relative_rms_difference": 0.01, "agrees": True, "prompts": 1}


def merge(store: Store, record: dict[str, Any]) -> dg.ExecuteInProcessResult:
    """Make the asset by a worker whose merge has this result."""
    project = Project(Settings(store=store.url), (AGENT,))
    return materialize(project, [merged_model_asset(project, AGENT)], lambda module, plan, output: record)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = make_store(tmp_path)
    publish_files(store, "actor/task_dataset", "d1", {FILE: b""})
    return store


def promote(store: Store) -> None:
    add_adapter(store, "actor", "v1")
    Registry(store).promote("actor", "v1", "better", {})


def test_without_a_champion_there_is_no_model_and_no_verdict(store: Store, tmp_path: Path) -> None:
    result = merge(store, RECORD)
    assert result.success
    assert not result.get_asset_check_evaluations()
    assert store.current("actor/merged_model") is None


def test_a_merged_model_that_answers_differently_is_not_published(store: Store, tmp_path: Path) -> None:
    promote(store)
    result = merge(store, {**RECORD, "relative_rms_difference": 0.4, "agrees": False})
    assert not result.success
    assert [check.passed for check in result.get_asset_check_evaluations()] == [False]
    assert store.current("actor/merged_model") is None


def test_one_that_agrees_is_published_with_its_check(store: Store, tmp_path: Path) -> None:
    promote(store)
    result = merge(store, RECORD)
    assert result.success
    assert [check.passed for check in result.get_asset_check_evaluations()] == [True]
    assert store.current("actor/merged_model") is not None
