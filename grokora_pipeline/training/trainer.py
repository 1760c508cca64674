"""TRL's SFTTrainer on laid-out batches: one optimiser step is one batch of rows, computed as a prefix tree (torch)."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from grokora_pipeline.training.adapter import keep_fp32
from grokora_pipeline.training.callbacks import peak_memory_mib
from grokora_pipeline.training.gradients import TreeLoss
from grokora_pipeline.training.layout import Layout, Row, step_batches
from grokora_pipeline.training.plan import TrainingKnobs
from grokora_pipeline.training.planner import passes

VALIDATION_TOKENS = 1024  # a forward pass: many rows at once would need more memory than a training step
_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Meter:
    """What was trained on so far. `real_tokens` counts every row's tokens, padding and sharing left aside."""

    real_tokens: int = 0
    computed_tokens: int = 0
    label_tokens: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second of training, validation left aside."""
        return self.real_tokens / self.seconds if self.seconds else 0.0


class LayoutTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose training step and validation go through `TreeLoss`.

    The loss of a step is sum(weight x nll) / sum(weight) over the labelled tokens of the whole batch, whatever the
    layout, the micro-batches or the number of processes: each process takes a share of the rows, and the adapter's
    gradients are summed once a step.
    """

    def __init__(
        self,
        model: PeftModel,
        args: SFTConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        train_rows: Sequence[Row],
        validation_rows: Sequence[Row],
        knobs: TrainingKnobs,
        layout: Layout,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.rows, self.validation_rows, self.knobs, self.layout = train_rows, validation_rows, knobs, layout
        self.meter = Meter()
        self.schedule = step_schedule(train_rows, knobs)
        placeholder = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
        super().__init__(
            model=model, args=args, train_dataset=placeholder, processing_class=tokenizer, callbacks=callbacks
        )
        self.remove_callback(PrinterCallback)
        keep_fp32(model)  # SFTTrainer casts the adapter of a quantised base to bf16
        self.losses = TreeLoss(model.get_base_model(), layout)

    def get_train_dataloader(self) -> "DataLoader[Any]":
        """All steps of all epochs, in a seeded order that does not depend on where training began."""
        places: Any = range(len(self.rows))
        return DataLoader(places, batch_sampler=self.schedule, collate_fn=lambda batch: {"rows": batch})

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one whole optimiser step; returns its mean loss in nats a weighted label token."""
        model.train()
        batch = [self.rows[place] for place in inputs["rows"]]
        with self.maybe_activation_offload_context:
            return self._measured(batch)

    def _measured(self, batch: Sequence[Row]) -> torch.Tensor:
        started, computed = time.perf_counter(), self.losses.computed_tokens
        total, weight = self._until_it_fits(batch)
        meter = self.meter
        meter.step_seconds.append(time.perf_counter() - started)
        meter.seconds += meter.step_seconds[-1]
        meter.real_tokens += sum(len(row.ids) for row in batch)
        meter.label_tokens += sum(weight > 0 for row in batch for weight in row.weights)
        meter.computed_tokens += self.losses.computed_tokens - computed
        return torch.tensor(total / weight, device=self.args.device)

    def _until_it_fits(self, batch: Sequence[Row]) -> tuple[float, float]:
        """(loss sum, weight sum); out of memory halves the token budget and does the step again."""
        weight = sum(sum(row.weights) for row in batch) or 1.0
        while True:
            try:
                total = self._shared_out(batch, scale=1 / weight, backward=True)
                return self._summed(total), weight
            except torch.OutOfMemoryError:
                if self.layout.token_budget < 32 or self.knobs.shard_base:
                    raise  # the others wait for this process's passes
                self._halve()

    def _halve(self) -> None:
        self.layout.token_budget //= 2
        self.layout.halvings += 1
        self.model.zero_grad()
        torch.cuda.empty_cache()
        _LOG.warning("Out of memory: going on with %d tokens a forward pass.", self.layout.token_budget)

    def _shared_out(self, rows: Sequence[Row], **how: Any) -> float:
        """The loss of this process's rows, a contiguous share, so that sessions stay together."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        size = math.ceil(len(rows) / world)
        shares = [rows[start : start + size] for start in range(0, world * size, size)]
        idle = 0
        if self.knobs.shard_base:
            made = [sum(1 for _ in passes(self.layout.of(share), self.layout)) for share in shares]
            idle = max(made) - made[rank]
        return self.losses.run(self.layout.of(shares[rank]), idle=idle, **how)

    def _summed(self, total: float) -> float:
        """The loss summed over all processes, and with it the adapter's gradients."""
        if self.accelerator.num_processes == 1:
            return total
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
        return self._all_summed(total)

    def _all_summed(self, total: float) -> float:
        if self.accelerator.num_processes == 1:
            return total
        value = torch.tensor(total, dtype=torch.float64, device=self.args.device)
        dist.all_reduce(value)
        return float(value.item())

    def validate(self) -> float:
        """Validation loss: nats a weighted label token over all validation rows, computed as one tree."""
        started = time.perf_counter()
        training = self.model.training
        self.model.eval()
        weight = sum(sum(row.weights) for row in self.validation_rows) or 1.0
        computed, budget = self.losses.computed_tokens, self.layout.token_budget
        self.layout.token_budget = min(budget, VALIDATION_TOKENS)
        total = self._all_summed(self._shared_out(self.validation_rows))
        self.losses.computed_tokens, self.layout.token_budget = computed, budget
        self.model.train(training)
        self.meter.validation_seconds += time.perf_counter() - started
        return total / weight

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Log the validation loss as `eval_loss`."""
        metrics = {"eval_loss": self.validate()}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Beside the loss, the speed and the memory so far."""
        if "loss" in logs:
            logs |= {
                "tokens_per_second": round(self.meter.tokens_per_second, 1),
                "memory_mib": round(peak_memory_mib()),
            }
        super().log(logs, *args, **kwargs)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted here: rows are indices."""
        return 0

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The card is written once, with the adapter."""


def step_schedule(rows: Sequence[Row], knobs: TrainingKnobs) -> list[list[int]]:
    """Row indices of every optimiser step of the run; a fractional last epoch is cut short."""
    per_epoch = math.ceil(len(rows) / knobs.effective_batch)
    steps = max(1, round(per_epoch * knobs.epochs))
    if knobs.max_steps:
        steps = min(steps, knobs.max_steps)
    schedule: list[list[int]] = []
    for epoch in range(math.ceil(steps / per_epoch)):
        schedule += step_batches(rows, knobs.effective_batch, knobs.seed, epoch)
    return schedule[:steps]
