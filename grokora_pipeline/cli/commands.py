"""`grokora`: the command line, thin over the rooms."""

import errno
import io
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from grokora_pipeline.agents import find_agent, load_agents
from grokora_pipeline.cli.console import console
from grokora_pipeline.cli.export import export, probe
from grokora_pipeline.cli.imports import agents_app, import_logs
from grokora_pipeline.cli.publish import publish_dataset
from grokora_pipeline.errors import GrokoraError, counted, disk_refusal
from grokora_pipeline.settings import find_env_file, find_home, get_settings, misspelt
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import BASE, Registry

# A command imports its room itself: Dagster, torch and pyarrow take seconds that the others need not wait for.
app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
sandbox_app = typer.Typer(no_args_is_help=True, help="The small desktop world that writes the sample logs.")
champion_app = typer.Typer(no_args_is_help=True, help="Who is in service for an agent, and since when.")
app.add_typer(sandbox_app, name="sandbox")
app.add_typer(champion_app, name="champion")
app.add_typer(agents_app, name="agents")
app.command("import")(import_logs)
app.command("publish")(publish_dataset)
app.command()(export)
app.command()(probe)


Port = Annotated[int, typer.Option(min=1, max=65535)]


@app.callback()
def say_what_is_misspelt(context: typer.Context) -> None:
    """Before any command, name the GROKORA_ variables that mean nothing: what they were to change stays as it is."""
    home = find_home(Path.cwd(), os.environ)
    unread = misspelt(os.environ, find_env_file(Path.cwd(), home, os.environ))
    if unread and context.invoked_subcommand != "doctor":  # which says more
        print(f"warning: nothing reads {', '.join(unread)}; `grokora doctor` says what was meant.", file=sys.stderr)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    sample: Annotated[bool, typer.Option(help="Also the sample's logs, agents and base model.")] = False,
) -> None:
    """Write a project: agents.yaml, settings, and what Dagster needs; nothing existing is overwritten."""
    from grokora_pipeline.cli.init import make_project

    for path in make_project(folder.absolute(), sample):
        print(path)
    print(f"Next: cd {shlex.quote(str(folder))} && grokora {'demo' if sample else 'doctor'}")


@app.command()
def demo() -> None:
    """Run the whole chain on the logs: session logs in, champions out."""
    from grokora_pipeline.cli.demo import run_demo

    if not run_demo():
        raise typer.Exit(1)


@app.command()
def ui(
    port: Port = 3000,
    host: Annotated[
        str, typer.Option(help="Dagster asks nobody for a password: keep it, or put a proxy before it.")
    ] = ("127.0.0.1"),
) -> None:
    """The Dagster UI with the history of this project, from any directory."""
    from grokora_pipeline.assets.common import load_project
    from grokora_pipeline.cli.demo import open_instance, recover
    from grokora_pipeline.serving.gateway.server import listen

    with open_instance() as instance:
        recover(load_project(), instance)
    listen(host, port).close()  # Dagster would say that the port is taken half a minute later, amid its log
    # this process becomes Dagster, so that signals and the exit status are Dagster's own
    dagster, workspace = str(Path(sys.executable).with_name("dagster")), str(get_settings().home / "workspace.yaml")
    os.execv(dagster, [dagster, "dev", "-w", workspace, "-h", host, "-p", str(port)])


@app.command()
def doctor() -> None:
    """What this machine can do, and the command that helps if something is missing."""
    from grokora_pipeline.cli.doctor import examine

    findings = examine()
    for finding in findings:
        console.print(finding.line(), highlight=False, soft_wrap=True)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option(help="An address that others reach needs GROKORA_API_KEY.")] = "127.0.0.1",
    port: Port = 8080,
    upstream: Annotated[str, typer.Option(help="An OpenAI-compatible API for what no champion answers.")] = "",
    upstream_model: Annotated[str, typer.Option(help="Its model, if a call names one of ours.")] = "",
    backend: Annotated[
        Literal["grokora", "llamacpp", "vllm"],
        typer.Option(help="The engine; vllm: become the equivalent `vllm serve`."),
    ] = "grokora",
    print_: Annotated[bool, typer.Option("--print", help="Only show that command.")] = False,
    weights: Annotated[str, typer.Option(help="Of llamacpp: f32, bf16, q8_0 or q4_0.")] = "bf16",
    max_body: Annotated[int, typer.Option(min=1, help="MiB of a request; four times as much may pass upstream.")] = 16,
    max_requests: Annotated[int, typer.Option(min=1, help="Answered at the same time; others get 429.")] = 64,
) -> None:
    """The gateway of the three APIs: champions answer, every call is recorded."""
    from grokora_pipeline.serving.gateway import server
    from grokora_pipeline.serving.gateway.gateway import Limits

    limits = Limits(body_bytes=max_body << 20, requests=max_requests)
    llamacpp = weights if backend == "llamacpp" else ""
    options = server.Options(host, port, upstream, upstream_model, limits, llamacpp)
    if backend != "vllm":
        server.serve(get_settings(), options)
    else:  # vLLM takes the place of this process; only a command that is to be shown comes back
        print(server.serve_vllm(get_settings(), options, only_print=print_))


