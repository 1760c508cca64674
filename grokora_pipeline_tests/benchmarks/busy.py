"""What is left of our speed on a busy machine: `python -m grokora_pipeline_tests.benchmarks.busy [--rows 32]`.

Training and evaluation run alone, then beside two single-threaded processes of normal priority that spin, on the same
rows and threads. Prints one JSON line: `busy_share` is the lower of `training` and `evaluation`, each the tokens a
second beside the spinning processes over those alone. Without `--base` the bundled model is exported first.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.training.tokenize import tokenize_split
from grokora_pipeline.workers.frame import PASSIVE_THREADS
from grokora_pipeline_tests.benchmarks.training import ours, sample_rows


def spin() -> None:
    """Use one core for ever."""
    while True:
        pass


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many processes that spin."""
    processes = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def training_speed(folder: Path, base: Path, rows: int, threads: int) -> float:
    """Real tokens a second of the training worker."""
    examples, held_out = sample_rows(rows, 5), sample_rows(4, 6)
    sides = ["train"] * len(examples) + ["validation"] * len(held_out)
    folder.mkdir()
    chat = ChatFormat.load(base)
    tokenize_split([*examples, *held_out], sides, chat, folder / "split", max_length=8192, seed=7)
    knobs = {"preset": "sample", "batch_size": 16, "max_length": 8192, "self_test": False}
    return float(ours(folder / "run", base, folder / "split", threads, knobs)["tokens_per_second"])


def evaluation_speed(base: Path, rows: int, threads: int) -> float:
    """Generated tokens a second of evaluation, in a process with a worker's environment."""
    module = "grokora_pipeline_tests.benchmarks.busy"
    command = [sys.executable, "-m", module, "--generate", "--base", str(base), "--rows", str(rows)]
    variables = {**environment(), "OMP_NUM_THREADS": str(threads)}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if answer.returncode:
        raise SystemExit(answer.stderr[-3000:])
    return float(json.loads(answer.stdout.strip().splitlines()[-1])["tokens_per_second"])


def environment() -> dict[str, str]:
    """This process's variables and those that every worker sets before torch is imported."""
    return {**PASSIVE_THREADS, **os.environ}


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both speeds alone, then beside the spinning processes."""
    base, rows, threads = arguments.base, arguments.rows, arguments.threads
    figures: dict[str, dict[str, float]] = {}
    for name, count in (("alone", 0), ("busy", 2)):
        with spinning(count):
            figures[name] = {
                "training": training_speed(folder / name, base, rows, threads),
                "evaluation": evaluation_speed(base, rows, threads),
            }
    shares = {name: round(figures["busy"][name] / figures["alone"][name], 3) for name in figures["alone"]}
    return {"busy_share": min(shares.values()), **shares, **figures, "rows": rows, "threads": threads}


def generate(base: Path, rows: int) -> dict[str, float]:
    """Tokens a second of the decoder that evaluation generates through."""
    from grokora_pipeline.models.loading import load_base
    from grokora_pipeline.serving.engine.decoder import Decoder
    from grokora_pipeline.serving.engine.request import GenerationRequest
    from grokora_pipeline_tests.benchmarks.evaluation import sandbox_rows

    chat = ChatFormat.load(base)
    decoder = Decoder(load_base(base), chat)
    prompts = [chat.encode_prompt(row["prompt"]) for row in sandbox_rows(rows)]
    started = time.perf_counter()
    answers = decoder.generate([GenerationRequest(tuple(prompt), None, 40) for prompt in prompts])
    tokens = sum(len(answer.tokens) + (answer.finish == "stop") for answer in answers)
    return {"tokens_per_second": tokens / (time.perf_counter() - started)}


def main() -> None:
    """Parse the command line and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of the base model")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generate:
        print(json.dumps(generate(arguments.base, arguments.rows)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.base is None:
            from grokora_pipeline.models.export import export_bundled

            arguments.base = Path(temporary) / "base"
            export_bundled(arguments.base)
        print(json.dumps(measure(arguments, Path(temporary))))


if __name__ == "__main__":
    main()
