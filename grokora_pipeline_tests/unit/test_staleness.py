"""What is out of date is decided by what an asset was last made from, not by events."""

import dagster as dg
import pytest

from grokora_pipeline.automation.staleness import NOT_STORED, AssetStaleness, observation

LOGS, DATASET, ADAPTER = dg.AssetKey("logs"), dg.AssetKey(["actor", "dataset"]), dg.AssetKey(["actor", "adapter"])


def chain(dataset_version: str = "d1", code: str = "1") -> list[dg.AssetsDefinition]:
    @dg.asset(key=DATASET, deps=[LOGS], code_version=code)
    def dataset() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(data_version=dg.DataVersion(dataset_version))

    @dg.asset(key=ADAPTER, deps=[DATASET], code_version="1")
    def adapter() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(data_version=dg.DataVersion("a1"))

    return [dataset, adapter]


def stale(instance: dg.DagsterInstance, assets: list[dg.AssetsDefinition]) -> set[dg.AssetKey]:
    return set(AssetStaleness(instance, [spec for asset in assets for spec in asset.specs]).stale)


@pytest.fixture
def instance() -> dg.DagsterInstance:
    instance = dg.DagsterInstance.ephemeral()
    instance.report_runless_asset_event(observation(LOGS, "l1"))
    assert dg.materialize(chain(), instance=instance).success
    return instance


def test_everything_is_stale_before_the_first_run() -> None:
    assert stale(dg.DagsterInstance.ephemeral(), chain()) == {DATASET, ADAPTER}


def test_nothing_is_stale_after_a_run(instance: dg.DagsterInstance) -> None:
    assert stale(instance, chain()) == set()


def test_new_logs_make_everything_downstream_stale(instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(observation(LOGS, "l2"))
    assert stale(instance, chain()) == {DATASET, ADAPTER}


def test_a_rerun_with_the_same_content_makes_nothing_stale(instance: dg.DagsterInstance) -> None:
    assert dg.materialize(chain()[:1], instance=instance).success
    assert stale(instance, chain()) == set()


def test_new_content_upstream_makes_the_adapter_stale(instance: dg.DagsterInstance) -> None:
    assert dg.materialize(chain(dataset_version="d2")[:1], instance=instance).success
    assert stale(instance, chain(dataset_version="d2")) == {ADAPTER}


def test_a_changed_setting_makes_its_asset_stale(instance: dg.DagsterInstance) -> None:
    assert stale(instance, chain(code="2")) == {DATASET, ADAPTER}


def test_what_is_not_in_the_store_is_out_of_date_though_history_says_made(instance: dg.DagsterInstance) -> None:
    specs = [spec for asset in chain() for spec in asset.specs]
    stored = {DATASET: "d1", ADAPTER: "a1"}
    assert AssetStaleness(instance, specs, stored=stored.get).stale == {}
    assert set(AssetStaleness(instance, specs, stored={DATASET: "d1", ADAPTER: "other"}.get).stale) == {ADAPTER}
    assert AssetStaleness(instance, specs, stored={ADAPTER: "a1"}.get).stale[DATASET] == NOT_STORED
