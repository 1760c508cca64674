"""The frame of every GPU process: a JSON plan in, progress out, a JSON result at the end.

The same command serves a person (`python -m grokora_pipeline.training plan.json`) and Dagster, which starts it through
Pipes; then progress and the result travel to the event log as well. Dagster itself is not needed.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.errors import GrokoraError

Plan = dict[str, Any]
Result = dict[str, Any]


class Reporter:
    """Where a worker says how far it is: always on the terminal, and through Pipes where Dagster started it."""

    def __init__(self, pipes: Any = None) -> None:
        self._pipes = pipes
        self._started = time.monotonic()

    def log(self, text: str) -> None:
        """One line for a person."""
        if self._pipes is not None:
            self._pipes.log.info(text)
        else:
            print(f"[{time.monotonic() - self._started:7.1f}s] {text}", flush=True)

    def progress(self, step: int, total: int, **facts: float | str) -> None:
        """How many of `total` steps are done, with figures such as loss=…, tokens_per_second=…, seconds_left=…."""
        shown = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items()
        )
        self.log(f"step {step}/{total}{': ' + shown if shown else ''}")

    def finish(self, result: Result) -> None:
        """Hand the result over."""
        if self._pipes is not None:
            self._pipes.report_custom_message({"result": result})


def run(main: Callable[[Plan, Reporter], Result], argv: list[str] | None = None) -> int:
    """Run a worker's main function on the plan file named on the command line; returns the exit status.

    The result is also written beside the plan, as `<plan>.result.json`. A GrokoraError ends with status 2.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m grokora_pipeline.<room> plan.json", file=sys.stderr)
        return 2
    plan_file = Path(arguments[0])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if not os.environ.get("DAGSTER_PIPES_CONTEXT") or os.environ.get("RANK", "0") != "0":
        return _run(main, plan_file, Reporter())
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        return _run(main, plan_file, Reporter(pipes))


def _run(main: Callable[[Plan, Reporter], Result], plan_file: Path, reporter: Reporter) -> int:
    try:
        result = main(_read(plan_file), reporter)
    except GrokoraError as error:
        reporter.finish({"error": str(error)})
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        reporter.finish({"crash": f"{type(error).__name__}: {error}"})
        raise
    if os.environ.get("RANK", "0") == "0":
        plan_file.with_suffix(".result.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    reporter.finish(result)
    return 0


def _read(plan_file: Path) -> Plan:
    try:
        plan: Plan = orjson.loads(plan_file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise GrokoraError(f"{plan_file} is no readable plan: {error}.") from error
    return plan


def _interrupt(signum: int, frame: object) -> None:
    # Ctrl-C reaches a child twice, from the terminal and from its parent; the second must not cut off the checkpoint
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
