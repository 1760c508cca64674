"""One training run: plan in, adapter folder and record out (torch)."""

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import orjson
import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.loading import choose_device, choose_dtype
from grokora_pipeline.store import COMPLETE, content_version, write_atomic
from grokora_pipeline.training.adapter import save_adapter, write_checksums
from grokora_pipeline.training.callbacks import (
    BestAdapterCallback,
    CurvesCallback,
    ProgressCallback,
    ScheduleCallback,
    Throughput,
    peak_memory_mib,
)
from grokora_pipeline.training.job import Run
from grokora_pipeline.training.layout import Layout
from grokora_pipeline.training.prepare import prepare
from grokora_pipeline.training.record import model_card, record
from grokora_pipeline.training.trainer import LayoutTrainer, step_schedule
from grokora_pipeline.workers.frame import Plan, Reporter, Result, stop_signals
from grokora_pipeline.workers.lease import lease_folder

_BEST = "best.safetensors"  # in the work folder


def train(plan: Plan, reporter: Reporter) -> Result:
    """Train one adapter; returns the record that `training.json` holds as well.

    The plan's folder `work` is left to whoever named it, with the adapter in it; without one, work beside the output is
    removed when the output is whole.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    run = Run.of(plan)
    # processes that train together share the work
    with nullcontext() if "RANK" in os.environ else _locked(run.work, reporter):
        return _train(run, reporter)


def _train(run: Run, reporter: Reporter) -> Result:
    if folder := run.finished():
        reporter.log("This very training was finished before; its adapter is taken")
        return _hand_over(run, folder)
    plan, device = run.plan, choose_device()
    state = PartialState(cpu=device.type == "cpu")
    prepared = prepare(
        run.base,
        rows=run.train_rows,
        steps=step_schedule(run.train_rows, run.knobs),
        knobs=run.knobs,
        device=device,
        tell=reporter.log,
        self_tests=Path(plan["self_tests"]) if plan.get("self_tests") else None,
    )
    with state.main_process_first():
        checkpoint = _last_checkpoint(run)
    trainer, best, schedule = _make_trainer(run, prepared.model, prepared.layout, reporter, checkpoint)
    dtype = str(choose_dtype(device)).removeprefix("torch.")
    reporter.log(
        f"{plan.get('agent', 'adapter')}: {len(run.train_rows)} rows, {len(trainer.schedule)} steps, "
        f"{prepared.layout.kind} layout, {dtype} on {device.type}"
        + (f", {run.too_long} rows over max_length {run.knobs.max_length} left out" if run.too_long else "")
        + (f", going on from {checkpoint.name}" if checkpoint else "")
    )
    first = trainer.is_world_process_zero()
    if checkpoint:
        best.resume(prepared.model, int(checkpoint.name.rpartition("-")[2]), write=first)
    else:
        best.keep(prepared.model, trainer.validate(), 0, write=first)
    with _signals_noted(schedule):  # to the end: what is trained is written, whoever asks to stop meanwhile
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if schedule.stopped:
            raise GrokoraError(
                f"Training was asked to stop at step {trainer.state.global_step}; run the same plan again to go on."
            )
        facts = {
            **prepared.facts(),
            "dtype": dtype,
            "device": device.type,
            "deadline_hit": schedule.deadline_hit,
            "rows_too_long": run.too_long,
            "fingerprint": run.fingerprint(),
        }
        return _finish(run, trainer, best, facts, reporter)


def _finish(
    run: Run, trainer: LayoutTrainer, best: BestAdapterCallback, facts: dict[str, Any], reporter: Reporter
) -> Result:
    """Put the best adapter back and, in the first process, write it with its record and hand it over."""
    state = PartialState()
    state.wait_for_everyone()
    best.restore(trainer.model)
    state.wait_for_everyone()  # the first process removes the work that the others read
    facts |= {
        "initial_validation_loss": best.initial_loss,
        "validation_loss": best.loss,
        "best_step": best.step,
        "wall_seconds": round(time.monotonic() - run.started, 2),
        "peak_memory_mib": round(peak_memory_mib(), 1),
    }
    result = record(run, trainer, facts)
    if not state.is_main_process:
        return result
    if best.step == 0:
        reporter.log("Training made nothing better than the untrained adapter, which is kept; see validation_loss")
    return _hand_over(run, _write_adapter(run, trainer, result))


@contextmanager
def _locked(work: Path, reporter: Reporter) -> Iterator[None]:
    """Keep others out of a work folder; the kernel frees it if this process is killed.

    Two runs of one asset have the same work: the second waits here, and then finds what the first one made.
    """
    with (lease_folder() / f"work-{content_version(str(work.resolve()))}.lock").open("wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.log("Another process trains this very plan; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _last_checkpoint(run: Run) -> Path | None:
    """The last whole checkpoint of this very run; the work of any other run is removed."""
    mark = run.work / "run.json"
    fingerprint = run.fingerprint()
    if not mark.is_file() or orjson.loads(mark.read_bytes()).get("fingerprint") != fingerprint:
        shutil.rmtree(run.work, ignore_errors=True)
        write_atomic(mark, orjson.dumps({"fingerprint": fingerprint}))
    for folder in run.work.glob("checkpoint-*"):
        if not (folder / COMPLETE).is_file():  # Trainer would count it among the two that it keeps
            shutil.rmtree(folder)
    last = get_last_checkpoint(run.work)
    return Path(last) if last and (run.work / _BEST).is_file() else None


def _make_trainer(
    run: Run, model: PeftModel, layout: Layout, reporter: Reporter, checkpoint: Path | None
) -> tuple[LayoutTrainer, BestAdapterCallback, ScheduleCallback]:
    knobs = run.knobs
    steps = len(step_schedule(run.train_rows, knobs))
    per_epoch = -(-len(run.train_rows) // knobs.effective_batch)
    best = BestAdapterCallback(run.work / _BEST, knobs.early_stopping)
    throughput = Throughput.of_checkpoint(checkpoint)
    run.started -= throughput.seconds + throughput.validation_seconds  # what the run took before it was interrupted
    schedule = ScheduleCallback(
        evaluate_every=max(1, -(-per_epoch // knobs.evaluations)),
        checkpoint_every=knobs.checkpoint_steps,
        deadline_seconds=knobs.deadline_hours * 3600,
        throughput=throughput,
        started=run.started,
    )
    trainer = LayoutTrainer(
        model,
        _arguments(run, steps),
        train_rows=run.train_rows,
        validation_rows=run.validation_rows,
        knobs=knobs,
        layout=layout,
        throughput=throughput,
        callbacks=[best, schedule, ProgressCallback(reporter), CurvesCallback(run.work / "tensorboard")],
    )
    return trainer, best, schedule


def _arguments(run: Run, steps: int) -> TrainingArguments:
    knobs, cuda = run.knobs, torch.cuda.is_available()
    optimizer = knobs.optimizer if knobs.optimizer != "auto" else ("paged_adamw_8bit" if cuda else "adamw")
    return TrainingArguments(
        output_dir=str(run.work),
        max_steps=steps,
        per_device_train_batch_size=1,  # the schedule holds whole optimiser steps
        gradient_accumulation_steps=1,
        learning_rate=knobs.learning_rate,
        lr_scheduler_type=knobs.schedule if knobs.schedule != "constant" else "constant_with_warmup",
        warmup_steps=round(knobs.warmup * steps),
        weight_decay=knobs.weight_decay,
        max_grad_norm=knobs.max_grad_norm,
        optim="adamw_torch" if optimizer == "adamw" else optimizer,
        neftune_noise_alpha=knobs.neftune or None,
        seed=knobs.seed,
        data_seed=knobs.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=10**9,  # `ScheduleCallback` says when
        save_total_limit=2,
        eval_strategy="no",
        report_to=[],
        use_cpu=not cuda,
        bf16=False,  # `TreeLoss` computes under autocast itself
        disable_tqdm=True,
        remove_unused_columns=False,
    )


@contextmanager
def _signals_noted(schedule: ScheduleCallback) -> Iterator[None]:
    """SIGTERM, Ctrl-C or a closed terminal ends training with a checkpoint, from which the same plan goes on."""

    def interrupt(signum: int, frame: object) -> None:
        """Stop at the next optimiser step, with a checkpoint."""
        schedule.interrupted = True

    before = {number: signal.signal(number, interrupt) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_adapter(run: Run, trainer: LayoutTrainer, result: Result) -> Path:
    """Write the whole adapter folder into the work folder, and return it: whatever happens now, it is not lost."""
    folder = run.work / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copytree(run.work / "tensorboard", folder / "tensorboard")
    save_adapter(trainer.model, folder, run.base_id)
    (folder / "training.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    (folder / "README.md").write_text(model_card(result), encoding="utf-8")
    write_checksums(folder)
    return folder


def _hand_over(run: Run, folder: Path) -> Result:
    """Copy a whole adapter folder to the output; work that this run keeps for itself is removed after that."""
    if folder != run.output:
        shutil.rmtree(run.output, ignore_errors=True)
        shutil.copytree(folder, run.output, ignore=shutil.ignore_patterns("checksums.json"))
        shutil.copyfile(folder / "checksums.json", run.output / "checksums.json")  # last: it says that all is there
    result: Result = orjson.loads((run.output / "training.json").read_bytes())
    if not run.plan.get("work"):
        shutil.rmtree(run.work, ignore_errors=True)
    return result