@app.command()
def feedback(
    session: Annotated[str, typer.Argument(help="A session id, or `last` for the one recorded last.")],
    *,
    rating: Annotated[int | None, typer.Option(min=1, max=5)] = None,
    status: Annotated[Literal["success", "failure"] | None, typer.Option()] = None,
    blame: Annotated[str, typer.Option(help="Who went wrong, as `agent` or `agent:step`.")] = "",
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    gateway: str = "http://127.0.0.1:8080",
) -> None:
    """Say how a recorded session went."""
    from grokora_pipeline.serving.gateway.feedback import Feedback, give

    agent, _, step = blame.partition(":")
    if (step and not step.isdigit()) or not (rating or status or blame):
        raise GrokoraError("Give at least one of --rating 1-5, --status success|failure, --blame agent[:step].")
    blamed = {"agent": agent, "step": int(step) if step else None, "reason": reason or None} if blame else None
    record = {"session_id": session, "rating": rating, "status": status, "blame": blamed}
    settings = get_settings()
    key = settings.api_key.get_secret_value() if settings.api_key else None
    print(give(Feedback.of(record), gateway, key, settings.recordings_folder))


@sandbox_app.command("record")
def sandbox_record(
    output: Annotated[Path, typer.Option(help="An empty or new folder.")],
    seed: int = 7,
    sessions: int = 480,
) -> None:
    """Write sample session logs; the same seed writes the same bytes."""
    from grokora_pipeline.sandbox.record import record

    if output.is_dir() and any(output.iterdir()):
        raise GrokoraError(f"{output} is not empty; give a new folder, so that nothing of yours is overwritten.")
    print(f"{record(output, seed=seed, sessions=sessions)} sessions written to {output}")


@champion_app.command("show")
def champion_show(agent: str) -> None:
    """The adapter in service for an agent, since when and why."""
    console.print_json(data=_registry(agent).record(agent) or {"version": BASE})


@champion_app.command("history")
def champion_history(agent: str) -> None:
    """Every promotion, rollback, pin and refused challenger of an agent, oldest first, with the evidence."""
    for record in _registry(agent).events(agent):
        console.print_json(data=record, indent=None)


@champion_app.command("rollback")
def champion_rollback(
    agent: str, to: Annotated[str | None, typer.Option(help="A version, or `base` for none.")] = None
) -> None:
    """Put an earlier champion back in service; the one rolled back is not promoted again."""
    from grokora_pipeline.assets.champion import report_rollback
    from grokora_pipeline.assets.common import load_project
    from grokora_pipeline.cli.demo import open_instance

    version = _registry(agent).rollback(agent, to)  # first, so that a broken history of Dagster keeps nobody waiting
    with open_instance() as instance:
        report_rollback(load_project(), instance, agent, version)
    print(f"{agent} is served by {version} now.")


@champion_app.command("pin")
def champion_pin(agent: str) -> None:
    """Keep the present champion whatever the gate says."""
    _registry(agent).pin(agent)


@champion_app.command("unpin")
def champion_unpin(agent: str) -> None:
    """Let the gate act again."""
    _registry(agent).pin(agent, pinned=False)


@app.command()
def shrink(
    agent: str,
    *,
    rank: Annotated[int, typer.Option(min=1, help="At most the adapter's own.")],
    output: Annotated[Path, typer.Option(help="A new folder for the smaller adapter.")],
) -> None:
    """A copy of an agent's newest adapter at a lower rank, and in int8 for storage; says what it costs in loss."""
    from grokora_pipeline.assets.common import load_project
    from grokora_pipeline.assets.lora_adapter import shrink_adapter

    if output.exists():
        raise GrokoraError(f"{output} exists; give a new folder, so that nothing of yours is overwritten.")
    figures = shrink_adapter(load_project(), agent, rank, output.absolute())
    for name, size in (("before", "bytes_before"), ("after", "bytes"), ("int8", "bytes_int8")):
        loss = figures[f"validation_loss_{name}"]
        print(f"{name:>6}: {figures[size] / 2**20:8.2f} MiB, validation loss {loss:.4f}")


