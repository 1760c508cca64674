"""Training speed, honestly measured: `python -m grokora_pipeline_tests.benchmarks.training [--logs sample|agent]`.

`sample`: the plain script a user would write (`../shared/bench/seed_baseline.py`, or --baseline) against ours, on the
same rows, base model and threads, one after the other. `agent`: conversations with a long system prompt, tools and 6
steps a session, our prefix tree against our own padded rows. Prints one JSON line. Real tokens are those of
every row: padding is not counted, a shared prefix counts in every row.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.training.tokenize import load_split, tokenize_split

SEED_BASELINE = Path(__file__).resolve().parents[2].parent / "shared" / "bench" / "seed_baseline.py"
BUTTONS = ("Save", "Open", "Close", "Delete", "Copy", "Paste", "Rename", "Print", "Undo", "Search", "Help", "Quit")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"{verb}_{noun}",
            "description": f"{verb.capitalize()} a {noun} of the desktop and report its path, size and what changed.",
            "parameters": {"type": "object", "properties": {"target": {"type": "string"}}, "required": ["target"]},
        },
    }
    for verb in ("open", "close", "read")
    for noun in ("window", "file", "folder", "message")
]


def screen(chooser: random.Random) -> tuple[str, str, list[int]]:
    """(what the screen shows, the button that is wanted, where it is)."""
    names = chooser.sample(BUTTONS, 4)
    places = [[chooser.randrange(1200), chooser.randrange(700)] for _ in names]
    wanted = chooser.randrange(4)
    shown = "\n".join(f'- button "{name}" at ({x}, {y})' for name, (x, y) in zip(names, places, strict=True))
    return shown, names[wanted], places[wanted]


def click(place: list[int]) -> dict[str, Any]:
    """The answer that clicks a place."""
    arguments = {"action": "left_click", "coordinate": place}
    return {"role": "assistant", "content": json.dumps({"name": "computer", "arguments": arguments})}


def sample_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Single calls: about 200 tokens each, a third of which is the system prompt."""
    chooser = random.Random(seed)
    system = {
        "role": "system",
        "content": "You are the actor of a desktop swarm. You get a subtask and an observation of the screen, and you "
        "answer with exactly one tool call, as JSON with name and arguments. Click the middle of the named element.",
    }
    rows = []
    for number in range(count):
        shown, wanted, place = screen(chooser)
        user = {"role": "user", "content": f"Subtask: click {wanted}.\nScreen:\n{shown}"}
        rows.append({"prompt": [system, user], "completion": [click(place)], "meta": {"session_id": f"s{number}"}})
    return rows


def agent_rows(sessions: int, seed: int, steps: int = 6) -> list[dict[str, Any]]:
    """Sessions of `steps` calls, each of which repeats the system prompt, the tools and all steps before it."""
    chooser = random.Random(seed)
    system = {"role": "system", "content": "You are the actor of a desktop swarm. Answer with one tool call. " * 8}
    rows = []
    for number in range(sessions):
        history: list[dict[str, Any]] = [system]
        for _ in range(steps):
            shown, wanted, place = screen(chooser)
            history.append({"role": "user", "content": f"Subtask: click {wanted}.\nScreen:\n{shown}"})
            meta = {"session_id": f"s{number}"}
            rows.append({"prompt": list(history), "completion": [click(place)], "tools": TOOLS, "meta": meta})
            history.append(click(place))
    return rows


def run_json(command: list[str]) -> dict[str, Any]:
    """The last line of a command's output as JSON."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{answer.stderr[-3000:]}")
    document: dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
    return document


def ours(folder: Path, base: Path, split: Path, threads: int, knobs: dict[str, Any]) -> dict[str, Any]:
    """Train by our worker and report its figures."""
    folder.mkdir()
    plan = {"base": str(base), "split": str(split), "output": str(folder / "adapter"), "knobs": knobs}
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "grokora_pipeline.training", str(folder / "plan.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if answer.returncode:
        raise SystemExit(answer.stderr[-3000:])
    record = json.loads((folder / "adapter" / "training.json").read_text())
    return {
        "tokens_per_second": record["tokens_per_second"],
        "real_tokens": record["real_tokens"],
        "computed_tokens": record["computed_tokens"],
        "seconds": record["train_seconds"],
        "peak_rss_mib": record["peak_memory_mib"],
        "predicted_mib": record["predicted_memory_mib"],
        "validation_loss": record["validation_loss"],
        "layout": record["layout"],
        "token_budget": record["token_budget"],
        "steps": record["steps"],
    }


def baseline(script: Path, base: Path, rows: Path, out: Path, split: Path, *, threads: int) -> dict[str, Any]:
    """Train by the plain script for one epoch; its adapter's validation loss is taken by our code, on our rows."""
    command = [sys.executable, str(script), "train", "--base", str(base), "--data", str(rows), "--out", str(out)]
    figures = run_json([*command, "--epochs", "1", "--threads", str(threads)])
    module = "grokora_pipeline_tests.benchmarks.training"
    loss = run_json([sys.executable, "-m", module, "--validate", str(base), str(out), str(split)])
    return {**figures, **loss}


