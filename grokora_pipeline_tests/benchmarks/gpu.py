"""What QLoRA costs on this GPU: `python -m grokora_pipeline_tests.benchmarks.gpu [--shapes 1b 3b 8b] [--tiny]`.

Models have the shapes of Llama 3 and random weights: speed and memory are those of the real ones. Prints JSON:

- `table`: NF4, rank 16, preset `best`, 512-token sequences, effective batch 16, the default cap of 8 GiB
- `ladder`: one switch after the other, each kept, on rows of 64 to 512 tokens of the first shape, without a cap
- `shared_prefixes`: padded rows against trees, on sessions of 6 steps behind 500 shared tokens

Tokens a second are those of the median step (the first ones compile). `mfu` is model FLOPs (4 a base weight and token:
frozen weights need no gradient; 6 an adapter weight; attention 12 x layers x width x length / 2) over what a large bf16
matmul reaches on this device (`matmul_tflops`). `--tiny` proves that the script works, on a CPU as well.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict

from grokora_pipeline_tests.tiny import tiny_tokenizer

STOP, ROWS_A_STEP = 2, 16
Tokens = list[int]


@dataclass(frozen=True)
class Shape:
    """A Llama's config: width, MLP, layers, query and key heads, head size, vocabulary, tied embeddings.

    It is measured on rows of `length` tokens for so many `steps`.
    """

    hidden: int
    mlp: int
    layers: int
    heads: int
    key_heads: int
    head: int
    vocabulary: int = 128_256
    tied: bool = True
    length: int = 512
    steps: int = 12


SHAPES = {
    "tiny": Shape(64, 128, 2, 4, 2, 16, 512, length=64, steps=2),
    "1b": Shape(2048, 8192, 16, 32, 8, 64),
    "3b": Shape(3072, 8192, 28, 24, 8, 128),
    "8b": Shape(4096, 14336, 32, 32, 8, 128, tied=False),
}
# Each switch stays on for the rungs below it.
PLAIN = {"quantisation": "none", "packing": "padded", "optimizer": "adamw", "loss_chunk": 0, "checkpointing": "on"}
LADDER: list[tuple[str, dict[str, Any]]] = [
    ("bf16, padded rows of like length, AdamW, checkpointing, all logits", PLAIN | {"attention": "sdpa"}),
    ("NF4 with double quantisation", {"quantisation": "nf4"}),
    ("loss over 256 tokens' logits at a time", {"loss_chunk": 256}),
    ("paged 8-bit AdamW", {"optimizer": "paged_adamw_8bit"}),
    ("checkpointing only where memory needs it", {"checkpointing": "auto"}),
    ("flash attention, where the package is there", {"attention": "auto"}),
    ("torch.compile", {"compile": True}),
]
ONLY_CUDA = {"optimizer": "paged_adamw_8bit", "compile": True}


def write_base(folder: Path, shape: Shape) -> Path:
    """A model folder of this shape with random bf16 weights, made on the GPU where there is room."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.head,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
        bos_token_id=1,
        eos_token_id=STOP,
        pad_token_id=STOP,
        tie_word_embeddings=shape.tied,
        dtype="bfloat16",
    )
    torch.manual_seed(7)
    torch.set_default_dtype(torch.bfloat16)
    roomy = torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 24 * 2**30
    with torch.device("cuda" if roomy else "cpu"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="4GB")
    del model
    if roomy:
        torch.cuda.empty_cache()
    return folder


