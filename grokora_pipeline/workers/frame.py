"""The frame of every GPU process: a JSON plan in, progress out, a JSON result beside the plan at the end.

The same command serves a person (`python -m grokora_pipeline.training plan.json`) and Dagster, which starts it through
Pipes; then progress travels to the event log as well. The result is a file and the exit status, never a message: Pipes'
reader meets half a line if a message is longer than a pipe writes at once (8 KiB), and takes the process for killed.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.errors import GrokoraError, disk_refusal

# libgomp, which torch's wheels bring, lets threads spin while they wait. On a machine with other work they wait for a
# thread that has no core, and training falls from 500 to 15 tokens/s. Read when torch is imported, not later.
PASSIVE_THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
# bitsandbytes, which PEFT imports, wraps functions in torch.compile that an NF4 base on a CPU alone calls: 1.2 s of
# every start of a worker. With this torch leaves them as they are, and does not import its compiler.
NO_COMPILER = {"TORCHDYNAMO_DISABLE": "1"}
_LONGEST_MESSAGE = 1000  # characters; as JSON (up to 6 bytes each) it stays below the 8 KiB of one write
Plan = dict[str, Any]
Result = dict[str, Any]


class Reporter:
    """Where a worker says how far it is: on the terminal, or through Pipes if Dagster started it.

    Of several processes that train together only the first one speaks.
    """

    def __init__(self, pipes: Any = None) -> None:
        self._pipes = pipes
        self._started = time.monotonic()

    def log(self, text: str) -> None:
        """One line for a person; of a long one the event log gets the beginning."""
        if not _first_process():
            return
        if self._pipes is not None:
            self._pipes.log.info(text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} …")
        else:
            print(f"[{time.monotonic() - self._started:7.1f}s] {text}", flush=True)

    def progress(self, step: int, total: int, **facts: float | str) -> None:
        """How many of `total` steps are done, with figures such as loss=…, tokens_per_second=…, seconds_left=…."""
        shown = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items()
        )
        self.log(f"step {step}/{total}{': ' + shown if shown else ''}")


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def stop_signals() -> list[signal.Signals]:
    """The signals that ask to stop; a closed terminal's is none of them if it is ignored, as `nohup` does.

    Ctrl-C and a closed terminal reach every process of the terminal, not only the one that a person started.
    """
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def result_file(plan_file: Path) -> Path:
    """Where a worker leaves its result; if its status is not 0: `{"error": sentence}` or `{"crash": exception}`."""
    return plan_file.with_suffix(".result.json")


def read_result(plan_file: Path) -> Result:
    """What a worker left; {} if it was stopped before it could."""
    file = result_file(plan_file)
    result: Result = orjson.loads(file.read_bytes()) if file.is_file() else {}
    return result


def run(
    main: Callable[[Plan, Reporter], Result],
    argv: list[str] | None = None,
    *,
    launch: Callable[[Path], None] | None = None,
) -> int:
    """Run a worker's main function on the plan file named on the command line; returns the exit status.

    The result is written beside the plan (`result_file`). A GrokoraError or a disk that takes no more ends with status
    2, a signal with 128 + its number. `launch` may replace this process by several, before Pipes are opened.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m grokora_pipeline.<room> plan.json", file=sys.stderr)
        return 2
    unset = PASSIVE_THREADS.keys() - os.environ.keys()
    os.environ.update({name: PASSIVE_THREADS[name] for name in unset})
    if unset and argv is None and "torch" in sys.modules:  # imported too early for them to count: begin again
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    plan_file = Path(arguments[0])
    if _first_process():
        result_file(plan_file).unlink(missing_ok=True)  # an earlier attempt's
    for number in stop_signals():
        signal.signal(number, _stop)
    if launch:
        launch(plan_file)
    if not os.environ.get("DAGSTER_PIPES_CONTEXT") or not _first_process():
        return _run(main, plan_file, Reporter())
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        return _run(main, plan_file, Reporter(pipes))


def run_alone(module: str, plan: Plan) -> Result:
    """Let a worker work in a process of its own, for a command of a person's terminal, and return its result.

    There are no Pipes and there is no lease of a GPU; it speaks to this process's standard output.
    GrokoraError with the worker's own sentence if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        file.write_bytes(orjson.dumps(plan))
        done = subprocess.run([sys.executable, "-m", module, str(file)], check=False, stderr=subprocess.PIPE, text=True)
        outcome = read_result(file)
        if done.returncode:
            raise GrokoraError(outcome.get("error") or f"{module} broke off: {done.stderr.strip()[-300:]}")
        return outcome


def _run(main: Callable[[Plan, Reporter], Result], plan_file: Path, reporter: Reporter) -> int:
    try:
        try:
            plan = orjson.loads(plan_file.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise GrokoraError(f"{plan_file} is no readable plan: {error}.") from error
        if not isinstance(plan, dict):
            raise GrokoraError(f"{plan_file} is no plan: it holds no JSON object.")
        _write(plan_file, main(plan, reporter))
    except Exception as error:
        sentence = str(error) if isinstance(error, GrokoraError) else disk_refusal(error)
        with suppress(OSError):  # a full disk may not even take the sentence
            _write(plan_file, {"error": sentence} if sentence else {"crash": f"{type(error).__name__}: {error}"})
        if not sentence:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    return 0


def _write(plan_file: Path, outcome: Result) -> None:
    """Leave the outcome beside the plan, at once and whole; only the first of several processes does."""
    if _first_process() and plan_file.parent.is_dir():
        partial = plan_file.with_suffix(".result.partial")
        partial.write_bytes(orjson.dumps(outcome, option=orjson.OPT_INDENT_2))
        partial.replace(result_file(plan_file))


def _stop(signum: int, frame: object) -> None:
    """End at once: an exception raised inside a library that is being imported may be swallowed or end in a traceback.

    Nothing is lost: what a worker must finish first (a training's checkpoint) it handles by a handler of its own.
    """
    name = signal.Signals(signum).name
    print(f"error: stopped by {name}; run the same plan again, it goes on from what is kept.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + signum)
