"""One training run: plan in, adapter folder and record out (torch)."""

import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging
from trl import SFTConfig

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.loading import choose_device, choose_dtype
from grokora_pipeline.store import COMPLETE, content_version, write_atomic
from grokora_pipeline.training.adapter import save_adapter, write_checksums
from grokora_pipeline.training.callbacks import Best, Course, Curves, Progress, peak_memory_mib
from grokora_pipeline.training.layout import Layout, Row
from grokora_pipeline.training.plan import TrainingKnobs, resolve_knobs
from grokora_pipeline.training.prepare import prepare
from grokora_pipeline.training.record import model_card, record
from grokora_pipeline.training.tokenize import load_split
from grokora_pipeline.training.trainer import LayoutTrainer, step_schedule
from grokora_pipeline.workers.frame import Plan, Reporter, Result

LEAST_ROWS = 2


class Silent(Reporter):
    """The reporter of every process but the first."""

    def log(self, text: str) -> None:
        """Say nothing."""


@dataclass(slots=True)
class Run:
    """What a plan means on this machine."""

    plan: Plan
    knobs: TrainingKnobs
    base: Path
    base_id: str
    output: Path
    work: Path
    train_rows: list[Row]
    validation_rows: list[Row]

    @classmethod
    def of(cls, plan: Plan) -> "Run":
        """Read a plan (see `training/__main__.py`); GrokoraError where it is wrong."""
        missing = [name for name in ("base", "split", "output") if not plan.get(name)]
        if missing:
            raise GrokoraError(f"The training plan lacks {', '.join(missing)}; it needs base, split and output.")
        given = dict(plan.get("knobs") or {})
        knobs = resolve_knobs(str(given.pop("preset", "best")), given)
        train, validation = load_split(Path(plan["split"]))
        if len(train) < LEAST_ROWS or not validation:
            raise GrokoraError(
                f"{plan['split']} has {len(train)} training and {len(validation)} validation rows; "
                f"at least {LEAST_ROWS} and 1 are needed: record more sessions or lower min_examples."
            )
        output, base = Path(plan["output"]), Path(plan["base"])
        work = Path(plan.get("work") or output.with_name(f"{output.name}.work"))
        base_id = str(plan.get("base_id") or base.name)
        train = train[: knobs.max_examples or None]
        validation = validation[: knobs.max_validation or None]
        return cls(plan, knobs, base, base_id, output, work, train, validation)

    def fingerprint(self) -> str:
        """A hash of what decides the result: a checkpoint of another run is never resumed from."""
        knobs = self.knobs.model_dump(exclude={"deadline_hours", "memory_gib", "num_processes", "checkpoint_steps"})
        rows = [[row.ids, row.weights] for row in (*self.train_rows, *self.validation_rows)]
        return content_version(knobs, rows, self.base_id, self.plan.get("versions"))


def train(plan: Plan, reporter: Reporter) -> Result:
    """Train one adapter; returns the record that `training.json` holds as well."""
    started = time.monotonic()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    run, device = Run.of(plan), choose_device()
    state = PartialState(cpu=device.type == "cpu")
    reporter = reporter if state.is_main_process else Silent()
    schedule = step_schedule(run.train_rows, run.knobs)
    prepared = prepare(run.base, rows=run.train_rows, steps=schedule, knobs=run.knobs, device=device, tell=reporter.log)
    with state.main_process_first():
        resume = _checkpoint(run)
    trainer, best, course = _trainer(run, prepared.model, prepared.layout, reporter, resume)
    dtype = str(choose_dtype(device)).removeprefix("torch.")
    reporter.log(
        f"{run.plan.get('agent', 'adapter')}: {len(run.train_rows)} rows, {len(trainer.schedule)} steps, "
        f"{prepared.layout.kind} layout, {dtype} on {device.type}"
        + (f", going on from {resume.name}" if resume else "")
    )
    initial = _initial_loss(run, trainer, resumed=resume is not None)
    _fit(trainer, course, resume)
    state.wait_for_everyone()
    best.restore(prepared.model)
    state.wait_for_everyone()  # the first process removes the work that the others read
    outcome = {"initial_validation_loss": initial, "validation_loss": best.loss, "best_step": best.step}
    machine = {"dtype": dtype, "device": device.type, "deadline_hit": course.deadline_hit}
    cost = {
        "wall_seconds": round(time.monotonic() - started, 2),
        "peak_memory_mib": round(peak_memory_mib(), 1),
    }
    return _publish(run, trainer, {**outcome, **prepared.facts(), **machine, **cost})