def validate(base: Path, adapter: Path, split: Path) -> dict[str, float]:
    """Validation loss of an adapter, in nats a weighted label token."""
    from grokora_pipeline.models.loading import load_adapter, load_base
    from grokora_pipeline.training.gradients import TreeLoss
    from grokora_pipeline.training.layout import Layout

    rows = load_split(split)[1]
    model = load_adapter(load_base(base), adapter).float()
    layout = Layout("padded", 1024)
    total = float(TreeLoss(model.get_base_model(), layout).run(layout.of(rows)))
    return {"validation_loss": total / sum(sum(row.weights) for row in rows)}


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides of the chosen comparison."""
    agent = arguments.logs == "agent"
    rows = agent_rows(arguments.sessions, 5) if agent else sample_rows(arguments.rows, 5)
    held_out = agent_rows(2, 6) if agent else sample_rows(24, 6)
    sides = ["train"] * len(rows) + ["validation"] * len(held_out)
    chat = ChatFormat.load(arguments.base)
    report = tokenize_split([*rows, *held_out], sides, chat, folder / "split", max_length=8192, seed=7)
    threads, facts = arguments.threads, {"logs": arguments.logs, "threads": arguments.threads, "rows": len(rows)}
    # in every linear layer, as the table in docs/training.md: the sample's preset adapts fewer layers, which is quicker
    common = {"preset": "sample", "epochs": 1.0, "max_examples": 0, "max_length": 8192, "last_layers": 0}
    common |= {"target_modules": "all-linear", "learning_rate": 2e-3, "loraplus_lr_ratio": 1, "schedule": "cosine"}
    if agent:
        knobs = {**common, "batch_size": 24, "max_validation": 4}
        found = {
            kind: ours(folder / kind, arguments.base, folder / "split", threads, {**knobs, "packing": kind})
            for kind in arguments.layouts
        }
        first, last = (found[kind]["tokens_per_second"] for kind in (arguments.layouts[0], arguments.layouts[-1]))
        return {**facts, "longest": report.longest, **found, "ratio": round(first / last, 2)}
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps({k: row[k] for k in ("prompt", "completion")}) + "\n" for row in rows))
    knobs = {**common, "batch_size": 16}  # as the script's 4 x 4
    mine = ours(folder / "ours", arguments.base, folder / "split", threads, knobs)
    theirs = baseline(arguments.baseline, arguments.base, data, folder / "seed", folder / "split", threads=threads)
    ratio = mine["tokens_per_second"] / theirs["tokens_per_second"]
    return {**facts, "ours": mine, "baseline": theirs, "ratio": round(ratio, 2)}


def main() -> None:
    """Parse the command line and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="Folder of the base model, as `base_model` writes it.")
    parser.add_argument("--logs", choices=["sample", "agent"], default="sample")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument(
        "--layouts", nargs="+", default=["tree", "padded"], help="With `agent`; ratio: the first over the last."
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--baseline", type=Path, default=SEED_BASELINE)
    parser.add_argument("--validate", type=Path, nargs=3, metavar=("BASE", "ADAPTER", "SPLIT"))
    arguments = parser.parse_args()
    if arguments.validate:
        print(json.dumps(validate(*arguments.validate)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.base is None:
            from grokora_pipeline.models.export import export_bundled

            arguments.base = Path(folder) / "base"
            export_bundled(arguments.base)
        print(json.dumps(measure(arguments, Path(folder))))


if __name__ == "__main__":
    main()
