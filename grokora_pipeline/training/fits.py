"""Does a base train on this GPU? Predicted memory, batch, hours and dollars, from a config alone (torch).

The step is measured on fake tensors (`training/fake.py`): nothing but the config is downloaded, no GPU is needed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from grokora_pipeline.errors import GrokoraError, one_line
from grokora_pipeline.training.budget import TEMPORARIES
from grokora_pipeline.training.fake import StepMemory, step_memory
from grokora_pipeline.training.layout import Layout, Row
from grokora_pipeline.training.plan import TrainingKnobs

GIB = 2**30
_LABELLED = 4  # a quarter of a row's tokens carries loss


@dataclass(frozen=True, slots=True)
class Fit:
    """One way to train: rows of `max_length` tokens a forward pass, with or without checkpointing; bytes."""

    rows: int
    checkpointing: bool
    memory: StepMemory

    @property
    def peak(self) -> int:
        """What CUDA reserves: the step's peak, and the allocator's share on top of what comes and goes."""
        return self.memory.weights + self.memory.adapter + round(TEMPORARIES["cuda"] * self.memory.activations)


def read_config(base: str) -> PreTrainedConfig:
    """The config of a folder, of a `config.json`, or of a hub model; GrokoraError if there is none."""
    folder = Path(base).parent if Path(base).name == "config.json" else base
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise GrokoraError(f"{base} has no config that transformers can read ({reason}).") from error


def possible_fits(config: PreTrainedConfig, knobs: TrainingKnobs, *, nf4: bool) -> list[Fit]:
    """Every way to train on rows of `max_length` tokens, 1 to `batch_size` rows a pass, the fastest first.

    One and two rows are measured; more rows take as much more as the second.
    """
    length = knobs.max_length
    labelled = max(1, length // _LABELLED)
    weights = (0.0,) * (length - labelled) + (1.0,) * labelled
    # Rows begin with tokens of their own: nothing is shared, as in the worst batch.
    batch = [Row((number, *[2] * (length - 1)), weights) for number in range(2)]
    layouts = [(batch[:rows], Layout("padded", rows * length, "sdpa", knobs.loss_chunk)) for rows in (1, 2)]
    ways = []
    for checkpointing in (False, True):
        one, two = (step_memory(config, *way, knobs, nf4=nf4, checkpointing=checkpointing) for way in layouts)
        each = two.activations - one.activations
        for rows in range(knobs.effective_batch, 0, -1):
            memory = StepMemory(one.weights, one.adapter, one.activations + (rows - 1) * each)
            ways.append(Fit(rows, checkpointing, memory))
    return ways


def report(
    base: str, knobs: TrainingKnobs, *, memory_gib: float, tokens: int, rate: float, price: float
) -> dict[str, Any]:
    """What `grokora fits` says: parts in GiB, the batch and checkpointing that fit, hours and dollars, and `sentences`.

    `tokens` are those of all rows over all epochs, `rate` tokens a second, `price` dollars an hour. If nothing fits,
    the figures are those of what needs least.
    """
    config = read_config(base)
    ways = possible_fits(config, knobs, nf4=knobs.quantisation in {"auto", "nf4"})
    fitting = next((way for way in ways if way.peak <= memory_gib * GIB), None)
    shown = fitting or min(ways, key=lambda way: way.peak)
    hours = tokens / rate / 3600
    parts = {
        "weights_gib": shown.memory.weights,
        "adapter_gib": shown.memory.adapter,
        "activations_gib": shown.memory.activations,
        "peak_gib": shown.peak,
    }
    figures = {name: round(size / GIB, 2) for name, size in parts.items()}
    verdict = f"trains in {memory_gib:g} GiB" if fitting else f"does not train in {memory_gib:g} GiB"
    checkpointing = "with gradient checkpointing" if shown.checkpointing else "without gradient checkpointing"
    sentences = [
        f"{config.model_type} {verdict}: {figures['peak_gib']:.2f} GiB at the peak, "
        f"{shown.rows} x {knobs.max_length} tokens a pass, {checkpointing}.",
        f"Base {figures['weights_gib']:.2f} GiB, adapter with gradient and optimiser {figures['adapter_gib']:.2f} GiB, "
        f"activations {figures['activations_gib']:.2f} GiB (+ {TEMPORARIES['cuda'] - 1:.0%} for CUDA's allocator).",
        f"{tokens:,} tokens at {rate:,.0f} tokens/s (stated, not measured): {hours:.1f} h, {hours * price:.2f} "
        f"dollars at {price:g} an hour.",
    ]
    if not fitting:
        sentences.append("Lower --max-length or --rank, take a smaller base, or a GPU with more memory.")
    return {
        "fits": fitting is not None,
        "rows_a_pass": shown.rows,
        "checkpointing": shown.checkpointing,
        **figures,
        "hours": round(hours, 2),
        "dollars": round(hours * price, 2),
        "sentences": sentences,
    }