def _checkpoint(run: Run) -> Path | None:
    """The last whole checkpoint of this very run; the work of any other run is removed."""
    mark = run.work / "run.json"
    fingerprint = run.fingerprint()
    if not mark.is_file() or orjson.loads(mark.read_bytes()).get("fingerprint") != fingerprint:
        shutil.rmtree(run.work, ignore_errors=True)
        run.work.mkdir(parents=True, exist_ok=True)
        write_atomic(mark, orjson.dumps({"fingerprint": fingerprint}))
    folders = [path for path in run.work.glob("checkpoint-*") if (path / COMPLETE).is_file()]
    return max(folders, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _trainer(
    run: Run, model: PeftModel, layout: Layout, reporter: Reporter, resume: Path | None
) -> tuple[LayoutTrainer, Best, Course]:
    knobs = run.knobs
    steps = len(step_schedule(run.train_rows, knobs))
    per_epoch = -(-len(run.train_rows) // knobs.effective_batch)
    best = Best(run.work / "best", knobs.early_stopping)
    if resume:
        best.resume(int(resume.name.rpartition("-")[2]))
    course = Course(
        evaluate_every=max(1, -(-per_epoch // knobs.evaluations)),
        checkpoint_every=knobs.checkpoint_steps,
        deadline_seconds=knobs.deadline_hours * 3600,
    )
    trainer = LayoutTrainer(
        model,
        _arguments(run, steps),
        AutoTokenizer.from_pretrained(str(run.base), trust_remote_code=False),
        train_rows=run.train_rows,
        validation_rows=run.validation_rows,
        knobs=knobs,
        layout=layout,
        callbacks=[best, course, Progress(reporter), Curves(run.output / "tensorboard")],
    )
    return trainer, best, course


def _arguments(run: Run, steps: int) -> SFTConfig:
    knobs, cuda = run.knobs, torch.cuda.is_available()
    optimizer = knobs.optimizer if knobs.optimizer != "auto" else ("paged_adamw_8bit" if cuda else "adamw")
    return SFTConfig(
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
        save_steps=10**9,  # `Course` says when
        save_total_limit=2,
        eval_strategy="no",
        report_to=[],
        use_cpu=not cuda,
        bf16=False,  # `TreeLoss` computes under autocast itself
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def _initial_loss(run: Run, trainer: LayoutTrainer, *, resumed: bool) -> float:
    """Validation loss of the untrained adapter, which is the base's; a run that is resumed finds it in its work."""
    known = run.work / "initial.json"
    if resumed:
        return float(orjson.loads(known.read_bytes()))
    loss = trainer.validate()
    if trainer.is_world_process_zero():
        write_atomic(known, orjson.dumps(loss))
    return loss


def _fit(trainer: LayoutTrainer, course: Course, resume: Path | None) -> None:
    """Train; SIGTERM ends with a checkpoint, from which the same plan goes on."""

    def interrupt(signum: int, frame: object) -> None:
        course.interrupted = True

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finally:
        signal.signal(signal.SIGTERM, before)
    if course.interrupted:
        raise GrokoraError(
            f"Training was asked to stop at step {trainer.state.global_step}; run the same plan again to go on."
        )


def _publish(run: Run, trainer: LayoutTrainer, facts: dict[str, Any]) -> Result:
    result = record(run, trainer, facts)
    if trainer.is_world_process_zero():
        run.output.mkdir(parents=True, exist_ok=True)
        save_adapter(trainer.model, run.output, run.base_id)
        (run.output / "training.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
        (run.output / "README.md").write_text(model_card(result), encoding="utf-8")
        write_checksums(run.output)
        shutil.rmtree(run.work)
    return result
