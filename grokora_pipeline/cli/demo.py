"""`grokora demo`: the whole chain in one run of the real executor, printed line by line on the terminal."""

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import DatabaseError
from yaml import YAMLError

from grokora_pipeline.assets.common import Project, load_project
from grokora_pipeline.automation.jobs import ALL_JOB
from grokora_pipeline.automation.staleness import (
    AssetStaleness,
    blocked_assets,
    observation,
    source_versions,
    stored_version,
)
from grokora_pipeline.cli.console import console
from grokora_pipeline.errors import GrokoraError, counted
from grokora_pipeline.execution.executor import fit_pool
from grokora_pipeline.execution.launcher import PROCESS_TAG, close_dead_runs, this_process
from grokora_pipeline.settings import get_settings
from grokora_pipeline.store.champions import BASE, PROMPT_PREFIX
from grokora_pipeline.workers.frame import stop_signals

_RUN_TAG = "grokora/demo"
_POLL_SECONDS = 0.3
_QUIET_SECONDS = 3.0  # between two progress lines of one step
_INTERRUPTS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")  # what a signal makes of a run
INTERRUPTED = "Interrupted: what is finished stays, and the same command goes on from there."
_DAGSTERS_OWN = ("Skipping step", "Dependencies for step", "[pipes]", " external process")


def whole_chain() -> dg.JobDefinition:
    """The job `retrain_all`, found again by name in every step's process."""
    from grokora_pipeline.definitions import defs

    return defs.resolve_job_def(ALL_JOB)


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of DAGSTER_HOME, which is made if it is missing, else the checkout's own.

    Its pool fits the devices, and the settings mean the same in every process from here on, wherever that works.
    Raises GrokoraError if its dagster.yaml or its history cannot be used, also while it is open.
    """
    settings = get_settings()
    os.environ.update(settings.environment())
    variable = os.environ.get("DAGSTER_HOME")
    home = Path(variable).expanduser().absolute() if variable else settings.home
    if variable:
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise GrokoraError(f"DAGSTER_HOME={variable} cannot be made ({reason}); name a folder of yours.") from error
        os.environ["DAGSTER_HOME"] = str(home)
    else:
        os.chdir(home)  # the folders in its dagster.yaml are relative
    try:
        with dg.DagsterInstance.get() if variable else dg.DagsterInstance.from_config(str(home)) as instance:
            fit_pool(instance, settings)
            yield instance
    except (YAMLError, dg.DagsterInvalidConfigError) as error:
        reason = str(error).split("\n\n")[0]
        raise GrokoraError(f"{home / 'dagster.yaml'} is not usable: {' '.join(reason.split())}.") from error
    except DatabaseError as error:
        raise GrokoraError(
            f"Dagster's history, whose place {home / 'dagster.yaml'} names, cannot be used ({error.orig}): free disk "
            "space, make it writable, or move its folder away. The store keeps what is finished, and the same command "
            "goes on from there."
        ) from error


def run_demo() -> bool:
    """Materialize what is out of date, show progress, end with a table; True when nothing failed.

    The last line of a failure is its cause.
    """
    started = time.monotonic()
    with open_instance() as instance:
        project = load_project()
        recover(project, instance)
        stale, fresh = out_of_date(project, instance)
        print(f"{counted(fresh, 'asset is', 'assets are')} up to date, {counted(len(stale), 'is', 'are')} to be made.")
        cause = materialize(project, instance, stale) if stale else ""
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    if cause == INTERRUPTED:
        print(f"\n{cause}")
        return False
    if cause:
        console.print(f"\n[red]Failed[/red] in {minutes} min {seconds} s.")
        print(cause)
        return False
    print(f"\nDone in {minutes} min {seconds} s.\n")
    show_results(project)
    return True


def recover(project: Project, instance: dg.DagsterInstance) -> None:
    """Close what was cut off earlier, in one line, so that nothing waits for it."""
    for run_id in close_dead_runs(instance):
        print(f"Run {run_id[:8]} was cut off earlier; it is closed, and a training goes on from its checkpoint.")
    project.store.sweep()


def out_of_date(project: Project, instance: dg.DagsterInstance) -> tuple[list[dg.AssetKey], int]:
    """The assets to make, and how many need nothing; what cannot be made yet is up to date, not missing."""
    from grokora_pipeline.definitions import defs

    for key, version in source_versions(project).items():
        instance.report_runless_asset_event(observation(key, version))
    chain = whole_chain().asset_layer.executable_asset_keys
    specs = [spec for spec in defs.resolve_all_asset_specs() if spec.key in chain]
    stale = AssetStaleness(instance, specs, stored=partial(stored_version, project)).stale
    left_out = blocked_assets(project, stale, project.agents)
    keys = [key for key in stale if key not in left_out]
    return keys, len(specs) - len(keys)


def materialize(project: Project, instance: dg.DagsterInstance, keys: list[dg.AssetKey]) -> str:
    """Make these assets in one run of the real executor, printed line by line; the cause if it failed, else empty.

    SIGTERM and SIGHUP (a closed terminal) end it as Ctrl-C does: children write their checkpoints.
    """
    mark, log = uuid.uuid4().hex, project.store.root / "demo.log"
    print(f"What the processes print themselves goes to {log}.")
    hung_up = threading.Event()  # an exit by SIGHUP is not the run's failure, whatever Dagster makes of it

    def hang_up(signum: int, frame: object) -> None:
        """End the run as Ctrl-C does."""
        # Dagster 1.13 lets its steps end after SIGINT and SIGTERM only. An exception from here, amid its executor,
        # would leave them at work, and this process waiting for them.
        hung_up.set()
        signal.raise_signal(signal.SIGINT)

    for number in stop_signals():
        signal.signal(number, hang_up if number == signal.SIGHUP else signal.default_int_handler)
    try:
        with output_to(log) as terminal, RunPrinter(instance, mark, Console(file=terminal)) as printer:
            result = dg.execute_job(
                dg.reconstructable(whole_chain),
                instance=instance,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                # a daemon beside it would begin again what a person has just interrupted
                tags={_RUN_TAG: mark, PROCESS_TAG: this_process(), "dagster/max_retries": "0"},
                asset_selection=keys,
                raise_on_error=False,
            )
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        return INTERRUPTED
    run = instance.get_run_by_id(result.run_id)
    if hung_up.is_set() or printer.interrupted or (run and run.status == dg.DagsterRunStatus.CANCELED):
        return INTERRUPTED
    return "" if result.success else printer.cause or f"No step says why; what the processes printed is in {log}."


@contextmanager
def output_to(log: Path) -> Iterator[TextIO]:
    """Send what this process and its children print into a file; gives the terminal, for what a person should see."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    # a text stream of its own on the terminal, in which a letter that the terminal lacks becomes a question mark
    copy = os.fdopen(os.dup(saved[0]), "w", encoding=sys.stdout.encoding, errors="replace", buffering=1)
    with log.open("ab") as stream, copy as terminal:
        try:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            yield terminal
        finally:
            with suppress(OSError):  # a full disk may lose lines of the log, but the terminal has to come back
                sys.stdout.flush()
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)


