"""The record of a training run (`training.json`) and the adapter's model card."""

import platform
from importlib import metadata
from statistics import median
from typing import Any

from grokora_pipeline.training.adapter import trainable_parameters
from grokora_pipeline.training.job import Run
from grokora_pipeline.training.trainer import LayoutTrainer

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")
_POINT = ("step", "loss", "learning_rate", "grad_norm", "eval_loss")  # of an entry in the history
_CARD = """---
library_name: peft
base_model: {base_id}
tags: [lora, grokora]
---
# {agent}: LoRA adapter

Trained by grokora on {train_rows} examples ({label_tokens_seen} label tokens seen) of what the agent `{agent}` did.

| | |
|---|---|
| Base model | {base_id} |
| Validation loss (nats a token) | {initial_validation_loss:.4f} → {validation_loss:.4f} ({validation_rows} rows) |
| Rank / alpha / rsLoRA / DoRA | {rank} / {alpha:g} / {rslora} / {dora} |
| Adapted layers | {layers} |
| Trainable | {trainable_parameters:,} parameters ({trainable_percent:.2f} %) |
| Learning rate, schedule | {learning_rate:g}, {schedule} |
| Steps x rows a step | {steps} x {effective_batch} |
| Time, speed | {wall_seconds:.0f} s, {tokens_per_second:.0f} real tokens/s on {device} ({dtype}, base {quantisation}) |

The loss is taken on the agent's answers only. Input versions: {versions}. Every setting is in `training.json`.
"""


def record(run: Run, trainer: LayoutTrainer, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything worth knowing about a run, as JSON: figures at the top level, then knobs, versions and curves."""
    state, throughput = trainer.state, trainer.throughput
    adapted = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in trainable_parameters(trainer.model)}
    adapter = sum(parameter.numel() for parameter in trainable_parameters(trainer.model).values())
    return {
        "agent": str(run.plan.get("agent", "adapter")),
        "base_id": run.base_id,
        **facts,
        "memory_prediction_error": round(facts["predicted_memory_mib"] / facts["peak_memory_mib"] - 1, 4),
        "steps": state.global_step,
        "steps_planned": len(trainer.schedule),
        "train_rows": len(run.train_rows),
        "validation_rows": len(run.validation_rows),
        "effective_batch": run.knobs.effective_batch,
        "processes": trainer.accelerator.num_processes,
        "real_tokens": throughput.real_tokens,
        "computed_tokens": throughput.computed_tokens,
        "label_tokens_seen": throughput.label_tokens,
        "tokens_per_second": round(throughput.tokens_per_second, 1),
        "train_seconds": round(throughput.seconds, 2),
        "median_step_seconds": round(median(throughput.step_seconds or [0.0]), 4),
        "validation_seconds": round(throughput.validation_seconds, 2),
        "trainable_parameters": adapter,
        "trainable_share": adapter / (facts["base_parameters"] + adapter),
        "adapted_layers": sorted(adapted),
        "layout": trainer.layout.kind,
        "attention": trainer.layout.attention,
        "token_budget": trainer.layout.token_budget,
        "out_of_memory_halvings": trainer.layout.halvings,
        "knobs": run.knobs.model_dump(),
        "versions": dict(run.plan.get("versions") or {}),
        "libraries": {"python": platform.python_version()} | {name: metadata.version(name) for name in _LIBRARIES},
        "history": [
            {name: entry[name] for name in _POINT if name in entry}
            for entry in state.log_history
            if "train_runtime" not in entry
        ],
    }


def model_card(result: dict[str, Any]) -> str:
    """The README.md of an adapter folder."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items()) or "not recorded"
    percent = 100 * result["trainable_share"]
    texts = {"versions": versions, "trainable_percent": percent, "layers": ", ".join(result["adapted_layers"])}
    return _CARD.format(**{**result["knobs"], **result, **texts})
