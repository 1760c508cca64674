"""What `grokora demo` shows of a run: the last line of a failure is its cause."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NoReturn

import dagster as dg
import pytest
from rich.console import Console

from grokora_pipeline.cli import commands
from grokora_pipeline.cli.demo import _RUN_TAG, RunPrinter


def fail(error: BaseException) -> Callable[[], NoReturn]:
    def act() -> NoReturn:
        raise error

    return act


def cause_of(act: Callable[[], Any], retry_policy: dg.RetryPolicy | None = None) -> tuple[str, str]:
    """The cause that is found, and all that is printed, for a run of one asset that does this."""

    @dg.asset(key=["actor", "lora_adapter"], retry_policy=retry_policy)
    def failing() -> None:
        act()

    text = io.StringIO()
    # on disk: two threads use it, and SQLite's tables in memory are locked while one of them reads
    instance = dg.DagsterInstance.local_temp(mkdtemp())
    with RunPrinter(instance, "mark", Console(file=text)) as printer:
        dg.materialize([failing], instance=instance, tags={_RUN_TAG: "mark"}, raise_on_error=False)
    return printer.cause, text.getvalue()


def test_the_cause_is_what_happened_not_what_wraps_it() -> None:
    cause, text = cause_of(fail(OSError(28, "No space left on device")))
    assert cause == "actor/lora_adapter: OSError: [Errno 28] No space left on device"
    assert cause in text


def test_a_step_that_was_tried_in_vain_shows_why_and_not_how_often() -> None:
    error = ValueError("the model [bold] is not there")
    cause, text = cause_of(fail(error), retry_policy=dg.RetryPolicy(max_retries=2))
    assert cause == "actor/lora_adapter: ValueError: the model [bold] is not there"
    assert "max_retries" not in text
    assert cause in text  # brackets are no markup


def test_a_worker_says_its_own_sentence() -> None:
    assert cause_of(fail(dg.Failure("The GPU is gone.")))[0] == "actor/lora_adapter: The GPU is gone."


def test_a_run_that_fails_outside_a_step_shows_its_cause(tmp_path: Path) -> None:
    instance, text = dg.DagsterInstance.local_temp(str(tmp_path)), io.StringIO()
    with RunPrinter(instance, "mark", Console(file=text)) as printer:
        run = instance.add_run(dg.DagsterRun("retrain_all", tags={_RUN_TAG: "mark"}))
        instance.report_run_failed(run, "The code server is gone.")
    assert printer.cause == "The code server is gone."
    assert text.getvalue().splitlines()[-1].endswith("The code server is gone.")


def test_a_run_that_succeeds_has_no_cause() -> None:
    assert cause_of(lambda: None)[0] == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_an_arrow_shows_the_results_all_the_same(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grokora_pipeline.cli import commands

    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr("sys.argv", ["grokora"])
    monkeypatch.setattr(commands, "app", lambda: print("0.5 → 0.7"))
    commands.main()
    sys.stdout.flush()
    assert raw.getvalue() == b"0.5 ? 0.7\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_on_a_full_disk_loses_its_lines_and_not_the_terminal() -> None:
    code = """
import sys
from pathlib import Path
from grokora_pipeline.cli import commands
from grokora_pipeline.cli.demo import output_to
with output_to(Path("/dev/full")) as terminal:
    print("for the log")
    print("for the person", file=terminal)
print("afterwards", file=sys.stderr)
"""
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", code], env=buffered, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "afterwards\n")
    assert done.stdout.startswith("for the person\n")


def test_a_full_disk_is_one_sentence_of_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "app", fail(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: The disk cannot be used (No space left on device)")
