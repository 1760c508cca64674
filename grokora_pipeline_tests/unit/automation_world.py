"""A world for the automation: real sensors on a real instance and store, and runs that take no time.

`World.run` does what the requested assets would do, as far as the automation can see: it publishes small artifacts and
records the materializations that Dagster would, with the versions of their inputs.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg

from grokora_pipeline.assets.chain import all_assets
from grokora_pipeline.assets.common import load_project
from grokora_pipeline.automation.history import AGENT_TAG
from grokora_pipeline.automation.jobs import jobs
from grokora_pipeline.automation.schedules import schedules
from grokora_pipeline.automation.sensors import log_sensor
from grokora_pipeline.automation.staleness import data_version
from grokora_pipeline.store import content_version

CHAIN = ("lora_adapter", "eval_report", "champion", "merged_model")


@dataclass
class World:
    """Logs are files of the name `<example>.jsonl` whose text is the agent who learns from it."""

    home: Path
    now: datetime
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)
    cursor: str | None = None
    gpu_seconds: float = 60.0
    perplexity: float = 1.0

    def __post_init__(self) -> None:
        project = load_project()
        self.logs, self.store = project.settings.logs, project.store
        self.logs.mkdir(exist_ok=True)
        assets = all_assets(project)
        self.specs = {s.key: s for asset in assets if isinstance(asset, dg.AssetsDefinition) for s in asset.specs}
        specs = list(self.specs.values())
        self.defs = dg.Definitions(
            assets=assets,
            jobs=jobs(project, specs),
            schedules=schedules(project, specs),
            sensors=[log_sensor(project, specs)],
            resources=project.resources(),
        )

    def drop(self, agent: str, *names: str) -> None:
        for name in names:
            (self.logs / f"{name}.jsonl").write_text(agent)

    def tick(self, name: str, at: datetime | None = None) -> Any:
        """What the sensor `new_logs`, or the schedule of an agent, says at this moment."""
        if name != "new_logs":
            schedule = self.defs.get_repository_def().get_schedule_def(f"{name}_when_due")
            with patch.object(dg.ScheduleEvaluationContext, "instance", self.instance):  # it takes none in memory
                return schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=at or self.now))
        context = dg.build_sensor_context(self.instance, self.cursor, definitions=self.defs)
        found = self.defs.resolve_sensor_def(name).evaluate_tick(context)
        self.cursor = found.cursor
        for event in found.asset_events:
            self.instance.report_runless_asset_event(event)
        return found

    def settle(self) -> None:
        """Let `new_logs` run until it has nothing to do."""
        idle = 0
        while idle < 2:  # the first tick after a change only notes it
            requests = self.tick("new_logs").run_requests or []
            idle = 0 if requests else idle + 1
            for request in requests:
                self.run(request)

    def start(self, request: dg.RunRequest) -> dg.DagsterRun:
        """A run under way."""
        keys = frozenset(request.asset_selection or ())
        job = request.job_name or f"retrain_{request.tags[AGENT_TAG]}"  # a schedule's request leaves it to its schedule
        run = dg.DagsterRun(
            job_name=job, run_id=None, status=dg.DagsterRunStatus.STARTED, tags=request.tags,
            asset_selection=keys,
        )  # fmt: skip
        return self.instance.add_run(run)

    def run(self, request: dg.RunRequest, fails: bool = False) -> None:
        run = self.start(request)
        self.finish(run, None if fails else run.asset_selection)

    def finish(self, run: dg.DagsterRun, makes: Collection[dg.AssetKey] | None = None) -> None:
        """End a run, which makes some assets first; with none it fails."""
        if makes is None:
            self.instance.report_run_failed(run)
            return
        for key in self.specs:
            if key in makes:
                self.make(key)
        done = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name)
        self.instance.report_dagster_event(done, run_id=run.run_id)

    def make(self, key: dg.AssetKey) -> None:
        spec = self.specs[key]
        version = getattr(self, f"_{key.path[-1]}")(key)
        if version is None:
            return
        tags = {"dagster/data_version": version, "dagster/code_version": spec.code_version or ""}
        for dep in spec.deps:
            tags[f"dagster/input_data_version/{dep.asset_key.to_user_string()}"] = (
                data_version(self.instance, dep.asset_key) or ""
            )
        metadata = {"gpu_seconds": self.gpu_seconds} if key.path[-1] == "lora_adapter" else {}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, tags=tags, metadata=metadata))

    def _publish(self, key: str, version: str, **files: Any) -> str:
        with self.store.stage(key) as staged:
            for name, content in files.items():
                lines = name in {"examples_jsonl", "predictions_jsonl"}
                text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content)
                (staged / name.replace("_json", ".json")).write_text(text)
            self.store.publish(key, version, staged)
        return version

    def _session_logs(self, key: dg.AssetKey) -> str:
        found = {path.stem: path.read_text() for path in sorted(self.logs.iterdir())}
        return self._publish("session_logs", content_version(found), turns_json=found)

    def _base_model(self, key: dg.AssetKey) -> str:
        return self._publish("base_model", "b1", base_model_json={})

    def _task_dataset(self, key: dg.AssetKey) -> str:
        turns = json.loads((self.store.require("session_logs").path / "turns.json").read_text())
        rows = [self._example(name) for name, agent in turns.items() if agent == key.path[0]]
        report = {"rows": len(rows)}
        return self._publish("/".join(key.path), content_version(rows), examples_jsonl=rows, report_json=report)

    @staticmethod
    def _example(name: str) -> dict[str, Any]:
        cluster = name.partition("~")[0]  # `one~2` is a near duplicate of `one`
        return {"prompt": [], "completion": [], "meta": {"example_id": name, "turn_id": name, "cluster": cluster}}

    def _tokenized_split(self, key: dg.AssetKey) -> str:
        lines = (self.store.require(f"{key.path[0]}/task_dataset").path / "examples.jsonl").read_text().splitlines()
        names = [json.loads(line)["meta"]["example_id"] for line in lines]
        sides = {name: "validation" if name.startswith("held") else "train" for name in names}
        return self._publish("/".join(key.path), content_version(sides), examples_json=sides)

    def _lora_adapter(self, key: dg.AssetKey) -> str:
        agent = key.path[0]
        names = (f"{agent}/tokenized_split", "base_model")
        versions = {name: self.store.require(name).version for name in names}
        return self._publish(f"{agent}/lora_adapter", content_version(versions), training_json={"versions": versions})

    def _eval_report(self, key: dg.AssetKey) -> str:
        agent = key.path[0]
        names = (f"{agent}/task_dataset", f"{agent}/tokenized_split")
        adapter = self.store.require(f"{agent}/lora_adapter")
        versions = {name: self.store.require(name).version for name in names} | {
            "adapter": adapter.version,
            "champion": "",
        }
        trained = json.loads((adapter.path / "training.json").read_text())["versions"][names[1]]
        old = json.loads((self.store.find(names[1], trained).path / "examples.json").read_text())  # type: ignore[union-attr]
        now = json.loads((self.store.require(names[1]).path / "examples.json").read_text())
        rows = [
            {
                "system": "adapter",
                "turn_id": name,
                "nll": 1.0 if name in old else self.perplexity,
                "reference_tokens": 1,
            }
            for name, side in now.items()
            if side == "validation"
        ]
        report = {"versions": versions}
        return self._publish(
            f"{agent}/eval_report", content_version(versions), report_json=report, predictions_jsonl=rows
        )

    def _champion(self, key: dg.AssetKey) -> str:
        version = self.store.require(f"{key.path[0]}/lora_adapter").version
        self.store.point("/".join(key.path), "champion", version, action="promote")
        return version

    def _merged_model(self, key: dg.AssetKey) -> str:
        adapter = self.store.require(f"{key.path[0]}/lora_adapter").version
        return self._publish("/".join(key.path), content_version(adapter), merge_json={})

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)
