"""`grokora export` and `grokora probe`: a champion for another engine, and the proof that it acts there."""

import subprocess
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from grokora_pipeline.agents import load_agents
from grokora_pipeline.assets.common import base_folder, read_json
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.settings import get_settings
from grokora_pipeline.store import Artifact, Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline.workers.frame import result_file

_NEW_TOKENS = 64
Prompts = Annotated[int, typer.Option(min=1, help="Held-out prompts, each asked with the adapter on and off.")]


class Target(StrEnum):
    """Engines that a champion can be exported to."""

    gguf = "gguf"
    ollama = "ollama"
    vllm = "vllm"
    mlx = "mlx"
    peft = "peft"


class Kind(StrEnum):
    """How the base's weights are written in a GGUF file."""

    f32 = "f32"
    bf16 = "bf16"
    q8_0 = "q8_0"
    q4_0 = "q4_0"


def export(
    agent: str,
    *,
    to: Annotated[Target, typer.Option(help="The engine.")],
    output: Annotated[Path | None, typer.Option(help="A new folder; <agent>-<engine> here by default.")] = None,
    kind: Annotated[Kind, typer.Option(help="Of the base's weights in a GGUF file.")] = Kind.bf16,
) -> None:
    """Write an agent's champion for another engine, with its template and the command to run it."""
    store, champion = _champion(agent)
    folder = (output or Path(f"{agent}-{to}")).absolute()
    if folder.exists():
        raise GrokoraError(f"{folder} exists; give a new folder with --output, so that nothing of yours is lost.")
    base = store.require("base_model")
    record = read_json(base.path / "base_model.json")
    plan = {
        **{"agent": agent, "base": str(base_folder(base.path).resolve()), "adapter": str(champion.path.resolve())},
        **{"model_id": record["model_id"], "licence": record["licence"], "target": to.value, "kind": kind.value},
        "prompts": _held_out(store, agent, 0),
        "evidence": str((Registry(store).record(agent) or {}).get("reason") or "set by hand"),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".grokora-export-") as place:
        file, staged = Path(place) / "plan.json", Path(place) / "export"
        file.write_bytes(orjson.dumps({**plan, "output": str(staged)}))
        command = [sys.executable, "-m", "grokora_pipeline.models.handover", str(file)]
        done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        outcome = read_json(result_file(file)) if result_file(file).is_file() else {}
        if done.returncode:
            raise GrokoraError(outcome.get("error") or f"The export broke off: {done.stderr.strip()[-300:]}")
        staged.rename(folder)
    console = Console(width=None if Console().is_terminal else 160)
    console.print(f"{folder}: {outcome['bytes'] / 2**20:.1f} MiB. To run it, in that folder:", highlight=False)
    console.print(outcome["command"], highlight=False, soft_wrap=True)


def probe(
    base_url: Annotated[str, typer.Argument(help="The server, as http://127.0.0.1:8080.")],
    agent: str,
    *,
    prompts: Prompts = 20,
    model: Annotated[str, typer.Option(help="Its name of the champion, if it is not the agent's.")] = "",
    base_model: Annotated[str, typer.Option(help="Its name of the base without the adapter.")] = "",
    new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer, at most.")] = _NEW_TOKENS,
) -> None:
    """Prove that a champion acts on a server: held-out prompts, adapter on and off, against our own greedy answers."""
    from grokora_pipeline.serving.probe import Server
    from grokora_pipeline.serving.probe import probe as ask

    store, champion = _champion(agent)
    settings = get_settings()
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    server = Server(base_url, agent, model=model, base_model=base_model, key=key)
    base = base_folder(store.require("base_model").path)
    chat, answers = own_answers(base, champion.path, _held_out(store, agent, prompts), new_tokens)
    verdict = ask(server, chat, answers, new_tokens)
    print(verdict.sentence)
    if not verdict.agrees:
        raise typer.Exit(1)


def own_answers(
    base: Path, adapter: Path, prompts: list[dict[str, Any]], new_tokens: int, dtype: Any = None
) -> tuple[Any, list[Any]]:
    """(the base's ChatFormat, our engine's greedy answers to each prompt with the adapter on and off).

    `dtype` is a torch dtype, by default the gateway's own.
    """
    from grokora_pipeline.serving.engine.decoder import Decoder
    from grokora_pipeline.serving.engine.request import GenerationRequest
    from grokora_pipeline.serving.probe import Answers

    decoder = Decoder.load(base, dtype=dtype)
    decoder.add_adapter("champion", adapter)
    chat = decoder.chat
    ids = [tuple(chat.encode_prompt(entry["prompt"], entry["tools"])) for entry in prompts]
    requests = [GenerationRequest(row, name, new_tokens) for row in ids for name in ("champion", None)]
    texts = [chat.decode(completion.tokens) for completion in decoder.generate(requests)]
    pairs = zip(prompts, texts[::2], texts[1::2], strict=True)
    return chat, [Answers(entry["prompt"], entry["tools"], on, off) for entry, on, off in pairs]


def _champion(agent: str) -> tuple[Store, Artifact]:
    settings = get_settings()
    names = [spec.name for spec in load_agents(settings.agents)]
    if agent not in names:
        raise GrokoraError(f"There is no agent {agent!r}; agents.yaml has {', '.join(names)}.")
    store = Store(settings.store, settings.cache)
    champion = Registry(store).in_service(agent)
    if champion is None:
        raise GrokoraError(f"{agent} has no champion that is an adapter; `grokora champion history {agent}` says why.")
    return store, champion


def _held_out(store: Store, agent: str, most: int) -> list[dict[str, Any]]:
    """At most so many held-out prompts (0: all) of the agent's present split."""
    from grokora_pipeline.evaluation.plan import choose_rows, read_examples, turn_ids

    split, dataset = store.require(f"{agent}/tokenized_split"), store.require(f"{agent}/task_dataset")
    rows = set(choose_rows(turn_ids(split.path, "validation"), most))
    examples = read_examples(dataset.path / "examples.jsonl")
    held_out = [
        {"prompt": row["prompt"], "tools": row.get("tools")} for row in examples if row["meta"]["turn_id"] in rows
    ]
    if not held_out:
        raise GrokoraError(f"{agent} has no held-out prompts to compare answers on; materialize tokenized_split.")
    return held_out