class RunPrinter:
    """Follows a run's event log from a thread of its own and prints what a person wants to know."""

    def __init__(self, instance: dg.DagsterInstance, mark: str, console: Console) -> None:
        self._instance, self._mark, self._console = instance, mark, console
        self._done, self._thread = threading.Event(), threading.Thread(target=self._follow, daemon=True)
        self._started: dict[str, float] = {}
        self._last_line: dict[str, float] = {}
        self.cause = ""  # the first failure's step and sentence
        self.interrupted = False

    def __enter__(self) -> "RunPrinter":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        cursor: str | None = None
        while True:
            # read before the records: what is written between the two is seen in this round
            last_round = self._done.is_set()
            runs = self._instance.get_runs(filters=dg.RunsFilter(tags={_RUN_TAG: self._mark}), limit=1)
            if runs:
                connection = self._instance.get_records_for_run(runs[0].run_id, cursor=cursor)
                cursor = connection.cursor
                for record in connection.records:
                    self._print_event(record.event_log_entry)
            if last_round:
                return
            self._done.wait(_POLL_SECONDS)

    def _print_event(self, entry: Any) -> None:
        step = (entry.step_key or "").replace("__", "/")
        event = entry.dagster_event
        if event is None:  # a line of progress
            important = entry.level >= 30
            too_soon = not important and entry.timestamp - self._last_line.get(step, 0.0) < _QUIET_SECONDS
            if step and not too_soon and not entry.user_message.startswith(_DAGSTERS_OWN):
                self._last_line[step] = entry.timestamp
                self._print(f"  [dim]{step}:[/dim] {escape(entry.user_message)}")
        elif event.event_type_value == "STEP_START":
            self._started[step] = entry.timestamp
            self._print(f"[bold]▶ {step}[/bold]")
        elif event.event_type_value == "STEP_SUCCESS":
            self._print(
                f"[green]✓[/green] {step} [dim]{entry.timestamp - self._started.get(step, entry.timestamp):.1f} s[/dim]"
            )
        elif event.event_type_value == "STEP_SKIPPED":
            self._print(f"[yellow]–[/yellow] {step} skipped: what it needs was not made")
        elif event.event_type_value == "STEP_FAILURE":
            self._fail(step, _cause(event))
        elif event.event_type_value in {"RUN_FAILURE", "PIPELINE_FAILURE"}:  # also outside a step
            self.interrupted = _cause(event).endswith(_INTERRUPTS)
            if not self.interrupted:
                self._fail("", _cause(event))
        elif event.event_type_value == "ASSET_CHECK_EVALUATION":
            check = event.event_specific_data
            if not check.passed:
                self._print(f"[yellow]![/yellow] {step}, check {check.check_name}: {escape(str(check.description))}")

    def _fail(self, step: str, cause: str) -> None:
        """A run's own failure only repeats that a step failed, if one did."""
        if step or not self.cause:
            text = f"{step}: {cause}" if step else cause
            self.cause = self.cause or text
            self._print(f"[red]✗ {escape(text)}[/red]")

    def _print(self, text: str) -> None:
        with suppress(OSError):  # the terminal was closed, or `| head` has read enough: the run matters, not its lines
            self._console.print(text, highlight=False, soft_wrap=True)