@app.command()
def retention(
    agent: str, *, rows: Annotated[int, typer.Option(min=0, help="Held-out rows of each at most; 0: all.")] = 100
) -> None:
    """What an agent's champion still can of what its earlier champions could, on the rows that each held out."""
    from grokora_pipeline.assets.common import load_project
    from grokora_pipeline.assets.retention import retention as measure

    project = load_project()
    table = measure(project, find_agent(project.agents, agent), rows)
    for row in table:
        kept = f"{row['kept']:.0%} kept" if row["kept"] is not None else "it scored 0 itself"
        print(f"{row['champion'][:12]}: {row['then']:.3f} then, {row['now']:.3f} now on {row['rows']} rows, {kept}")
    if not table:
        print(f"{agent} has had no other champion that the store still holds.")


@app.command()
def fits(
    base: Annotated[str, typer.Argument(help="A model folder, a config.json, or org/name on the hub.")],
    *,
    memory: Annotated[float, typer.Option(min=0.5, help="GiB of the GPU.")] = 8.0,
    max_length: Annotated[int, typer.Option(min=16, help="Tokens of the longest row.")] = 2048,
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Of all rows and epochs; 1,000 rows of 512, three times.")] = (
        1_536_000
    ),
    tokens_per_second: Annotated[float, typer.Option(min=1, help="Of the GPU you think of; measure yours.")] = 2_000,
    dollars_an_hour: Annotated[float, typer.Option(min=0, help="Of that GPU.")] = 0.5,
) -> None:
    """Whether a base trains in so much GPU memory: peak by part, batch, hours and dollars, without its weights."""
    from grokora_pipeline.training.fits import report
    from grokora_pipeline.training.plan import resolve_knobs

    knobs = resolve_knobs("best", {"max_length": max_length, "rank": rank})
    figures = report(base, knobs, memory_gib=memory, tokens=tokens, rate=tokens_per_second, price=dollars_an_hour)
    for line in figures.pop("sentences"):
        print(line)
    if not figures["fits"]:
        raise typer.Exit(1)


@app.command()
def trace(query: Annotated[str, typer.Argument(help="A turn id, a session id, or a log file.")]) -> None:
    """Where a turn came from, and every dataset and adapter that holds it or learnt from it."""
    _show_uses(query)


@app.command()
def forget(query: Annotated[str, typer.Argument(help="A session id or a log file.")]) -> None:
    """Leave a session or a log file out of all future datasets; the log itself is never changed."""
    from grokora_pipeline.datasets import lineage

    name = _show_uses(query)
    if not name:
        raise GrokoraError(f"{query} is a single turn; forget the session or the log file that it came from.")
    store = Store.of(get_settings())
    if lineage.forget(store, name, lineage.other_names(store.require("session_logs").path, name)):
        print(f"{name} is forgotten from the next run on: its datasets, and the adapters above, are out of date.")
    else:
        print(f"{name} was forgotten before.")


def _show_uses(query: str) -> str:
    """Print where the turns of a query come from and what holds them; returns what may be forgotten, "" for a turn."""
    from grokora_pipeline.datasets import lineage

    settings = get_settings()
    names = [spec.name for spec in load_agents(settings.agents)]
    name, turns, uses = lineage.trace(Store.of(settings), names, query, settings.logs)
    for turn in turns:
        where = f"{turn['source_file']}:{turn['line']}"
        print(f"{turn['turn_id'][:16]}  {turn['agent'] or '-'}  {where}  sha256 {turn['source_sha256'][:16]}")
    for use in uses:
        served = "  (in service)" if use.in_service else ""
        print(f"{use.agent}/{use.asset} {use.version}: {counted(use.examples, 'example')} in {use.side}{served}")
    return name


def _registry(agent: str) -> Registry:
    """The champions of the store; GrokoraError if agents.yaml has no such agent."""
    find_agent(load_agents(get_settings().agents), agent)
    return Registry(Store.of(get_settings()))


def main() -> None:
    """The entry point: a person's mistake, or a file that cannot be used, is one sentence on stderr and status 2."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        # One that was closed (`>&-`, some schedulers) is None. The next file that is opened would get its number, and
        # what a child prints would go into that file, such as Dagster's database.
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that has no arrow shows a question mark instead, and what reads a pipe sees each line at once
            stream.reconfigure(errors="replace", line_buffering=True)
    try:
        app()
    except GrokoraError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        sentence = disk_refusal(error)
        if error.filename and not sentence:
            reason = error.strerror or type(error).__name__
            sentence = f"{error.filename}: {reason}; look at its path, and run the same command again."
        if sentence:
            print(f"error: {sentence}", file=sys.stderr)
            raise SystemExit(2) from None
        if error.errno not in {errno.EIO, errno.EPIPE}:
            raise
        # nobody reads any more: the terminal was closed, or `| head` ended. What Python flushes at the end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
