"""`grokora demo` in a real terminal: whatever ends it during a training, the same command goes on from there."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from grokora_pipeline.cli.demo import INTERRUPTED
from grokora_pipeline_tests.chain import environment, make_home, script
from grokora_pipeline_tests.processes import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("interrupted")]

AGENTS = """
agents:
  actor: {description: Acts., answer: tool_call, preset: sample, epochs: 1000, min_examples: 5, checkpoint_steps: 5}
"""


def own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started these tests, as nohup, ignores it


class Terminal:
    """A demo in a terminal of its own: a session whose controlling terminal can be typed into."""

    def __init__(self, home: Path) -> None:
        self.text, self.closed, (self.master, slave) = "", threading.Event(), pty.openpty()
        self.demo = subprocess.Popen(
            [script("grokora"), "demo"],
            env=environment(home) | {"TERM": "dumb", "COLUMNS": "200"},
            cwd=home,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=own_terminal,  # noqa: PLW1509
        )
        os.close(slave)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # how Linux says that the last process of a terminal is gone
            while not self.closed.is_set():
                # a read that waits would keep the terminal open beyond `close`, and nobody would be told
                if select.select([self.master], [], [], 0.2)[0]:
                    self.text += os.read(self.master, 65536).decode().replace("\r\n", "\n")

    def wait_until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 480  # seconds; a busy machine takes long
        while not holds():
            assert self.demo.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.1)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def close(self) -> None:
        """Close the window: the kernel sends SIGHUP to the processes in its foreground."""
        self.closed.set()
        self.reader.join()
        os.close(self.master)

    def last_line(self) -> str:
        self.demo.wait(timeout=90)
        self.reader.join(timeout=10)
        return self.text.strip().splitlines()[-1]


def last_checkpoint(home: Path) -> int:
    folders = (path.parent.name for path in (home / "store" / ".work").glob("*/*/checkpoint-*/complete"))
    return max((int(name.rpartition("-")[2]) for name in folders), default=0)


def processes_of(home: Path) -> list[str]:
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if "grokora_pipeline.training" in line and str(home) in line]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = make_home(tmp_path_factory.mktemp("cut"))
    (folder / "agents.yaml").write_text(AGENTS)
    yield folder
    (folder / "agents.yaml").unlink()


@pytest.fixture(scope="module")
def at_work(home: Path) -> Iterator[list[Terminal]]:
    """The demo that the test before left at work, if there is one: a start takes twenty seconds of the processor."""
    demos: list[Terminal] = []
    yield demos
    for terminal in demos:
        with suppress(ProcessLookupError):
            os.killpg(terminal.demo.pid, signal.SIGKILL)
        terminal.demo.wait()


def train(home: Path, at_work: list[Terminal]) -> Terminal:
    """A demo whose training has written a new checkpoint."""
    before, terminal = last_checkpoint(home), at_work.pop() if at_work else Terminal(home)
    terminal.wait_until(lambda: last_checkpoint(home) > before)
    return terminal


def see_it_go_on(home: Path, at_work: list[Terminal]) -> str:
    """What the next demo says until its training goes on from the last checkpoint; it stays at work."""
    last = last_checkpoint(home)
    terminal = Terminal(home)
    at_work.append(terminal)
    terminal.wait_until(lambda: "going on from" in terminal.text)
    (resumed,) = re.findall(r"going on from checkpoint-(\d+)", terminal.text)
    assert int(resumed) >= last > 0
    return terminal.text


def test_after_kill_9_the_next_demo_closes_the_run_and_goes_on_from_the_checkpoint(
    home: Path, at_work: list[Terminal]
) -> None:
    terminal = train(home, at_work)
    terminal.demo.kill()  # it alone: its steps must notice
    terminal.demo.wait()
    shown = see_it_go_on(home, at_work)
    assert len(re.findall(r"^Run [0-9a-f]{8} was cut off earlier; .* goes on from its checkpoint\.$", shown, re.M)) == 1


def test_ctrl_c_keeps_the_training_and_the_last_line_says_so(home: Path, at_work: list[Terminal]) -> None:
    terminal = train(home, at_work)
    terminal.type(b"\x03")
    assert terminal.last_line() == INTERRUPTED
    assert terminal.demo.returncode == 1
    assert processes_of(home) == []
    assert "Traceback" not in terminal.text
    see_it_go_on(home, at_work)


@pytest.mark.parametrize(
    "reached", ["its first process", pytest.param("all its processes", marks=pytest.mark.exhaustive)]
)
def test_a_closed_terminal_keeps_the_training_and_leaves_no_process(
    home: Path, at_work: list[Terminal], reached: str
) -> None:
    terminal = train(home, at_work)
    terminal.close()  # the kernel tells the first process of the terminal; a shell would tell all of its job
    if reached == "all its processes":
        os.killpg(terminal.demo.pid, signal.SIGHUP)
    assert terminal.demo.wait(timeout=90) == 1
    until(lambda: not processes_of(home), "the end of its processes", 90, every=0.1)
    assert "cut off earlier" not in see_it_go_on(home, at_work)
