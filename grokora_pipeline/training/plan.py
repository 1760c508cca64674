"""What can be set about a training run, and how a preset, an agent and a run are put together. No torch."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from grokora_pipeline.errors import GrokoraError, first_mistake
from grokora_pipeline.training.presets import PRESETS

_LATER = ("last_layers", "loraplus_lr_ratio", "beta", "preference_weight", "answer_weight")


class TrainingKnobs(BaseModel):
    """Every knob of a training run. Fields without a unit are counts; lengths are tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preset: Literal["plan", "best", "sample"] = "best"
    rank: int = Field(16, ge=1, le=1024, description="LoRA rank r.")
    alpha: float = Field(32.0, gt=0, description="LoRA scale: alpha / r, with rslora alpha / sqrt(r).")
    rslora: bool = Field(False, description="Rank-stabilised scaling (arXiv 2312.03732).")
    dora: bool = Field(False, description="Weight-decomposed LoRA (arXiv 2402.09353).")
    target_modules: Literal["all-linear", "mlp"] | tuple[str, ...] = Field(
        "all-linear", description="Adapted modules; mlp: all linear ones but those of attention."
    )
    last_layers: int = Field(0, ge=0, description="Adapt at most so many layers, the last ones; 0: all layers.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in front of the adapter.")
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="The highest, after the warm-up.")
    loraplus_lr_ratio: float = Field(1.0, ge=1, le=1000, description="B's rate over A's (LoRA+, arXiv 2402.12354).")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="How the rate falls.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps that warm up.")
    weight_decay: float = Field(0.0, ge=0, description="Of AdamW, on the adapter's weights.")
    max_grad_norm: float = Field(1.0, ge=0, description="0 turns clipping off.")
    epochs: float = Field(3.0, gt=0, le=1000, description="Passes over the training rows; may be a fraction.")
    max_steps: int = Field(0, ge=0, description="Stop after so many optimiser steps; 0: epochs decide.")
    batch_size: int = Field(16, ge=1, description="Rows a step; times accumulation: the effective batch.")
    accumulation: int = Field(1, ge=1, description="Kept for recipes that state batch x accumulation.")
    max_length: int = Field(2048, ge=16, le=2**24, description="Longer examples are left out, never cut.")
    max_examples: int = Field(0, ge=0, description="Train on the first so many rows of a seeded shuffle; 0: all.")
    max_validation: int = Field(200, ge=0, description="Validation rows for the loss; 0: all.")
    packing: Literal["auto", "tree", "padded"] = Field(
        "auto",
        description="How rows are laid out; auto: shared prefixes once if every layer is attention, else padded.",
    )
    attention: Literal["auto", "sdpa", "short", "flash"] = Field("auto", description="How tokens attend.")
    loss_chunk: int = Field(256, ge=0, description="Tokens whose logits exist at once; 0: all of a pass.")
    compile: bool = Field(False, description="torch.compile of the decoder's layers.")
    quantisation: Literal["auto", "none", "nf4", "int8"] = Field("auto", description="auto: nf4 on CUDA, else none.")
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "auto", description="auto: the paged 8-bit one on CUDA, else adamw."
    )
    checkpointing: Literal["auto", "on", "off"] = Field("auto", description="Gradient checkpointing.")
    # numpy's generator takes no larger seed
    seed: int = Field(7, ge=0, lt=2**32, description="Of the adapter's first weights and the order of rows.")
    neftune: float = Field(0.0, ge=0, description="NEFTune noise alpha (arXiv 2310.05914); 0: off.")
    evaluations: int = Field(1, ge=1, description="Validations an epoch.")
    early_stopping: int = Field(0, ge=0, description="Stop after so many validations without progress; 0: off.")
    checkpoint_steps: int = Field(50, ge=1, description="A run that is killed goes on from the last checkpoint.")
    memory_gib: float = Field(0.0, ge=0, description="Memory cap; 0: 8 on CUDA, 6 on a CPU.")
    deadline_hours: float = Field(2.0, gt=0, description="Then training stops with the best adapter so far.")
    num_processes: Literal["auto"] | PositiveInt = Field("auto", description="Of one run; auto: one a visible GPU.")
    shard_base: bool = Field(False, description="Each process keeps a share of the frozen base (FSDP2).")
    beta: float = Field(0.1, gt=0, description="DPO and KTO: how firmly the adapter is held to the base.")
    preference_weight: float = Field(1.0, ge=0, description="Weight of the loss of DPO or KTO.")
    answer_weight: float = Field(1.0, ge=0, description="Weight of the plain loss on good answers beside DPO or KTO.")
    self_test: bool = Field(True, description="Prove on this very model that the fast layout is exact.")

    @field_validator("target_modules")
    @classmethod
    def _named(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value:
            raise ValueError("name at least one module, or `all-linear` or `mlp`")
        return value

    @model_validator(mode="after")
    def _shardable(self) -> "TrainingKnobs":
        if self.shard_base and (self.packing == "tree" or self.quantisation == "int8"):
            raise ValueError("shard_base goes with nf4 or none, and with packing auto or padded")
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Knobs that older adapters were trained without are written only if they were changed: an adapter is out of
        date if its knobs are others."""
        dumped: dict[str, Any] = handler(self)
        later = set(_LATER) - PRESETS[self.preset].keys()  # what a preset sets may be set back to the default
        unchanged = {name for name in later if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in dumped.items() if name not in unchanged}

    @property
    def effective_batch(self) -> int:
        """Rows of one optimiser step, over all processes."""
        return self.batch_size * self.accumulation


def resolve_knobs(
    preset: str, agent_overrides: Mapping[str, Any] | None = None, run_overrides: Mapping[str, Any] | None = None
) -> TrainingKnobs:
    """The preset, changed by the agent's knobs, changed by the run's; GrokoraError names a knob that is wrong."""
    if preset not in PRESETS:
        raise GrokoraError(f"There is no training preset {preset!r}; use one of {', '.join(PRESETS)}.")
    overrides = {**(agent_overrides or {}), **(run_overrides or {})}
    for name in overrides:
        if name not in TrainingKnobs.model_fields or name == "preset":
            close = difflib.get_close_matches(name, TrainingKnobs.model_fields, n=1)
            known = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(TrainingKnobs.model_fields)}."
            raise GrokoraError(f"There is no training knob {name!r}; {known}")
    try:
        return TrainingKnobs.model_validate({**PRESETS[preset], **overrides, "preset": preset})
    except ValidationError as error:
        keys, why, value = first_mistake(error)
        where = f" {keys[0]}={value!r} is not usable" if keys else "s do not go together"
        raise GrokoraError(f"Training knob{where}: {why}.") from error
