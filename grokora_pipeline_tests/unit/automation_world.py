"""A world for the automation: the real assets, sensors and schedules on a real instance and store.

Only the GPU's processes are stand-ins, which leave in no time what the processes would leave in their folders.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import orjson

from grokora_pipeline.assets.common import Project
from grokora_pipeline.automation.history import AGENT_TAG
from grokora_pipeline.execution.process import GPU_SECONDS
from grokora_pipeline.factory import build_defs
from grokora_pipeline.models.base import facts
from grokora_pipeline_tests.unit.session_logs import call, write_lines

CHAIN = ("lora_adapter", "eval_report", "champion", "merged_model")


@cache
def base_facts(base: Path) -> dict[str, Any]:
    return {**facts(base, "tiny", "local"), "path": str(base)}


@dataclass
class GpuStandIn:
    """Training loses some loss, an adapter is proven better, and merging changes nothing."""

    base: Path
    seconds: float = 60.0  # of a training
    perplexity: float = 1.0  # nats a token on held-out rows that the adapter's split did not know; 1 on the others

    def run(self, context: dg.AssetExecutionContext, module: str, plan: dict[str, Any], folder: Path) -> dict[str, Any]:
        if module == "grokora_pipeline.evaluation.base":
            return dict(base_facts(self.base))
        if module == "grokora_pipeline.training":
            context.add_asset_metadata({GPU_SECONDS: self.seconds})
            return self._train(plan, folder)
        if module == "grokora_pipeline.evaluation":
            return self._judge(plan, folder)
        assert module == "grokora_pipeline.models.merge"
        return {"agrees": True, "relative_rms_difference": 0.0}

    def _train(self, plan: dict[str, Any], folder: Path) -> dict[str, Any]:
        losses = {"initial_validation_loss": 2.0, "validation_loss": 1.0}
        memory = {"predicted_memory_mib": 100.0, "peak_memory_mib": 100.0}
        record = {**losses, **memory, "versions": plan["versions"], "split": plan["split"], "history": []}
        (folder / "training.json").write_text(json.dumps(record))
        return record

    def _judge(self, plan: dict[str, Any], folder: Path) -> dict[str, Any]:
        learnt = json.loads((Path(plan["adapter"]) / "training.json").read_text())["split"]
        known, now = (json.loads((Path(split) / "examples.json").read_text()) for split in (learnt, plan["split"]))
        examples = [orjson.loads(line)["meta"] for line in Path(plan["examples"]).read_bytes().splitlines()]
        rows = [
            {
                "system": "adapter",
                "turn_id": meta["turn_id"],
                "nll": 1.0 if meta["example_id"] in known else self.perplexity,
                "reference_tokens": 1,
            }
            for meta in examples
            if now.get(meta["example_id"]) == "validation"
        ]
        better = {"value": 0.8, "low": 0.7, "high": 0.9, "p_value": 0.001, "detectable": 0.1, "higher_is_better": True}
        metric = plan["main_metric"]
        report = {
            "main_metric": metric,
            "rows": len(rows),
            "systems": {
                "adapter": {"metrics": {metric: {"value": 0.9, "low": 0.8, "high": 1.0}}},
                "base": {"metrics": {metric: {"value": 0.1, "low": 0.0, "high": 0.2}}},
            },
            "comparisons": {"adapter_vs_base": {metric: better}, "adapter_vs_champion": {metric: better}},
            "leaked_rows": {"adapter": 0},
            "training": {},
            "versions": plan["versions"],
            "decision": {"reason": "Better.", "evidence": []},
            "markdown": "",
        }
        (folder / "report.json").write_text(json.dumps(report))
        (folder / "predictions.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        return report


@dataclass
class World:
    """Logs are files of one call each. All calls whose names begin with `held` are of one task, the others of another.

    So a split holds the former out as soon as it has both.
    """

    project: Project
    now: datetime
    gpu: GpuStandIn
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)
    cursor: str | None = None

    def __post_init__(self) -> None:
        self.logs, self.store = self.project.settings.logs, self.project.store
        self.logs.mkdir(exist_ok=True)
        swarm = build_defs(self.project.settings, self.project.agents)
        self.defs = dg.Definitions(
            assets=swarm.assets,
            jobs=swarm.jobs,
            schedules=swarm.schedules,
            sensors=swarm.sensors,
            resources={**(swarm.resources or {}), self.project.gpu_resource: self.gpu},
        )
        self.specs = list(self.defs.resolve_all_asset_specs())

    def drop(self, agent: str, *names: str) -> None:
        """A log for each name; `one~2` is a near duplicate of `one`."""
        for name in names:
            stem, _, copy = name.partition("~")
            words = " ".join(f"{stem}{n}" for n in range(60))
            task = "held" if name.startswith("held") else "learnt"
            line = call(name, 0, f"{words} {copy}", f"done {stem}", agent.strip(), outcome={"status": "success"})
            write_lines(self.logs / f"{name}.jsonl", [{**line, "task": task}])
            with (self.logs / f"{name}.jsonl").open("a") as log:
                log.write("\n" * agent.count(" "))  # a log that grows

    def tick(self, name: str, at: datetime | None = None) -> Any:
        """What the sensor `new_logs`, or the schedule of an agent, says at this moment."""
        if name != "new_logs":
            schedule = self.defs.get_repository_def().get_schedule_def(f"{name}_when_due")
            with patch.object(dg.ScheduleEvaluationContext, "instance", self.instance):  # it takes none in memory
                return schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=at or self.now))
        context = dg.build_sensor_context(self.instance, self.cursor, definitions=self.defs)
        tick = self.defs.resolve_sensor_def(name).evaluate_tick(context)
        self.cursor = tick.cursor
        for event in tick.asset_events:
            self.instance.report_runless_asset_event(event)
        return tick

    def settle(self) -> None:
        """Let `new_logs` run until it has nothing to do."""
        idle = 0
        while idle < 2:  # the first tick after a change only notes it
            requests = self.tick("new_logs").run_requests or []
            idle = 0 if requests else idle + 1
            for request in requests:
                self.run(request)

    def start(self, request: dg.RunRequest) -> dg.DagsterRun:
        """A run that is running."""
        run = dg.DagsterRun(
            job_name=_job(request), run_id=None, status=dg.DagsterRunStatus.STARTED, tags=request.tags,
            asset_selection=frozenset(request.asset_selection or ()),
        )  # fmt: skip
        return self.instance.add_run(run)

    def fail(self, request: dg.RunRequest) -> None:
        """A run whose process dies before it has made anything."""
        self.instance.report_run_failed(self.start(request))

    def run(self, request: dg.RunRequest) -> None:
        self._execute(_job(request), request.asset_selection or (), request.tags)

    def make(self, run: dg.DagsterRun, *links: str) -> None:
        """Some assets of a run that goes on."""
        keys = [key for key in run.asset_selection or () if key.path[-1] in links]
        self._execute(run.job_name, keys, {})

    def finish(self, run: dg.DagsterRun) -> None:
        done = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name)
        self.instance.report_dagster_event(done, run_id=run.run_id)

    def _execute(self, job: str, keys: Iterable[dg.AssetKey], tags: Mapping[str, str]) -> None:
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, run_config=quiet, asset_selection=list(keys), tags=tags
        )

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)


def _job(request: dg.RunRequest) -> str:
    return request.job_name or f"retrain_{request.tags[AGENT_TAG]}"  # a schedule's request leaves it to its schedule
