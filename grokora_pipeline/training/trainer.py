"""transformers' Trainer on laid-out batches: an optimiser step is a batch of rows, computed as a prefix tree (torch).

It is `Trainer`, not TRL's SFTTrainer: data, loss, step and validation are this module's, and what SFTTrainer adds
beside them (templates, packing, its own loss) would be switched off. Optimisers, schedules, clipping, NEFTune,
checkpoints and resuming are Trainer's.
"""

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.loading import share_cores
from grokora_pipeline.training.callbacks import Throughput, peak_memory_mib
from grokora_pipeline.training.gradients import TreeLoss
from grokora_pipeline.training.layout import Layout, Row, step_batches
from grokora_pipeline.training.plan import TrainingKnobs
from grokora_pipeline.training.planner import passes
from grokora_pipeline.training.preferences import Preferences

VALIDATION_TOKENS = 1024  # a forward pass: many rows at once would need more memory than a training step
_LOG = logging.getLogger(__name__)


class LayoutTrainer(Trainer):  # type: ignore[misc]
    """Trainer whose step and validation go through `TreeLoss`.

    The loss of a step is sum(weight x nll) / sum(weight) over the labelled tokens of the whole batch, whatever the
    layout, the micro-batches or the number of processes: each process takes a share of the rows, and the adapter's
    gradients are summed once a step. Rows that are judged better or worse than others bring the loss of `Preferences`.
    """

    def __init__(
        self,
        model: PeftModel,
        args: TrainingArguments,
        *,
        train_rows: Sequence[Row],
        validation_rows: Sequence[Row],
        knobs: TrainingKnobs,
        layout: Layout,
        throughput: Throughput,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.rows, self.validation_rows, self.knobs, self.layout = train_rows, validation_rows, knobs, layout
        self.throughput = throughput
        self.schedule = step_schedule(train_rows, knobs)
        # Trainer wants a data set before it asks `get_train_dataloader`.
        placeholder = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
        super().__init__(model=model, args=args, train_dataset=placeholder, callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self.losses = TreeLoss(model.get_base_model(), layout)
        judged = any(row.judged for row in (*train_rows, *validation_rows))
        self.preferences = Preferences(model, self.losses, knobs) if judged else None

    def get_train_dataloader(self) -> "DataLoader[Any]":
        """All steps of all epochs, in a seeded order that does not depend on where training began."""
        indices: Any = range(len(self.rows))
        return DataLoader(indices, batch_sampler=self.schedule, collate_fn=lambda batch: {"rows": batch})

    def create_optimizer(self, model: Any = None) -> Any:
        """Trainer's optimiser, or PEFT's of LoRA+ if B has a rate of its own."""
        if self.knobs.loraplus_lr_ratio == 1:
            return super().create_optimizer(model)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = create_loraplus_optimizer(
            self.model,
            kind,
            loraplus_lr_ratio=self.knobs.loraplus_lr_ratio,
            loraplus_lr_embedding=self.knobs.learning_rate,  # PEFT's own default is 1e-6, whatever the rate is
            loraplus_weight_decay=self.knobs.weight_decay,
            **options,
        )
        return self.optimizer

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one whole optimiser step; returns its mean loss in nats a weighted label token.

        GrokoraError at the first loss or gradient that is not finite, before it reaches the weights.
        """
        model.train()
        share_cores()
        batch = [self.rows[index] for index in inputs["rows"]]
        weight, constant = sum(sum(row.weights) for row in batch) or 1.0, 0.0
        started, computed = time.perf_counter(), self.losses.computed_tokens
        if self.preferences:  # every process weighs the whole step: its pairs may lie in several shares
            batch, constant = self.preferences.weigh(batch)
            weight = 1.0
        total = self._forward_backward(batch, 1 / weight) + constant
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if not math.isfinite(total) or not all(bool(gradient.isfinite().all()) for gradient in gradients):
            self._stop_before_damage(total / weight)
        counts = self.throughput
        counts.step_seconds.append(time.perf_counter() - started)
        counts.seconds += counts.step_seconds[-1]
        counts.real_tokens += sum(len(row.ids) for row in batch)
        counts.label_tokens += sum(weight != 0 for row in batch for weight in row.weights)
        counts.computed_tokens += self.losses.computed_tokens - computed
        return torch.tensor(total / weight, device=self.args.device)

    def _stop_before_damage(self, loss: float) -> None:
        """Write a checkpoint of the weights as they are, which no infinite gradient has reached, and stop."""
        self.model.zero_grad()
        step, kept = self.state.global_step, ""
        if step:
            self._save_checkpoint(self.model, trial=None)
            self.callback_handler.on_save(self.args, self.state, self.control)
            kept = f"The last good checkpoint (step {step}) is kept in {self.args.output_dir}. "
        raise GrokoraError(
            f"Training stopped at step {step + 1}: its loss is {loss:.4g} and its gradient not finite. {kept}"
            "Lower learning_rate or max_grad_norm, or look for a damaged example."
        )

    def _forward_backward(self, batch: Sequence[Row], scale: float) -> float:
        """The loss sum over all processes; every process gets the gradient of `scale` times the sum.

        Running out of memory halves the token budget, and this process's share is computed again.
        """
        while True:
            try:
                rows, idle = self._own_share(batch)
                total = float(self.losses.run(self.layout.of(rows), scale=scale, backward=True, idle=idle))
                break
            except torch.OutOfMemoryError:
                if self.layout.token_budget < 32 or self.knobs.shard_base:
                    raise  # the others wait for this process's passes
            self.layout.token_budget //= 2
            self.layout.halvings += 1
            # Only this process's share is done again: gradients of other processes come in below, once a step.
            self.model.zero_grad()
            torch.cuda.empty_cache()
            _LOG.warning("Out of memory: going on with %d tokens a forward pass.", self.layout.token_budget)
        if self.accelerator.num_processes > 1:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    if parameter.grad is None:  # a process without rows
                        parameter.grad = torch.zeros_like(parameter)
                    dist.all_reduce(parameter.grad)
        return self._sum_over_processes(total)

    def _own_share(self, rows: Sequence[Row]) -> tuple[Sequence[Row], int]:
        """(this process's rows, idle passes after them); a contiguous share, so that sessions stay together."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        size = math.ceil(len(rows) / world)
        shares = [rows[start : start + size] for start in range(0, world * size, size)]
        if not self.knobs.shard_base:
            return shares[rank], 0
        counts = [sum(1 for _ in passes(self.layout.of(share), self.layout)) for share in shares]
        return shares[rank], max(counts) - counts[rank]

    def _sum_over_processes(self, total: float) -> float:
        if self.accelerator.num_processes == 1:
            return total
        value = torch.tensor(total, dtype=torch.float64, device=self.args.device)
        dist.all_reduce(value)
        return float(value.item())

    def _loss(self, batch: Sequence[Row]) -> float:
        """The loss sum over all processes, without a gradient."""
        rows, idle = self._own_share(batch)
        total = self.losses.run(self.layout.of(rows), scale=1.0, backward=False, idle=idle)
        return self._sum_over_processes(float(total))

    def validate(self) -> float:
        """Validation loss in nats a weighted label token over all rows; GrokoraError if it is not finite."""
        started = time.perf_counter()
        training = self.model.training
        self.model.eval()
        share_cores()
        weight = sum(sum(row.weights) for row in self.validation_rows) or 1.0
        # Tokens of validation do not count as trained, and its passes may be smaller than those of a step.
        computed, budget = self.losses.computed_tokens, self.layout.token_budget
        self.layout.token_budget = min(budget, VALIDATION_TOKENS)
        if self.preferences:
            total, weight = self._preference_loss(), 1.0
        else:
            total = self._loss(self.validation_rows)
        self.losses.computed_tokens, self.layout.token_budget = computed, budget
        self.model.train(training)
        self.throughput.validation_seconds += time.perf_counter() - started
        if not math.isfinite(total):
            raise GrokoraError(
                f"The validation loss is {total:.4g} at step {self.state.global_step}; lower learning_rate, or look "
                "for a damaged example or base model."
            )
        return total / weight

    def _preference_loss(self) -> float:
        """The loss of the validation rows, in batches as training makes them: the mean, weighted by their rows."""
        assert self.preferences is not None
        total, rows = 0.0, self.validation_rows
        for step in step_batches(rows, self.knobs.effective_batch, self.knobs.seed, 0):
            weighted, constant = self.preferences.weigh([rows[index] for index in step])
            total += (self._loss(weighted) + constant) * len(step)
        return total / len(rows)

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
                "tokens_per_second": round(self.throughput.tokens_per_second, 1),
                "memory_mib": round(peak_memory_mib()),
            }
        super().log(logs, *args, **kwargs)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted here: rows are indices."""
        return 0


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
