"""How fast examples are clustered and split: generates alike examples, divides them, and prints one JSON line.

    python -m grokora_pipeline_tests.benchmarks.split [ROWS] [--kind prompt|groups|copies]

Every row is about 300 words and a session of its own. `prompt`: all rows share all words but thirty. `groups`: twenty
groups of near duplicates. `copies`: all rows are near duplicates of one another. `cluster_seconds` is the part of
`task_dataset`, `split_seconds` that of `tokenized_split`, its check included; `rows_per_second` is over both.
`cpu_seconds` depends less than the others on what else the machine does.
"""

import argparse
import random
import resource
import time
from collections.abc import Callable
from typing import Any

import orjson

from grokora_pipeline.datasets import duplicates
from grokora_pipeline.datasets.example import Example, ExampleMeta
from grokora_pipeline.datasets.examples import near_places
from grokora_pipeline.datasets.split import SplitOptions, split_examples, straddling

THRESHOLD = 0.9
WORDS = [f"word{n}" for n in range(3000)]


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int, nargs="?", default=100_000)
    parser.add_argument("--kind", choices=sorted(KINDS), default="prompt")
    arguments = parser.parse_args()
    print(orjson.dumps(measure(arguments.rows, arguments.kind)).decode())


def measure(rows: int, kind: str) -> dict[str, Any]:
    """Seconds and peak memory of clustering and splitting `rows` examples; raises if anything straddles."""
    examples = sorted((example(number, text) for number, text in enumerate(KINDS[kind](rows))), key=lambda one: one.id)
    start, cpu = time.perf_counter(), time.process_time()
    places = near_places(examples, THRESHOLD)
    representatives = duplicates.clusters(places, rows)
    for one, first in zip(examples, representatives, strict=True):
        one.meta["cluster"] = examples[first].id[:16]
    clustered = time.perf_counter()
    pairs = [(examples[first].id, examples[second].id) for first, second in places.tolist()]
    split = split_examples(examples, SplitOptions(), pairs)
    if leaks := straddling(examples, split.sides, pairs, split.divided_keys):
        raise AssertionError(f"{len(leaks)} things are on both sides, the first: {leaks[0]}")
    end, cpu_end = time.perf_counter(), time.process_time()
    return {
        "rows": rows,
        "kind": kind,
        "seconds": round(end - start, 2),
        "cluster_seconds": round(clustered - start, 2),
        "split_seconds": round(end - clustered, 2),
        "cpu_seconds": round(cpu_end - cpu, 2),
        "rows_per_second": round(rows / (end - start)),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "megabytes": round(sum(len(one.text) for one in examples) / 1e6, 1),
        "clusters": len(set(representatives)),
        "validation_share": round(split.validation_share, 4),
        "held_back": len(split.held_back),
        "divided": len(split.divided),
    }


def example(number: int, text: str) -> Example:
    """One example, a session of its own."""
    prompt, answer = [{"role": "user", "content": text}], {"role": "assistant", "content": "ok"}
    meta = ExampleMeta(
        example_id=duplicates.example_id(prompt, answer), session_id=f"s{number}", step=0, status="success"
    )
    return Example(prompt, [answer], None, meta)


def prompts(rows: int) -> list[str]:
    """All rows share 270 words and have thirty of their own."""
    generator = random.Random(7)
    shared = " ".join(generator.choices(WORDS, k=270))
    return [f"{shared} {' '.join(generator.choices(WORDS, k=30))}" for _ in range(rows)]


def groups(rows: int) -> list[str]:
    """Twenty texts of 300 words, each repeated with another last word."""
    generator = random.Random(7)
    texts = [" ".join(generator.choices(WORDS, k=300)) for _ in range(20)]
    return [f"{texts[number % 20]} end{number}" for number in range(rows)]


def copies(rows: int) -> list[str]:
    """One text of 300 words, repeated with two words put elsewhere."""
    generator = random.Random(7)
    text = generator.choices(WORDS, k=300)
    places = [(generator.randrange(300), generator.randrange(300)) for _ in range(rows)]
    return [
        " ".join(f"x{number}" if at in pair else word for at, word in enumerate(text))
        for number, pair in enumerate(places)
    ]


KINDS: dict[str, Callable[[int], list[str]]] = {"prompt": prompts, "groups": groups, "copies": copies}

if __name__ == "__main__":
    main()
