"""`grokora import` and `grokora agents suggest`: what logs would teach, before anything is stored."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from grokora_pipeline.agents import AgentSpec, load_agents
from grokora_pipeline.cli.console import console
from grokora_pipeline.errors import GrokoraError, counted
from grokora_pipeline.settings import find_home, get_settings

agents_app = typer.Typer(no_args_is_help=True, help="The entries of agents.yaml.")
Paths = Annotated[list[Path] | None, typer.Argument(help="Folders or files of logs; GROKORA_LOGS by default.")]
Agents = Annotated[Path | None, typer.Option(help="An agents.yaml; GROKORA_AGENTS by default.")]


def import_logs(paths: Paths = None, *, agents: Agents = None) -> None:
    """Say what is in logs and what would be learnt of it. Nothing is stored, and no log is changed."""
    import pyarrow.parquet as pq

    from grokora_pipeline.datasets.imports import import_rows

    specs = _load(agents)
    table = Table(show_edge=False, pad_edge=False)
    for name in ("file", "format"):
        table.add_column(name, overflow="fold")
    for name in ("sessions", "calls", "learnt"):
        table.add_column(name, justify="right")
    table.add_column("left out", overflow="fold")
    calls = learnt = 0
    notes = []
    for path in paths or [get_settings().logs]:
        with _read(path, specs) as folder:
            for row in import_rows(folder, specs):
                table.add_row(*(escape(str(value)) for value in row.values()))
                calls, learnt = calls + row["calls"], learnt + row["learnt"]
            quarantine = pq.read_table(folder / "quarantine.parquet").to_pylist()
            unread = [row for row in quarantine if row["reason"] in {"no_contents", "wrong_schema"}]
            notes += [f"{row['file']}: {row['detail']}" for row in unread]
    console.print(table, highlight=False)
    for note in dict.fromkeys(notes):
        print(note)
    said = f"{learnt:,} of {counted(calls, 'call is', 'calls are')} learnt."
    if specs:
        print(f"{said} To use them: GROKORA_LOGS=<folder>")
    else:
        print(f"{said} There is no agents.yaml here, so no call has an agent: `grokora agents suggest` proposes one.")


@agents_app.command("suggest")
def suggest_agents(paths: Paths = None, *, agents: Agents = None) -> None:
    """Propose entries of agents.yaml for the calls in logs that no agent owns, most calls first."""
    from grokora_pipeline.datasets.imports import suggest

    specs = _load(agents, may_lack=True)
    with ExitStack() as stack:
        folders = [stack.enter_context(_read(path, specs)) for path in paths or [get_settings().logs]]
        proposed = suggest(folders, specs)
    if specs and proposed:
        print("# What stands below `agents:` goes below that line of your agents.yaml.")
    print(proposed or "# every call whose agent can be told belongs to one\n", end="")


def _load(named: Path | None, *, may_lack: bool = False) -> Sequence[AgentSpec]:
    """The agents of a file that was named, else of the project; none outside of any project.

    The project `may_lack` its file, or hold an empty one: a shell makes it before `suggest > agents.yaml` begins.
    """
    if named is None and find_home(Path.cwd(), os.environ) is None and not os.environ.get("GROKORA_AGENTS"):
        return ()
    file = named or get_settings().agents
    is_lacking = named is None and not (file.is_file() and file.stat().st_size)
    return () if may_lack and is_lacking else load_agents(file)


@contextmanager
def _read(path: Path, agents: Sequence[AgentSpec]) -> Iterator[Path]:
    """The logs of a folder, or of one file alone, as a `session_logs` folder that is gone afterwards."""
    from grokora_pipeline.sessions.ingest import ingest

    if not path.exists():
        raise GrokoraError(f"{path} does not exist; give a folder or a file of logs.")
    with tempfile.TemporaryDirectory(prefix="grokora-import-") as scratch:
        root, output = Path(scratch) / "logs", Path(scratch) / "out"
        output.mkdir()
        if path.is_file():  # in a folder of its own: its neighbours are not asked for
            root.mkdir()
            shutil.copyfile(path, root / path.name)
        ingest(root if path.is_file() else path, agents, None, output, settle_seconds=0)
        yield output
