"""Training knobs: presets, overrides and mistakes."""

import json
from pathlib import Path

import pytest

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.training.launch import launcher, processes_wanted
from grokora_pipeline.training.plan import TrainingKnobs, resolve_knobs
from grokora_pipeline.training.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_survives_json(preset: str) -> None:
    knobs = resolve_knobs(preset)
    assert TrainingKnobs.model_validate_json(knobs.model_dump_json()) == knobs


def test_the_plan_has_its_seed_numbers() -> None:
    knobs = resolve_knobs("plan")
    assert (knobs.rank, knobs.alpha, knobs.dropout, knobs.target_modules) == (16, 32, 0.05, ("q_proj", "v_proj"))
    assert (knobs.batch_size, knobs.accumulation, knobs.effective_batch) == (4, 4, 16)
    assert (knobs.learning_rate, knobs.warmup, knobs.max_length, knobs.epochs) == (1e-4, 0.1, 512, 3)


def test_the_run_wins_over_the_agent_and_the_agent_over_the_preset() -> None:
    knobs = resolve_knobs("best", {"rank": 8, "epochs": 2}, {"rank": 32})
    assert (knobs.rank, knobs.epochs, knobs.learning_rate) == (32, 2, 2e-4)


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"ranks": 8}, "did you mean 'rank'"),
        ({"colour": 1}, "known: preset, rank"),
        ({"rank": 0}, "rank=0"),
        ({"alpha": float("inf")}, "alpha=inf"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"num_processes": 0}, "num_processes=0"),
        ({"packing": "yes"}, "packing='yes'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"target_modules": []}, "target_modules"),
        ({"shard_base": True, "packing": "tree"}, "knobs do not go together: shard_base goes with nf4 or none"),
        ({"preset": "plan"}, "no training knob 'preset'"),
    ],
)
def test_a_wrong_knob_is_named(knobs: dict[str, object], reason: str) -> None:
    with pytest.raises(GrokoraError, match=reason):
        resolve_knobs("best", knobs)


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(GrokoraError, match="plan, best, sample"):
        resolve_knobs("fast")


def wanted(tmp_path: Path, gpus: int, monkeypatch: pytest.MonkeyPatch, **knobs: object) -> tuple[int, bool]:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    (tmp_path / "plan.json").write_text(json.dumps({"knobs": knobs}))
    return processes_wanted(tmp_path / "plan.json")


def test_auto_is_a_process_for_each_visible_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted(tmp_path, 4, monkeypatch) == (4, True)
    assert wanted(tmp_path, 4, monkeypatch, num_processes=2) == (2, True)
    assert wanted(tmp_path, 1, monkeypatch) == (1, True)
    assert wanted(tmp_path, 0, monkeypatch) == (1, False)
    assert wanted(tmp_path, 0, monkeypatch, num_processes=2) == (2, False)
    assert wanted(tmp_path, 4, monkeypatch, num_processes="many") == (1, False)  # the worker says what is wrong


def test_several_gpus_are_started_as_accelerate_understands_it() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    _, _, module, *arguments = [*launcher(2, cuda=True), "grokora_pipeline.training", "plan.json"]
    parsed = launch_command_parser().parse_args(arguments)
    assert module == "accelerate.commands.launch"
    assert (parsed.num_processes, parsed.module) == (2, True)
    config = load_config_from_file(parsed.config_file)
    assert (config.distributed_type, config.mixed_precision, config.num_machines) == ("MULTI_GPU", "no", 1)
    assert (parsed.training_script, parsed.training_script_args) == ("grokora_pipeline.training", ["plan.json"])


def test_dagsters_config_has_the_knobs_of_the_model_and_no_other() -> None:
    from dagster import DagsterInvalidConfigError, RunConfig, asset, materialize

    from grokora_pipeline.assets.lora_adapter import TrainingConfig

    seen: list[dict[str, object]] = []

    @asset
    def trained(config: TrainingConfig) -> None:
        seen.append(config.knobs.as_knobs())

    def run(knobs: dict[str, object]) -> None:
        materialize([trained], run_config=RunConfig(ops={"trained": {"config": {"knobs": knobs}}}))

    knobs = {"rank": 32, "epochs": 1, "packing": "padded", "target_modules": ["q_proj"], "num_processes": "auto"}
    run(knobs)
    assert seen == [knobs]
    assert resolve_knobs("best", seen[0]).target_modules == ("q_proj",)
    mistakes: list[dict[str, object]] = [{"rnak": 32}, {"packing": "joint"}, {"rank": "many"}]
    for wrong in mistakes:
        with pytest.raises(DagsterInvalidConfigError, match=next(iter(wrong))):
            run(wrong)
    assert len(seen) == 1


def test_what_a_preset_sets_can_be_set_back_to_the_default_also_in_a_plan() -> None:
    given = {"target_modules": "all-linear", "last_layers": 0, "loraplus_lr_ratio": 1.0, "schedule": "cosine"}
    knobs = resolve_knobs("sample", given)
    written = knobs.model_dump()
    assert resolve_knobs(written.pop("preset"), written) == knobs
