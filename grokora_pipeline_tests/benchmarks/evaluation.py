"""How fast evaluation generates: our batches against a plain script, on the same rows; prints one JSON line.

    python -m grokora_pipeline_tests.benchmarks.evaluation [--base DIR] [--adapter DIR] [--rows 48] [--dtype float32]

The rows are what the sandbox's coordinator, observer and validator are asked, with the experts' answers. `baseline` is
`../shared/bench/seed_baseline.py generate` in a process of its own, tokens per second as it reports them; `ours` counts
the same tokens (a stop token is one) on the same number of threads. `identical_share` compares our answers with
`model.generate` row by row in the same dtype. Without `--base` the bundled model is exported first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from grokora_pipeline.sandbox.swarm import AgentCall, expert_answer, run_swarm
from grokora_pipeline.sandbox.tasks import sample_tasks

SEED_BASELINE = Path(__file__).resolve().parents[2].parent / "shared" / "bench" / "seed_baseline.py"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--max-new-tokens", type=int, default=100)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="grokora-evaluation-") as name:
        print(json.dumps(measure(Path(name), arguments)))


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures; tokens per second on both sides."""
    base = _in_dtype(arguments.base, folder / "base", arguments.dtype)
    rows = sandbox_rows(arguments.rows)
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--base", str(base), "--data", str(data), "--rows", str(len(rows))]
    options += ["--max-new-tokens", str(arguments.max_new_tokens)]
    options += ["--adapter", str(arguments.adapter)] if arguments.adapter else []
    printed = subprocess.run(
        [sys.executable, str(SEED_BASELINE), "generate", *options], check=True, capture_output=True, text=True
    )
    baseline = json.loads(printed.stdout.strip().splitlines()[-1])
    ours = _ours(base, arguments, rows)
    return {
        "what": "evaluation.generate",
        "dtype": arguments.dtype,
        "rows": len(rows),
        "ours": ours["tokens_per_second"],
        "baseline": baseline["tokens_per_second"],
        "ratio": round(ours["tokens_per_second"] / baseline["tokens_per_second"], 2),
        "identical_share": ours["identical_share"],
        "threads": ours["threads"],
    }


def sandbox_rows(count: int) -> list[dict[str, Any]]:
    """Distinct questions of the roles that call no tools, with the experts' answers."""
    rows: dict[str, dict[str, Any]] = {}

    def answer(calls: Any) -> Any:
        messages = expert_answer(calls)
        for call, message in zip(calls, messages, strict=True):
            _collect(rows, call, message)
        return messages

    run_swarm(sample_tasks(7, count), answer)
    return list(rows.values())[:count]


def _collect(rows: dict[str, dict[str, Any]], call: AgentCall, message: dict[str, Any]) -> None:
    if not call.tools:
        rows[json.dumps(call.messages)] = {"prompt": call.messages, "completion": [message]}


def _in_dtype(base: Path | None, folder: Path, dtype: str) -> Path:
    """A copy of the base model whose weights are stored in the dtype, since the plain script runs in what it finds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from grokora_pipeline.models.export import export_bundled

    if base is None:
        base = folder.with_name("bundled")
        export_bundled(base)
    AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def _ours(base: Path, arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    from grokora_pipeline.models.chat import ChatFormat
    from grokora_pipeline.models.loading import load_adapter, load_base
    from grokora_pipeline.serving.engine.decoder import Decoder
    from grokora_pipeline.serving.engine.request import GenerationRequest

    chat = ChatFormat.load(base)
    model: Any = load_base(base, dtype=getattr(torch, arguments.dtype))
    if arguments.adapter:
        model = load_adapter(model, arguments.adapter).merge_and_unload()
    prompts = [chat.encode_prompt(row["prompt"]) for row in rows]
    decoder = Decoder(model, chat)
    started = time.perf_counter()
    requests = [GenerationRequest(tuple(prompt), None, arguments.max_new_tokens) for prompt in prompts]
    answers = decoder.generate(requests)
    seconds = time.perf_counter() - started
    made = sum(len(one.tokens) + (one.finish == "stop") for one in answers)
    same = sum(
        _alone(model, prompt, chat.stop_ids, arguments.max_new_tokens) == one.tokens
        for prompt, one in zip(prompts, answers, strict=True)
    )
    return {
        "tokens_per_second": round(made / seconds, 1),
        "identical_share": round(same / len(rows), 4),
        "threads": torch.get_num_threads(),
    }


def _alone(model: Any, prompt: list[int], stop_ids: tuple[int, ...], new_tokens: int) -> list[int]:
    """The answer of `model.generate` to one row, without its stop token."""
    import torch

    ids = torch.tensor([prompt], device=model.device)
    options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": list(stop_ids)}
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=stop_ids[0], **options)
    made: list[int] = out[0, len(prompt) :].tolist()
    return next((made[:place] for place, token in enumerate(made) if token in stop_ids), made)


if __name__ == "__main__":
    main()