def _cause(event: Any) -> str:
    """The sentence of a failure: a worker's own, or the last line of the error that Dagster's own errors wrap."""
    data = event.event_specific_data
    failure = getattr(data, "user_failure_data", None)
    if failure and failure.description:
        return str(failure.description)
    error = getattr(data, "error", None)
    # `Exceeded max_retries of 2` and `Error occurred while executing op` stand before what really happened
    while error and error.cause and (str(error.cls_name).startswith(("Dagster", "RetryRequested"))):
        error = error.cause
    lines = str(error.message).strip().splitlines() if error else []
    return lines[-1] if lines else str(event.message or "failed")


def show_results(project: Project) -> None:
    """A row an agent: examples, base and adapter on the main metric, perplexity, champion; then what to do next."""
    store, agents = project.store, project.agents
    table = Table(title="Base model against adapter, on held-out examples")
    for column in ("agent", "examples", "metric", "base", "adapter (95 % interval)", "perplexity", "champion"):
        table.add_column(column)
    reports = [store.current(f"{agent.name}/eval_report") for agent in agents]
    for agent, report in zip(agents, reports, strict=True):
        metric, dataset = agent.metric, store.current(f"{agent.name}/task_dataset")
        row = [agent.name, str(dataset.read_json("report.json")["rows"]) if dataset else "0", metric]
        if report is None:
            table.add_row(*row, "", f"needs {agent.min_examples} examples", "", "no")
            continue
        systems = report.read_json("report.json")["systems"]
        base, adapter = (systems[name]["metrics"] for name in ("base", "adapter"))
        champion = project.registry.version(agent.name)
        table.add_row(
            *row,
            f"{base[metric]['value']:.2f}",
            "{value:.2f} ({low:.2f} to {high:.2f})".format(**adapter[metric]),
            f"{base['perplexity']['value']:.2f} → {adapter['perplexity']['value']:.2f}",
            "no" if champion == BASE else "a prompt" if champion.startswith(PROMPT_PREFIX) else f"yes ({champion[:8]})",
        )
    console.print(table)
    swarm = store.current("swarm_report")
    if swarm:
        systems = swarm.read_json("swarm.json")["systems"]
        rates = ", ".join(f"{name} {run['success_rate']:.0%}" for name, run in systems.items())
        print(f"Swarm on unseen tasks: {rates}.")
    for report in [*filter(None, reports), *([swarm] if swarm else [])]:
        print(f"  {report.link('report.html')}")
    ui = "make ui" if (project.settings.home / "Makefile").is_file() else "grokora ui"  # a project has no Makefile
    console.print(f"\nNext: [bold]{ui}[/bold] shows the run, the lineage and the plots on http://127.0.0.1:3000")
