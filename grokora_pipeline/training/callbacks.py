"""What happens between optimiser steps: the best adapter, what is due when, progress, curves (torch)."""

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import TrainerCallback

from grokora_pipeline.models.loading import set_adapter_weights
from grokora_pipeline.store import COMPLETE, write_atomic
from grokora_pipeline.training.adapter import adapter_weights
from grokora_pipeline.workers.frame import Reporter


def peak_memory_mib() -> float:
    """Peak reserved memory of the CUDA device, else peak resident memory of this process, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**20
    status = Path("/proc/self/status")
    if status.is_file():  # unlike ru_maxrss it does not begin with what the parent occupied
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


@dataclass(slots=True)
class Throughput:
    """What was trained on so far. `real_tokens` counts every row's tokens, padding and sharing left aside.

    It is written into every checkpoint, so that the counts of a resumed run are those of the whole run.
    """

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

    @classmethod
    def of_checkpoint(cls, folder: Path | None) -> "Throughput":
        """The counts that a checkpoint was written with; zero if it has none, or if there is no checkpoint."""
        file = folder / "throughput.json" if folder else None
        return cls(**json.loads(file.read_text())) if file and file.is_file() else cls()


@dataclass
class BestAdapterCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps the adapter with the lowest validation loss in `folder`; a run that is resumed finds it there.

    The untrained adapter is the first candidate (step 0), so that none that is worse is ever published. transformers'
    `load_best_model_at_end` would keep whole checkpoints for it, and its EarlyStoppingCallback needs that.
    """

    # The weights, and in their metadata what they are: one file is replaced at once, two would come apart by a kill.
    file: Path
    patience: int = 0
    initial_loss: float = float("inf")  # of the untrained adapter, which is the base's and the one to beat
    loss: float = float("inf")
    step: int = 0

    def resume(self, model: PeftModel, step: int, *, write: bool) -> None:
        """Take over the best adapter of an interrupted run that goes on from the checkpoint of this step.

        One that is newer will be made again; until then the untrained adapter, which `model` still is, is the best.
        """
        with safe_open(self.file, "pt") as best:
            facts = json.loads(best.metadata()["best"])
        self.initial_loss, self.loss, self.step = facts["initial_loss"], facts["loss"], facts["step"]
        if self.step > step:
            self.keep(model, self.initial_loss, 0, write=write)

    def keep(self, model: PeftModel, loss: float, step: int, *, write: bool) -> None:
        """Take this adapter as the best one; `write` it (in the first process)."""
        self.loss, self.step = loss, step
        self.initial_loss = self.initial_loss if step else loss
        if write:
            facts = json.dumps({"initial_loss": self.initial_loss, "loss": loss, "step": step})
            write_atomic(self.file, save(adapter_weights(model), metadata={"best": facts}))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        """Keep the adapter if it is the best; stop after `patience` validations without progress."""
        if metrics["eval_loss"] < self.loss:
            self.keep(kwargs["model"], metrics["eval_loss"], state.global_step, write=state.is_world_process_zero)
        worse = sum("eval_loss" in entry and entry["step"] > self.step for entry in state.log_history)
        if self.patience and worse >= self.patience:
            control.should_training_stop = control.should_save = True

    def restore(self, model: PeftModel) -> None:
        """Put the best adapter's weights back into the model."""
        set_adapter_weights(model, load_file(self.file))


@dataclass
class ScheduleCallback(TrainerCallback):  # type: ignore[misc]
    """Validation and checkpoints at their steps and at the end; stops at the deadline and when asked to by a signal.

    The last checkpoint serves a run that is killed, or meets a full disk, before its adapter is written.
    """

    evaluate_every: int
    checkpoint_every: int
    deadline_seconds: float
    throughput: Throughput
    started: float  # by `time.monotonic`; of a resumed run earlier by the time that it had spent
    interrupted: bool = False  # a signal came; it counts if there is a step left to do
    stopped: bool = False
    deadline_hit: bool = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say what is due after this step."""
        step, last = state.global_step, state.global_step >= state.max_steps
        stopped, late = self.interrupted, time.monotonic() - self.started > self.deadline_seconds
        if dist.is_initialized():  # all processes or none: one that went on would wait for the others' gradients
            any_of_them = torch.tensor([stopped, late], dtype=torch.int32, device=args.device)
            dist.all_reduce(any_of_them, op=dist.ReduceOp.MAX)
            stopped, late = any_of_them.bool().tolist()
        self.stopped, self.deadline_hit = stopped and not last, late and not last
        over = last or self.deadline_hit
        if self.deadline_hit or self.stopped:
            control.should_training_stop = True
        control.should_evaluate = (over or step % self.evaluate_every == 0) and not self.stopped
        control.should_save = over or self.stopped or step % self.checkpoint_every == 0

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the counts, then mark the checkpoint as whole: one that a kill cut short is not resumed from."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / "throughput.json").write_text(json.dumps(asdict(self.throughput)))
            for file in folder.iterdir():  # a power cut would leave empty files in a folder that is marked as whole
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
            (folder / COMPLETE).touch()


@dataclass
class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Tells the reporter how far training is, about 20 times a run and after each validation."""

    reporter: Reporter
    started: float = field(default_factory=time.monotonic)
    first_step: int = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """A line of progress."""
        step, total = state.global_step, state.max_steps
        if not state.is_world_process_zero or not step or "train_runtime" in logs:
            return
        if "eval_loss" in logs:
            self.reporter.progress(step, total, validation_loss=logs["eval_loss"])
        elif step % max(1, total // 20) == 0 or step == total:
            done = step - self.first_step
            left = (time.monotonic() - self.started) / max(done, 1) * (total - step)
            self.reporter.progress(
                step,
                total,
                **{name: logs[name] for name in ("loss", "tokens_per_second", "memory_mib") if name in logs},
                seconds_left=round(left),
            )


@dataclass
class CurvesCallback(TrainerCallback):  # type: ignore[misc]
    """TensorBoard files of every logged figure.

    transformers' TensorBoardCallback writes all arguments beside them, with this machine's paths and name.
    """

    folder: Path
    writer: Any = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Write the figures of a step."""
        if not state.is_world_process_zero:
            return
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder))
        for name, value in logs.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the file and take the machine's name out of its name."""
        if self.writer is not None:
            self.writer.close()
            for number, path in enumerate(sorted(self.folder.iterdir())):
                path.rename(self.folder / f"events.out.tfevents.{number:04}")  # sorted as they came, before new ones
