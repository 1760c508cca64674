"""`python -m grokora_pipeline.models.merge plan.json`: base + adapter in one bf16 model, checked before it is used.

Plan: {base, adapter, output, prompts: [{prompt, tools?}]}. The weights are merged in fp32 from the unquantised base and
rounded to bf16 once; what was written is loaded again and its logits compared with those of base + adapter.
"""

import gc
import shutil
import sys
from pathlib import Path
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.template import TEMPLATE_FILE
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run

PROMPT_TOKENS = 512  # the end of each prompt is compared
TOLERANCE = 0.05  # RMS difference over the logits' standard deviation: what rounding weights to bf16 makes, and more
DECIDED = 4.0  # a first choice that leads by so many RMS differences is one that rounding must not change
LEAST_DECIDED_AGREEMENT = 0.99
_WEIGHTS = ("config.json", "generation_config.json", "model.safetensors.index.json")


def merge(plan: Plan, reporter: Reporter) -> Result:
    """Write the merged model and say how far its logits are from those of base + adapter."""
    import torch
    from transformers import PreTrainedModel

    from grokora_pipeline.models.loading import choose_device, choose_dtype, load_adapter, load_base, share_cores

    base_folder, output = Path(plan["base"]), Path(plan["output"])
    if not (prompts := plan.get("prompts")):
        raise GrokoraError("The merge plan has no prompts to compare the merged model on; give at least one.")
    chat = ChatFormat.load(base_folder)
    limit = min(PROMPT_TOKENS, chat.context_length)
    ids = [chat.encode_prompt(entry["prompt"], entry.get("tools"))[-limit:] for entry in prompts]
    device = choose_device()

    def logits(model: PreTrainedModel) -> list[torch.Tensor]:
        """Logits (tokens, vocabulary) of each prompt, in fp32 on the CPU."""
        share_cores()
        with torch.inference_mode():
            rows = (torch.tensor([row], device=device) for row in ids)
            return [model(input_ids=row, use_cache=False).logits[0].float().cpu() for row in rows]

    # On a CPU in fp32, so that only the rounding of the merged weights is seen and not that of every activation.
    compute = torch.float32 if device.type == "cpu" else choose_dtype(device)
    base = load_base(base_folder, dtype=compute, device=torch.device("cpu"))
    reporter.log(f"Comparing base + adapter on {len(ids)} prompts")
    adapted = load_adapter(base, plan["adapter"]).to(device=device, dtype=compute)
    expected = logits(adapted)
    reporter.log("Merging")
    write_merged(base_folder, Path(plan["adapter"]), output)
    del adapted, base
    gc.collect()
    result = compare(expected, logits(load_base(output, dtype=compute, device=device)))
    if not result["agrees"]:
        reporter.log("The merged model does not agree with base + adapter")
    return {**result, "prompts": len(ids), "bytes": sum(path.stat().st_size for path in output.iterdir())}


def write_merged(base_folder: Path, adapter: Path, output: Path, *, dtype: Any = None) -> None:
    """Merge in fp32 on the CPU, write safetensors in `dtype` (bf16), and take the tokenizer's files from the base.

    The merged model's `generate` answers as the adapter was judged: greedily, up to the template's stop token. A base's
    own settings may sample, or punish repetition.
    """
    import torch
    from transformers import GenerationConfig

    from grokora_pipeline.models.loading import load_adapter, load_base

    base = load_base(base_folder, dtype=torch.float32, device=torch.device("cpu"))
    merged = load_adapter(base, adapter).merge_and_unload().to(dtype or torch.bfloat16)
    chat = ChatFormat.load(base_folder)
    own = {name: getattr(merged.generation_config, name) for name in ("bos_token_id", "pad_token_id")}
    merged.generation_config = GenerationConfig(eos_token_id=list(chat.stop_ids), **own)
    output.mkdir(parents=True, exist_ok=True)
    merged.save_pretrained(output)
    for pattern in ("*.json", "*.jinja", "*.model", "*.txt"):
        for path in base_folder.glob(pattern):
            if path.name not in (*_WEIGHTS, "base_model.json", TEMPLATE_FILE):
                shutil.copyfile(path, output / path.name)
    # What the adapter was trained with: any server then shows the model the same prompts.
    (output / "chat_template.jinja").write_text(chat.template, encoding="utf-8")


def compare(expected_logits: list[Any], actual_logits: list[Any]) -> dict[str, Any]:
    """How far two lists of logits [T, V] are apart: max and relative RMS difference, share of equal first choices.

    The relative difference is the RMS of the difference over the standard deviation of the expected logits.
    """
    import torch

    expected, actual = torch.cat(expected_logits), torch.cat(actual_logits)
    difference = actual - expected
    relative = float(difference.pow(2).mean().sqrt() / expected.std().clamp(min=1e-9))
    best = expected.topk(2, dim=-1)
    same = (actual.argmax(-1) == best.indices[:, 0]).float()
    decided = best.values[:, 0] - best.values[:, 1] > DECIDED * difference.pow(2).mean().sqrt()
    agreement = float(same[decided].mean()) if bool(decided.any()) else 1.0
    return {
        "max_logit_difference": float(difference.abs().max()),
        "relative_rms_difference": relative,
        "top1_agreement": float(same.mean()),
        "decided_top1_agreement": agreement,
        "agrees": relative <= TOLERANCE and agreement >= LEAST_DECIDED_AGREEMENT,
    }


if __name__ == "__main__":
    sys.exit(run(merge))