def rows_of(lengths: list[int], vocabulary: int, seed: int, shared: Tokens | None = None) -> list[dict[str, Any]]:
    """Rows of random tokens behind `shared`; the last quarter of each carries the loss."""
    chooser = random.Random(seed)
    rows = []
    for number, length in enumerate(lengths):
        ids = [*(shared or []), *(chooser.randrange(3, vocabulary) for _ in range(length - 1)), STOP]
        labelled = max(1, length // 4)
        mask = [0] * (len(ids) - labelled) + [1] * labelled
        rows.append(
            {"input_ids": ids, "completion_mask": mask, "turn_id": "", "group": f"s{seed}.{number}", "weight": 1.0}
        )
    return rows


def sessions(count: int, shape: Shape) -> list[dict[str, Any]]:
    """Sessions of 6 steps of about 100 tokens; each step repeats all before it, and all share 500 tokens."""
    chooser, vocabulary, step = random.Random(3), shape.vocabulary, shape.length // 5
    system = [chooser.randrange(3, vocabulary) for _ in range(shape.length)]
    rows = []
    for number in range(count):
        history = list(system)
        for _ in range(6):
            (row,) = rows_of([chooser.randrange(step, step + 20)], vocabulary, chooser.randrange(10**9), history)
            rows.append({**row, "group": f"session {number}"})
            history = row["input_ids"]
    return rows


def write_split(folder: Path, train: list[dict[str, Any]]) -> Path:
    """A tokenized split whose validation side is its first two rows: nothing is judged by it here."""
    DatasetDict({"train": Dataset.from_list(train), "validation": Dataset.from_list(train[:2])}).save_to_disk(
        str(folder)
    )
    return folder


def measure(folder: Path, base: Path, split: Path, **knobs: Any) -> dict[str, Any]:
    """Train by the real worker for a few steps; its record, or what it said went wrong."""
    folder.mkdir(parents=True)
    fixed = {"preset": "best", "max_length": 8192, "num_processes": 1, "epochs": 1000.0}
    plan = {"base": str(base), "split": str(split), "output": str(folder / "adapter"), "knobs": fixed | knobs}
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "grokora_pipeline.training", str(folder / "plan.json")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        return {"failed": answer.stderr.strip().splitlines()[-1][-300:]}
    record: dict[str, Any] = json.loads((folder / "adapter" / "training.json").read_text())
    return record


def figures(record: dict[str, Any], tokens_a_step: float) -> dict[str, Any]:
    """What of a record goes into a table."""
    if "failed" in record:
        return record
    names = ("layout", "attention", "token_budget", "out_of_memory_halvings", "quantisation")
    return {
        "tokens_per_second": round(tokens_a_step / record["median_step_seconds"], 1),
        "peak_reserved_gib": round(record["peak_memory_mib"] / 1024, 2),
        "predicted_gib": round(record["predicted_memory_mib"] / 1024, 2),
        "checkpointing": record["budget"]["checkpointing"],
        "exact": record["self_test"]["exact"],
        **{name: record[name] for name in names},
    }


def utilisation(record: dict[str, Any], shape: Shape, tokens_per_second: float, matmul_tflops: float) -> float:
    """Model FLOPs a second over what a matmul reaches (see the module's text); a quarter of the tokens has logits."""
    attention = shape.heads * shape.head
    layer = shape.hidden * (2 * attention + 2 * shape.key_heads * shape.head + 3 * shape.mlp)
    base = shape.layers * layer + shape.vocabulary * shape.hidden / 4
    token: float = 4 * base + 6 * record["trainable_parameters"] + 12 * shape.layers * attention * shape.length / 2
    return token * tokens_per_second / 1e12 / matmul_tflops


def matmul_tflops(size: int) -> float:
    """TFLOP/s of a bf16 matmul of this size, the best of ten."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    best = 0.0
    for _ in range(10):
        started = time.perf_counter()
        (left @ left).sum().item()  # waits for the device
        best = max(best, 2 * size**3 / (time.perf_counter() - started) / 1e12)
    return best


def main_row(folder: Path, base: Path, name: str, matmul: float) -> dict[str, Any]:
    """One shape as the README states it."""
    shape = SHAPES[name]
    split = write_split(folder / "split", rows_of([shape.length] * 64, shape.vocabulary, 1))
    record = measure(folder / "run", base, split, packing="padded", quantisation="nf4", max_steps=shape.steps)
    found = figures(record, ROWS_A_STEP * shape.length)
    if "failed" not in found:
        found["hours_for_1000_x_3_x_512"] = round(1000 * 3 * 512 / found["tokens_per_second"] / 3600, 3)
        found["mfu"] = round(utilisation(record, shape, found["tokens_per_second"], matmul), 3)
    return {"shape": name, **found}


def ladder(folder: Path, base: Path, shape: Shape, roomy: float) -> list[dict[str, Any]]:
    """One switch at a time."""
    chooser = random.Random(2)
    lengths = [chooser.randrange(shape.length // 8, shape.length + 1) for _ in range(128)]
    split = write_split(folder / "split", rows_of(lengths, shape.vocabulary, 2))
    knobs: dict[str, Any] = {"memory_gib": roomy, "max_steps": shape.steps}
    found = []
    for number, (title, switch) in enumerate(LADDER):
        if not torch.cuda.is_available() and switch.items() & ONLY_CUDA.items():
            found.append({"switch": title, "failed": "needs CUDA"})
            continue
        knobs |= switch
        record = measure(folder / f"rung {number}", base, split, **knobs)
        found.append({"switch": title, **figures(record, ROWS_A_STEP * sum(lengths) / len(lengths))})
    return found


def shared_prefixes(folder: Path, base: Path, shape: Shape, roomy: float) -> list[dict[str, Any]]:
    """Rows against trees: real tokens count in every row they belong to."""
    rows = sessions(8, shape)
    split = write_split(folder / "split", rows)
    tokens = 24 * sum(len(row["input_ids"]) for row in rows) / len(rows)
    knobs = {"batch_size": 24, "memory_gib": roomy, "max_steps": shape.steps}
    kinds: tuple[str, ...] = ("padded", "tree")
    return [
        {"packing": kind, **figures(measure(folder / kind, base, split, **knobs, packing=kind), tokens)}
        for kind in kinds
    ]


def run(names: list[str], folder: Path) -> dict[str, Any]:
    """Everything, on the shapes named."""
    from importlib import metadata

    cuda = torch.cuda.is_available()
    matmul = matmul_tflops(8192 if cuda else 512)
    roomy = 0.9 * torch.cuda.mem_get_info()[1] / 2**30 if cuda else 6.0
    table, more = [], dict[str, Any]()
    for name in names:
        home = folder / name
        base = write_base(home / "base", SHAPES[name])
        table.append(main_row(home / "main", base, name, matmul))
        if name == names[0]:
            more["ladder"] = ladder(home / "ladder", base, SHAPES[name], roomy)
            more["shared_prefixes"] = shared_prefixes(home / "shared", base, SHAPES[name], roomy)
        for weights in (home / "base").glob("*.safetensors"):
            weights.unlink()
    libraries = ("torch", "transformers", "trl", "peft", "bitsandbytes")
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: metadata.version(name) for name in libraries},
        "matmul_tflops": round(matmul, 2),
        "table": table,
        **more,
    }


def main() -> None:
    """Parse the command line and print the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES], default=["1b", "3b", "8b"])
    parser.add_argument("--tiny", action="store_true", help="A tiny shape: does the script work?")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        raise SystemExit("This benchmark needs a CUDA GPU; --tiny shows that it works without one.")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(["tiny"] if arguments.tiny else arguments.shapes, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
