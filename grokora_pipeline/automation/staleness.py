"""What is out of date, by level: what an asset was last made from against what there is now.

Dagster writes into every materialization the data version of each input and the code version it was made with.
Comparing them with the present ones needs no events and loses none; the Dagster UI shows the same verdict.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from graphlib import TopologicalSorter

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.base_model import KEY as BASE_MODEL
from grokora_pipeline.assets.base_model import base_is_here
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.sources import FORGET_LIST, LOG_FILES, source_version
from grokora_pipeline.assets.tokenized_split import missing_examples
from grokora_pipeline.store import content_version

_DATA_VERSION = "dagster/data_version"
_INPUT_VERSION = "dagster/input_data_version/"
_CODE_VERSION = "dagster/code_version"
NEVER_MADE, NEW_CODE = "never made", "its code or settings changed"
NOT_STORED = "it was made in another store, or its files are gone"


def source_versions(project: Project) -> dict[dg.AssetKey, str]:
    """The present data version of each external asset: the log files and the forget list."""
    return {project.key(key): source_version(project, key) for key in (LOG_FILES, FORGET_LIST)}


def observation(key: dg.AssetKey, version: str) -> dg.AssetObservation:
    """The event that tells Dagster the present data version of an external asset."""
    return dg.AssetObservation(key, tags={_DATA_VERSION: version})


class AssetStaleness:
    """Snapshot of which assets are stale and why.

    `changed`: assets that are stale themselves, by reason; `stale`: those and everything downstream of them.
    `present` are data versions that are newer than what the instance knows; `stored` gives the version in the store.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        specs: Iterable[dg.AssetSpec],
        present: Mapping[dg.AssetKey, str] | None = None,
        stored: Callable[[dg.AssetKey], str | None] | None = None,
    ) -> None:
        self._instance = instance
        self.specs = {spec.key: spec for spec in specs}
        self._stored = stored
        known = present or {}
        # cached: it is asked for each dependency of each asset, and every answer is a query to the event log
        self.version = cache(lambda key: known.get(key) or data_version(instance, key))
        self.changed = {key: reason for key, spec in self.specs.items() if (reason := self._changed(spec))}
        self._parents = {
            key: {dep.asset_key for dep in spec.deps} & self.specs.keys() for key, spec in self.specs.items()
        }
        self.stale: dict[dg.AssetKey, str] = {}
        # parents come first, so the verdict on each of them is known
        for key in TopologicalSorter(self._parents).static_order():
            above = sorted(parent.to_user_string() for parent in self._parents[key] if parent in self.stale)
            if reason := self.changed.get(key) or (f"{above[0]} is out of date" if above else ""):
                self.stale[key] = reason

    def ready(self, keys: Iterable[dg.AssetKey]) -> dict[dg.AssetKey, str]:
        """Those of `keys` that are out of date themselves while everything they are made from is up to date."""
        return {
            key: self.changed[key]
            for key in keys
            if key in self.changed and not any(parent in self.stale for parent in self._parents[key])
        }

    def inputs_hash(self, keys: Iterable[dg.AssetKey]) -> str:
        """The hash of what making these assets would depend on: equal if trying again would be trying the same."""
        specs = [self.specs[key] for key in sorted(keys)]
        return content_version(
            [
                (spec.key.to_user_string(), spec.code_version, [self.version(dep.asset_key) for dep in spec.deps])
                for spec in specs
            ]
        )

    def _changed(self, spec: dg.AssetSpec) -> str:
        event = self._instance.get_latest_materialization_event(spec.key)
        if event is None or event.asset_materialization is None:
            return NEVER_MADE
        tags = event.asset_materialization.tags or {}
        if spec.code_version and tags.get(_CODE_VERSION) != spec.code_version:
            return NEW_CODE
        for dependency in spec.deps:
            name = dependency.asset_key.to_user_string()
            if tags.get(_INPUT_VERSION + name) != self.version(dependency.asset_key):
                return f"{name} changed"
        # last, since it reads the store, which may be a bucket
        if self._stored and self._stored(spec.key) != tags.get(_DATA_VERSION):
            return NOT_STORED
        return ""


def stored_version(project: Project, key: dg.AssetKey) -> str | None:
    """The version of an asset that is in the project's store now; of a champion, who is in service.

    The history of an instance outlives a store: with other logs, another `GROKORA_STORE` or a deleted folder it still
    says that an asset was made. So it does of a base model whose folder was moved, or the hub's cache emptied.
    """
    name = project.store_key(key)
    agent, _, link = name.partition("/")
    if link == "champion":
        return project.registry.version(agent)
    artifact = project.store.current(name)
    return artifact.version if artifact and (name != BASE_MODEL or base_is_here(project)) else None


def blocked_assets(project: Project, stale: Mapping[dg.AssetKey, str], agents: Iterable[AgentSpec]) -> set[dg.AssetKey]:
    """What is out of date only because it cannot be made yet.

    The chain of an agent that still lacks examples, and the merged model of an agent without a champion.
    """
    blocked: set[dg.AssetKey] = set()
    for agent in agents:
        dataset, champion = (project.key(agent.name, link) for link in ("task_dataset", "champion"))
        if dataset not in stale and missing_examples(project, agent):
            blocked |= {key for key in stale if project.store_key(key).startswith(f"{agent.name}/")}
        if champion not in stale and project.registry.in_service(agent.name) is None:
            blocked.add(project.key(agent.name, "merged_model"))
    return blocked


def data_version(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """The present data version of an asset, materialized or observed; None if there is none."""
    record = instance.get_latest_data_version_record(key)
    if record is None:
        return None
    entry = record.event_log_entry
    event = entry.asset_materialization or entry.asset_observation
    return (event.tags or {}).get(_DATA_VERSION) if event else None
