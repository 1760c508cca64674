"""`grokora export` and `grokora probe`: a champion for another engine, and the proof that it acts there."""

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from grokora_pipeline.agents import find_agent
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.workers.frame import run_alone


def export(
    agent: str,
    *,
    to: Annotated[Literal["gguf", "ollama", "vllm", "mlx", "peft"], typer.Option(help="The engine.")],
    output: Annotated[Path | None, typer.Option(help="A new folder; <agent>-<engine> here by default.")] = None,
    kind: Annotated[str, typer.Option(help="Of weights in a GGUF file: f32, bf16, q8_0 or q4_0.")] = "bf16",
    merged: Annotated[bool, typer.Option("--merged", help="One GGUF file of base and adapter.")] = False,
    prompts: Annotated[int, typer.Option(min=0, help="Held-out prompts as proof in llama.cpp, if it is here.")] = 12,
) -> None:
    """Write an agent's champion for another engine, with its template and the command to run it."""
    from grokora_pipeline.assets.common import load_project
    from grokora_pipeline.assets.export import WORKER, ExportConfig, export_plan

    project = load_project()
    config = ExportConfig(to=to, kind=kind, merged=merged, prompts=prompts)
    plan = export_plan(project, find_agent(project.agents, agent), config)
    folder = (output or Path(f"{agent}-{to}")).absolute()
    if folder.exists():
        raise GrokoraError(f"{folder} exists; give a new folder with --output, so that nothing of yours is lost.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # beside the folder that it becomes, so that one rename ends the export; torch works in a process of its own
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".grokora-export-") as temporary:
        staged = Path(temporary) / "export"
        outcome = run_alone(WORKER, {**plan, "output": str(staged)})
        staged.rename(folder)
    print(f"{folder}: {outcome['bytes'] / 2**20:.1f} MiB. {outcome['proof']}")
    print(f"To run it, in that folder:\n{outcome['command']}")


def probe(
    base_url: Annotated[str, typer.Argument(help="The server, as http://127.0.0.1:8080.")],
    agent: str,
    *,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts, each asked with the adapter on and off.")] = 20,
    model: Annotated[str, typer.Option(help="Its name of the champion, if it is not the agent's.")] = "",
    base_model: Annotated[str, typer.Option(help="Its name of the base without the adapter.")] = "",
    merged: Annotated[
        bool, typer.Option("--merged", help="It serves one model, the adapter is in its weights.")
    ] = False,
    new_tokens: Annotated[int, typer.Option(min=0, help="Of an answer at most; 0: as in evaluation.")] = 0,
) -> None:
    """Prove that a champion acts on a server: held-out prompts, adapter on and off, against our own greedy answers."""
    from grokora_pipeline.assets.common import load_project
    from grokora_pipeline.assets.export import ExportConfig, export_plan
    from grokora_pipeline.evaluation import acts
    from grokora_pipeline.models.chat import ChatFormat

    project = load_project()
    spec = find_agent(project.agents, agent)
    plan = export_plan(project, spec, ExportConfig())
    key = project.settings.api_key.get_secret_value() if project.settings.api_key else ""
    server = acts.ProbedServer(base_url, agent, model=model, base_model=base_model, key=key, merged=merged)
    base, examples = Path(plan["base"]), acts.held_out_examples(Path(plan["split"]), Path(plan["examples"]), prompts)
    chat = ChatFormat.load(base)
    limit = new_tokens or acts.answer_budget(chat, examples)
    answers = acts.own_answers(base, Path(plan["adapter"]), examples, limit)
    verdict = acts.probe(server, chat, answers, limit, judge=acts.Judge(spec.metric, spec.answer))
    print(verdict.sentence)
    if not verdict.agrees:
        raise typer.Exit(1)
