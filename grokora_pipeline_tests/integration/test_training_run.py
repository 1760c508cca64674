"""The training worker on a tiny model: what it writes, that it resumes, and that processes and layouts agree."""

import errno
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.training.tokenize import tokenize_split
from grokora_pipeline_tests.tiny import tiny_base

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
KNOBS: dict[str, Any] = {"preset": "sample", "rank": 4, "batch_size": 4, "max_steps": 8}
KNOBS |= {"target_modules": "all-linear", "learning_rate": 0.01, "loraplus_lr_ratio": 1, "schedule": "cosine"}


def examples(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Two steps a session, the second of which repeats the first."""
    chooser = random.Random(seed)
    made: list[dict[str, Any]] = []
    for number in range(count // 2):
        place = [chooser.randrange(100), chooser.randrange(100)]
        first = {"role": "user", "content": f"Click the Save button at ({place[0]}, {place[1]})."}
        answer = {"role": "assistant", "content": json.dumps({"action": "left_click", "coordinate": place})}
        meta = {"session_id": f"s{number}", "turn_id": f"t{number}", "weight": chooser.choice([0.5, 1.0])}
        system = {"role": "system", "content": "You are the actor of a desktop swarm. Answer with one tool call."}
        made.append({"prompt": [system, first], "completion": [answer], "meta": meta})
        again = {"role": "user", "content": "And now?"}
        done = {"role": "assistant", "content": '{"valid": true}'}
        made.append({"prompt": [system, first, answer, again], "completion": [done], "meta": meta})
    return made


@pytest.fixture(scope="module")
def split(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    sides = ["validation" if index >= 32 else "train" for index in range(40)]
    tokenize_split(examples(40), sides, ChatFormat.load(base), folder, max_length=512, seed=7)
    return folder


def write_plan(folder: Path, base: Path, split: Path, **knobs: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    plan = {
        "base": str(base),
        "base_id": "org/tiny",
        "split": str(split),
        "output": str(folder / "adapter"),
        "agent": "actor",
        "knobs": {**KNOBS, **knobs},
        "versions": {"actor/tokenized_split": "abc"},
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def command(plan: Path) -> list[str]:
    return [sys.executable, "-m", "grokora_pipeline.training", str(plan)]


def run(plan: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(plan), capture_output=True, text=True, env=ENVIRONMENT, check=False)


def train_here(plan: Path) -> dict[str, Any]:
    """Train in this process: one of its own imports for six seconds, which only a test that is about it needs."""
    from grokora_pipeline.training.run import train
    from grokora_pipeline.workers.frame import Reporter

    return train(json.loads(plan.read_text()), Reporter())


def training(plan: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((plan.parent / "adapter" / "training.json").read_text())
    return document


def weights(plan: Path) -> Any:
    import torch

    tensors = load_file(plan.parent / "adapter" / "adapter_model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def distance(first: Path, second: Path) -> float:
    """Relative distance of two adapters' weights."""
    a, b = weights(first), weights(second)
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def undisturbed(base: Path, split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = write_plan(tmp_path_factory.mktemp("undisturbed"), base, split)
    answer = run(plan)
    assert answer.returncode == 0, answer.stderr
    return plan


@pytest.mark.slow
def test_the_memory_prediction_is_within_fifteen_percent(undisturbed: Path) -> None:
    assert abs(training(undisturbed)["memory_prediction_error"]) < 0.15


@pytest.mark.slow
def test_an_adapter_folder_holds_weights_record_card_and_checksums(undisturbed: Path) -> None:
    folder = undisturbed.parent / "adapter"
    record = training(undisturbed)
    assert record["validation_loss"] < record["initial_validation_loss"]
    assert record["self_test"]["exact"]
    assert record["real_tokens"] > record["computed_tokens"]
    assert record["predicted_memory_mib"] > 0
    assert [point["step"] for point in record["history"] if "loss" in point] == list(range(1, 9))
    names = {path.name for path in folder.iterdir()}
    wanted = {"adapter_model.safetensors", "adapter_config.json", "training.json", "README.md", "checksums.json"}
    assert names == wanted | {"tensorboard"}
    assert json.loads(undisturbed.with_suffix(".result.json").read_text()) == record


@pytest.mark.slow
def test_tensorboard_shows_loss_speed_and_memory(undisturbed: Path) -> None:
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")  # has no types
    events = reader.EventAccumulator(str(undisturbed.parent / "adapter" / "tensorboard"))
    events.Reload()
    assert {"loss", "learning_rate", "eval_loss", "tokens_per_second", "memory_mib"} <= {*events.Tags()["scalars"]}
    assert len(events.Scalars("loss")) == 8


@pytest.mark.slow
def test_nothing_of_this_machine_and_no_pickle_is_left(undisturbed: Path) -> None:
    folder = undisturbed.parent / "adapter"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/tiny"
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert str(undisturbed.parent).encode() not in path.read_bytes()
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    assert not folder.with_name("adapter.work").exists()


@pytest.mark.slow
def test_the_same_plan_makes_the_same_adapter(undisturbed: Path, base: Path, split: Path, tmp_path: Path) -> None:
    again = write_plan(tmp_path, base, split)
    train_here(again)
    assert distance(again, undisturbed) < 1e-6


@pytest.mark.parametrize("ratio", [1, 8])
def test_loraplus_gives_b_a_rate_of_its_own(base: Path, split: Path, tmp_path: Path, ratio: int) -> None:
    knobs = {"learning_rate": 1e-3, "schedule": "constant", "warmup": 0, "max_grad_norm": 0, "max_steps": 1}
    plan = write_plan(tmp_path, base, split, **knobs, loraplus_lr_ratio=ratio)
    train_here(plan)
    b = load_file(plan.parent / "adapter" / "adapter_model.safetensors")
    steps = [abs(tensor).max() for name, tensor in b.items() if "lora_B" in name]
    assert [float(step) for step in steps] == pytest.approx([1e-3 * ratio] * len(steps), rel=0.01)  # Adam's first step


@pytest.mark.slow
def test_a_run_killed_at_random_steps_ends_where_it_would_have(
    undisturbed: Path, base: Path, split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(tmp_path, base, split, checkpoint_steps=1)
    for wanted in sorted(random.Random(3).sample(range(1, 7), 2)):
        kill_after_checkpoint(plan, wanted, signal.SIGKILL)
    train_here(plan)
    assert "going on from checkpoint-" in capsys.readouterr().out
    assert training(plan)["validation_loss"] == pytest.approx(training(undisturbed)["validation_loss"], rel=1e-3)
    assert distance(plan, undisturbed) < 1e-3
    counts = ("real_tokens", "computed_tokens", "label_tokens_seen")
    assert [training(plan)[name] for name in counts] == [training(undisturbed)[name] for name in counts]
    losses = [[point["loss"] for point in training(at)["history"] if "loss" in point] for at in (plan, undisturbed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def kill_after_checkpoint(plan: Path, step: int, how: signal.Signals) -> int:
    """Start the plan, send the signal once a checkpoint of the step (or later) is whole; returns the exit status."""
    work = plan.parent / "adapter.work"
    process = subprocess.Popen(command(plan), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(path.parent.name.rpartition("-")[2]) >= step for path in work.glob("checkpoint-*/complete")):
            process.send_signal(how)
            break
        time.sleep(0.02)
    return process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_and_says_so(base: Path, split: Path, tmp_path: Path, how: signal.Signals) -> None:
    plan = write_plan(tmp_path, base, split, checkpoint_steps=2, max_steps=400, epochs=200.0)
    status = kill_after_checkpoint(plan, 2, how)
    assert status == 2
    assert "asked to stop at step" in json.loads(plan.with_suffix(".result.json").read_text())["error"]
    work = plan.parent / "adapter.work"
    kept = [int(path.parent.name.rpartition("-")[2]) for path in work.glob("checkpoint-*/complete")]
    assert max(kept) >= 2
    assert not (plan.parent / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_a_signal_while_loading_is_one_sentence(base: Path, split: Path, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, base, split)
    process = subprocess.Popen(
        command(plan), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "Loading torch" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.startswith("error: stopped by SIGTERM")
    assert "Traceback" not in errors


def test_a_signal_while_the_gpus_are_counted_is_one_sentence_and_threads_are_patient_already(tmp_path: Path) -> None:
    """Counting imports torch: two seconds in which Ctrl-C was a traceback, and after which torch was imported again."""
    code = """
import os, signal, sys
from grokora_pipeline.workers.frame import run
def launch(plan_file):
    print(os.environ["OMP_WAIT_POLICY"], flush=True)
    os.kill(os.getpid(), signal.SIGINT)
run(lambda plan, reporter: {}, [sys.argv[1]], launch=launch)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "plan.json")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, "passive\n")
    assert done.stderr.startswith("error: stopped by SIGINT")


@pytest.mark.slow
def test_a_finished_training_is_found_by_its_retry(base: Path, split: Path, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, base, split, max_steps=2)
    document = json.loads(plan.read_text())
    plan.write_text(json.dumps({**document, "work": str(tmp_path / "work")}))
    train_here(plan)
    before = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir() if path.is_file()}
    shutil.rmtree(tmp_path / "adapter")  # the step was killed before it published, and its staging folder removed
    answer = run(plan)
    assert answer.returncode == 0, answer.stderr
    assert "was finished before" in answer.stdout
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir() if path.is_file()} == before
    assert json.loads(plan.with_suffix(".result.json").read_text()) == training(plan)


@pytest.mark.slow
def test_two_runs_of_one_training_do_not_work_in_one_folder(base: Path, split: Path, tmp_path: Path) -> None:
    plans = [write_plan(tmp_path / name, base, split, max_steps=2) for name in ("first", "second")]
    for plan in plans:
        plan.write_text(json.dumps({**json.loads(plan.read_text()), "work": str(tmp_path / "work")}))
    pipes: dict[str, Any] = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command(plan), **pipes) for plan in plans]
    shown = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert ["was finished before" in text for text in shown].count(True) == 1
    assert distance(*plans) == 0


def test_a_kill_after_the_work_is_removed_does_not_train_again(
    base: Path, split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(tmp_path, base, split, max_steps=2)
    train_here(plan)  # no result is written, as if it had been killed before it could
    assert not (tmp_path / "adapter.work").exists()
    capsys.readouterr()
    train_here(plan)
    assert "was finished before" in capsys.readouterr().out
    train_here(write_plan(tmp_path, base, split, max_steps=3))
    assert "was finished before" not in capsys.readouterr().out


def count_steps(monkeypatch: pytest.MonkeyPatch, at_step: Callable[[int], None] = lambda _: None) -> list[float]:
    """A list that grows with every backward pass of a training from here on; `at_step` is told how many there are."""
    from grokora_pipeline.training.gradients import TreeLoss

    compute, steps = TreeLoss.run, list[float]()

    def counted(losses: TreeLoss, root: Any, **how: Any) -> float:
        if how["backward"]:
            steps.append(how["scale"])
            at_step(len(steps))
        return float(compute(losses, root, **how))

    monkeypatch.setattr(TreeLoss, "run", counted)
    return steps


@pytest.mark.slow
def test_asking_to_stop_in_the_last_step_or_while_writing_loses_nothing(
    undisturbed: Path, base: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grokora_pipeline.training import run as module

    write = module._write_adapter
    steps = count_steps(monkeypatch, lambda done: os.kill(os.getpid(), signal.SIGTERM) if done == 8 else None)

    def written(*given: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return write(*given)

    monkeypatch.setattr(module, "_write_adapter", written)
    plan = write_plan(tmp_path, base, split, self_test=False)
    record = train_here(plan)
    assert record["steps"] == len(steps) == 8
    assert record["validation_loss"] == pytest.approx(training(undisturbed)["validation_loss"], rel=1e-6)
    assert (tmp_path / "adapter" / "checksums.json").is_file()


@pytest.mark.slow
def test_a_training_that_is_over_is_never_done_again(
    undisturbed: Path, base: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grokora_pipeline.training import run as module
    from grokora_pipeline.workers.frame import Reporter

    write = module._write_adapter
    steps = count_steps(monkeypatch)

    def full(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    plan = write_plan(tmp_path, base, split, self_test=False)
    document = {**json.loads(plan.read_text()), "work": str(tmp_path / "work")}
    monkeypatch.setattr(module, "_write_adapter", full)
    with pytest.raises(OSError, match="No space left"):
        module.train(document, Reporter())
    monkeypatch.setattr(module, "_write_adapter", write)
    counts = tmp_path / "work" / "checkpoint-8" / "throughput.json"
    counts.write_text(json.dumps({**json.loads(counts.read_text()), "validation_seconds": 1000.0}))
    record = module.train(document, Reporter())
    assert record["steps"] == len(steps) == 8
    assert record["wall_seconds"] > 1000  # those of the attempt that trained
    assert distance(plan, undisturbed) < 1e-6
    for folder in (tmp_path / "adapter", tmp_path / "work" / "adapter"):  # as a power cut may leave it
        (folder / "adapter_model.safetensors").write_bytes(b"")
    assert module.train(document, Reporter())["steps"] == len(steps) == 8
    assert distance(plan, undisturbed) < 1e-6


def stop_together(rank: int, meeting: Path) -> None:
    """A signal reaches one of two processes, then the deadline the other, then neither."""
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from grokora_pipeline.training.callbacks import ScheduleCallback, Throughput

    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    arguments, state = TrainingArguments(use_cpu=True, report_to=[]), TrainerState(global_step=3, max_steps=9)
    for asked, late in ((1, -1), (-1, 0), (-1, -1)):
        hours, started = 0.0 if rank == late else 3600.0, time.monotonic()
        schedule = ScheduleCallback(4, 4, hours, Throughput(), started, interrupted=rank == asked)
        control = TrainerControl()
        schedule.on_step_end(arguments, state, control)
        assert (schedule.stopped, schedule.deadline_hit) == (asked == 1, late == 0)
        assert control.should_training_stop == control.should_save == (asked == 1 or late == 0)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_several_processes_stop_at_the_same_step(tmp_path: Path) -> None:
    start = multiprocessing.get_context("spawn").Process
    processes = [start(target=stop_together, args=(rank, tmp_path / "meeting"), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
@pytest.mark.parametrize("kibibytes", [4, 0])
def test_a_disk_that_takes_no_more_is_one_sentence_and_loses_nothing(
    undisturbed: Path, base: Path, split: Path, tmp_path: Path, *, kibibytes: int
) -> None:
    """A quota stops the adapter's first copy, or the optimiser's state, which is larger, in the first checkpoint."""
    size = (undisturbed.parent / "adapter" / "adapter_model.safetensors").stat().st_size
    quota = kibibytes * 1024 or round(1.3 * size)
    plan = write_plan(tmp_path, base, split, checkpoint_steps=2, self_test=False)
    answer = subprocess.run(
        ["prlimit", f"--fsize={quota}", *command(plan)], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert answer.returncode == 2, answer.stderr
    assert "cannot be used (" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert json.loads(plan.with_suffix(".result.json").read_text())["error"] in answer.stderr
    train_here(plan)
    assert distance(plan, undisturbed) < 1e-6


def test_a_folder_of_somebody_else_is_never_emptied(base: Path, split: Path, tmp_path: Path) -> None:
    from grokora_pipeline.training.job import Run

    plan = json.loads(write_plan(tmp_path / "plan", base, split).read_text())
    mine = tmp_path / "thesis"
    (mine / "adapter").mkdir(parents=True)
    (mine / "thesis.tex").write_text("of three years")
    for name in ("output", "work"):
        with pytest.raises(GrokoraError, match=r"thesis holds thesis\.tex, which is of no training"):
            Run.of({**plan, name: str(mine)})


def test_a_best_adapter_newer_than_the_checkpoint_gives_way_to_the_untrained_one(base: Path, tmp_path: Path) -> None:
    from grokora_pipeline.models.loading import load_base
    from grokora_pipeline.training.adapter import adapter_weights, add_adapter, trainable_parameters
    from grokora_pipeline.training.callbacks import BestAdapterCallback
    from grokora_pipeline.training.plan import resolve_knobs

    model = add_adapter(load_base(base), resolve_knobs("sample"))
    untrained = {name: tensor.clone() for name, tensor in adapter_weights(model).items()}
    best = BestAdapterCallback(tmp_path / "best.safetensors")
    best.keep(model, 2.0, 0, write=True)
    for parameter in trainable_parameters(model).values():
        parameter.data += 1
    best.keep(model, 1.0, 6, write=True)
    again = add_adapter(load_base(base), resolve_knobs("sample"))
    later, earlier = BestAdapterCallback(best.file), BestAdapterCallback(best.file)
    later.resume(again, 8, write=True)
    assert (later.step, later.loss, later.initial_loss) == (6, 1.0, 2.0)
    earlier.resume(again, 4, write=True)  # killed after the validation of step 6, before the checkpoint of step 8
    assert (earlier.step, earlier.loss, earlier.initial_loss) == (0, 2.0, 2.0)
    earlier.restore(model)
    assert all(bool((tensor == untrained[name]).all()) for name, tensor in adapter_weights(model).items())


def test_a_resumed_run_stops_early_where_it_would_have(base: Path, tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState

    from grokora_pipeline.models.loading import load_base
    from grokora_pipeline.training.adapter import add_adapter
    from grokora_pipeline.training.callbacks import BestAdapterCallback
    from grokora_pipeline.training.plan import resolve_knobs

    model, state, control = add_adapter(load_base(base), resolve_knobs("sample")), TrainerState(), TrainerControl()
    first = BestAdapterCallback(tmp_path / "best.safetensors", patience=2)
    resumed = BestAdapterCallback(first.file, patience=2)
    first.keep(model, 2.0, 0, write=True)

    def validated(best: BestAdapterCallback, step: int, loss: float) -> bool:
        state.global_step = step
        state.log_history.append({"eval_loss": loss, "step": step})
        best.on_evaluate(None, state, control, {"eval_loss": loss}, model=model)
        return bool(control.should_training_stop)

    assert not validated(first, 1, 1.0)
    assert not validated(first, 2, 1.5)
    resumed.resume(model, 2, write=True)  # killed here; the checkpoint holds the log
    assert validated(resumed, 3, 1.2)
    assert (resumed.step, resumed.loss) == (1, 1.0)


@pytest.mark.slow
def test_training_stops_at_the_first_loss_that_is_not_finite(
    base: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grokora_pipeline.training.gradients import TreeLoss
    from grokora_pipeline.training.run import train
    from grokora_pipeline.workers.frame import Reporter

    compute, steps = TreeLoss.run, list[float]()

    def broken(losses: TreeLoss, root: Any, **how: Any) -> float:
        total = float(compute(losses, root, **how))
        if how["backward"]:
            steps.append(total)
        return float("nan") if len(steps) == 4 else total

    monkeypatch.setattr(TreeLoss, "run", broken)
    plan = write_plan(tmp_path, base, split, self_test=False)
    with pytest.raises(GrokoraError, match=r"stopped at step 4: its loss is nan.*last good checkpoint \(step 3\)"):
        train(json.loads(plan.read_text()), Reporter())
    assert (tmp_path / "adapter.work" / "checkpoint-3" / "complete").is_file()
    monkeypatch.setattr(TreeLoss, "run", compute)
    assert train(json.loads(plan.read_text()), Reporter())["steps"] == 8
    steps[:] = [0.0, 0.0, 0.0]
    monkeypatch.setattr(TreeLoss, "run", broken)
    plan = write_plan(tmp_path / "first", base, split, self_test=False)
    with pytest.raises(GrokoraError, match=r"stopped at step 1: .* not finite\. Lower learning_rate"):
        train(json.loads(plan.read_text()), Reporter())


def test_an_adapter_worse_than_the_untrained_one_is_not_published(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = examples(12)
    for row in rows[8:]:  # what is learnt from the others makes these less likely
        row["completion"] = [{"role": "assistant", "content": "~^`;!%@#?*|<>_+$&" * 2}]
    sides = ["validation" if index >= 8 else "train" for index in range(12)]
    tokenize_split(rows, sides, ChatFormat.load(base), tmp_path / "split", max_length=512, seed=7)
    record = train_here(write_plan(tmp_path, base, tmp_path / "split", epochs=4.0))
    assert (record["best_step"], record["validation_loss"]) == (0, record["initial_validation_loss"])
    assert "nothing better than the untrained adapter" in capsys.readouterr().out
    assert record["history"][-1]["eval_loss"] > record["initial_validation_loss"]


def test_a_runs_max_length_leaves_longer_rows_out(
    base: Path, split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = train_here(write_plan(tmp_path, base, split, max_length=90, max_steps=1))
    assert 0 < record["rows_too_long"] == 40 - record["train_rows"] - record["validation_rows"]
    assert f"{record['rows_too_long']} rows over max_length 90 left out" in capsys.readouterr().out


def split_of(folder: Path, train: list[list[int]], validation: list[list[int]]) -> Path:
    """A split of rows whose tokens after the first are all learnt."""
    from datasets import Dataset, DatasetDict

    facts = {"turn_id": "t", "group": "s", "weight": 1.0}
    sides = {
        side: Dataset.from_list([{"input_ids": ids, "completion_mask": [1] * len(ids), **facts} for ids in rows])
        for side, rows in (("train", train), ("validation", validation))
    }
    DatasetDict(sides).save_to_disk(str(folder))
    return folder


def test_a_row_of_one_token_teaches_nothing_and_is_left_out(base: Path, tmp_path: Path) -> None:
    from grokora_pipeline.training.job import Run

    rows = [[3, 4, 5], [6], [7, 8]]
    plan = json.loads(write_plan(tmp_path, base, split_of(tmp_path / "split", rows, [[9], [3, 9]])).read_text())
    read = Run.of(plan)
    assert [row.ids for row in read.train_rows] == [(3, 4, 5), (7, 8)]
    assert [row.ids for row in read.validation_rows] == [(3, 9)]
    with pytest.raises(GrokoraError, match=r"0 training and 0 validation rows .* an answer to learn"):
        Run.of({**plan, "split": str(split_of(tmp_path / "other", [[3], [4]], [[5]]))})


def damage(base: Path, kind: str) -> None:
    from safetensors.torch import load_file, save_file

    config, file = base / "config.json", base / "model.safetensors"
    if kind == "shapes":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 64}))
    if kind == "numbers":
        weights = load_file(file)
        weights["model.norm.weight"] *= float("nan")
        save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "token", "reason"),
    [
        ("none", 512, "holds the token 512, but the base model knows 512"),
        ("shapes", 9, "not of the shapes that its config.json says"),
        ("numbers", 9, "its weights are damaged"),
    ],
)
def test_what_is_wrong_with_a_base_is_said_of_it(tmp_path: Path, kind: str, token: int, reason: str) -> None:
    from grokora_pipeline.training.run import train
    from grokora_pipeline.workers.frame import Reporter

    folder = tiny_base(tmp_path / "base")
    damage(folder, kind)
    rows = split_of(tmp_path / "split", [[3, 4, token], [7, 8]], [[5, 6]])
    with pytest.raises(GrokoraError, match=reason):
        train(json.loads(write_plan(tmp_path, folder, rows).read_text()), Reporter())


@pytest.mark.slow
def test_two_processes_train_what_one_trains(undisturbed: Path, base: Path, split: Path, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, base, split, num_processes=2)
    answer = run(plan)
    assert answer.returncode == 0, answer.stderr
    record = training(plan)
    assert record["processes"] == 2
    assert record["validation_loss"] == pytest.approx(training(undisturbed)["validation_loss"], rel=1e-2)
    assert distance(plan, undisturbed) < 0.05


@pytest.mark.slow
def test_processes_that_hold_the_base_together_train_what_one_trains(base: Path, split: Path, tmp_path: Path) -> None:
    knobs = {"packing": "padded", "quantisation": "nf4", "checkpoint_steps": 3, "batch_size": 3}
    alone = write_plan(tmp_path / "alone", base, split, **knobs)
    together = write_plan(tmp_path / "together", base, split, **knobs, num_processes=2, shard_base=True)
    for plan in (alone, together):
        answer = run(plan)
        assert answer.returncode == 0, answer.stderr
    records = [training(plan) for plan in (alone, together)]
    assert [record["processes"] for record in records] == [1, 2]
    assert records[0]["trainable_share"] == records[1]["trainable_share"]
    assert records[1]["validation_loss"] == pytest.approx(records[0]["validation_loss"], rel=1e-2)
    assert distance(together, alone) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("packing", "checkpointing"), [("padded", "on"), ("padded", "auto")])
def test_every_layout_learns_the_same(
    undisturbed: Path, base: Path, split: Path, tmp_path: Path, *, packing: str, checkpointing: str
) -> None:
    record = train_here(write_plan(tmp_path, base, split, packing=packing, checkpointing=checkpointing))
    assert record["layout"] == packing
    assert record["budget"]["checkpointing"] is (checkpointing == "on")
    assert record["validation_loss"] == pytest.approx(training(undisturbed)["validation_loss"], rel=1e-2)


@pytest.mark.slow
def test_a_quantised_base_trains_and_merges_into_the_unquantised_one(base: Path, split: Path, tmp_path: Path) -> None:
    from grokora_pipeline.models.merge import merge
    from grokora_pipeline.workers.frame import Reporter

    record = train_here(write_plan(tmp_path, base, split, quantisation="nf4"))
    assert record["quantisation"] == "nf4"
    assert record["self_test"]["exact"]
    assert record["validation_loss"] < record["initial_validation_loss"]
    prompts = [{"prompt": [{"role": "user", "content": "Click the Save button at (1, 2)."}]}]
    folders = {"base": str(base), "adapter": str(tmp_path / "adapter"), "output": str(tmp_path / "merged")}
    assert merge({**folders, "prompts": prompts}, Reporter())["agrees"]
    assert (tmp_path / "merged" / "tokenizer.json").is_file()


def test_an_unknown_layer_lists_the_models_own(base: Path, split: Path, tmp_path: Path) -> None:
    own = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(GrokoraError, match=f"no layer 'query'; it has {own}"):
        train_here(write_plan(tmp_path, base, split, target_modules=["query"]))


def test_the_deadline_stops_with_the_best_adapter(
    base: Path, split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(tmp_path, base, split, deadline_hours=1e-6)
    document = {**json.loads(plan.read_text()), "work": str(tmp_path / "work")}
    plan.write_text(json.dumps(document))
    record = train_here(plan)
    assert record["deadline_hit"]
    assert record["steps"] < record["steps_planned"]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    document["knobs"]["deadline_hours"] = 1.0  # more hours for what was cut short
    plan.write_text(json.dumps(document))
    assert train_here(plan)["steps"] == record["steps_planned"]
    assert f"going on from checkpoint-{record['steps']}" in capsys.readouterr().out


@pytest.mark.slow
def test_out_of_memory_halves_the_batches_and_loses_nothing(
    undisturbed: Path, base: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from grokora_pipeline.training.gradients import TreeLoss
    from grokora_pipeline.training.run import train
    from grokora_pipeline.workers.frame import Reporter

    compute, tries = TreeLoss.run, list[int]()

    def tight(losses: TreeLoss, root: Any, *, scale: float = 1.0, backward: bool = False, idle: int = 0) -> float:
        total = float(compute(losses, root, scale=scale, backward=backward, idle=idle))
        if backward and scale != 1.0:  # a training step: too large until its batches are a quarter
            tries.append(losses.layout.token_budget)
            if tries[-1] > tries[0] // 4:
                raise torch.OutOfMemoryError("no memory left")
        return total

    monkeypatch.setattr(TreeLoss, "run", tight)
    plan = write_plan(tmp_path, base, split, packing="padded")
    record = train(json.loads(plan.read_text()), Reporter())
    assert tries[:3] == [tries[0], tries[0] // 2, tries[0] // 4]
    assert (record["out_of_memory_halvings"], record["token_budget"]) == (2, tries[0] // 4)
    assert record["validation_loss"] == pytest.approx(training(undisturbed)["validation_loss"], rel=1e-2)


@pytest.mark.slow
def test_a_trained_adapter_can_be_shrunk(undisturbed: Path, base: Path, split: Path, tmp_path: Path) -> None:
    from grokora_pipeline.training.shrink import shrink
    from grokora_pipeline.workers.frame import Reporter

    adapter = undisturbed.parent / "adapter"
    folders = {"base": str(base), "adapter": str(adapter), "split": str(split), "output": str(tmp_path / "small")}
    result = shrink({**folders, "rank": 2}, Reporter())
    assert (result["rank_before"], result["rank"]) == (4, 2)
    assert result["bytes"] < 0.6 * result["bytes_before"]
    assert result["bytes_int8"] < result["bytes"]
    assert result["validation_loss_before"] == pytest.approx(training(undisturbed)["validation_loss"], rel=1e-3)
    assert result["validation_loss_int8"] == pytest.approx(result["validation_loss_after"], rel=1e-2)
    assert result["validation_loss_after"] < training(undisturbed)["initial_validation_loss"]
