"""Processes that hold a frozen base together: each has its share, and loss and gradient are those of a whole one."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.distributed.tensor import DTensor

from grokora_pipeline.models.loading import Quantisation, load_base
from grokora_pipeline.training.adapter import add_adapter, base_parameters, trainable_parameters
from grokora_pipeline.training.gradients import TreeLoss
from grokora_pipeline.training.layout import Layout, Row
from grokora_pipeline.training.plan import resolve_knobs
from grokora_pipeline.training.planner import passes
from grokora_pipeline.training.sharding import held, shard
from grokora_pipeline_tests.tiny import tiny_base

LAYERS = 4
KINDS: tuple[Quantisation, ...] = ("none", "nf4")
ROWS = [Row(tuple(range(length, 3 * length, 2)), (0.0,) * 4 + (1.0,) * (length - 4)) for length in (9, 12, 7, 10, 8)]


def losses_and_gradient(model: PeftModel, layout: Layout, mine: list[Row], idle: int) -> tuple[float, torch.Tensor]:
    trained = trainable_parameters(model)
    total = float(TreeLoss(model.get_base_model(), layout).run(layout.of(mine), backward=True, idle=idle))
    return total, torch.cat([parameter.grad.flatten() for parameter in trained.values() if parameter.grad is not None])


def one_of_two(rank: int, base: Path, quantisation: Quantisation, meeting: Path) -> None:
    """Process 0 has four rows, process 1 one; what each computes is what it would compute with a base of its own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    cpu, knobs = torch.device("cpu"), resolve_knobs("best", {"rank": 4})
    whole, shared = (add_adapter(load_base(base, quantisation=quantisation, device=cpu), knobs) for _ in range(2))
    for model in (whole, shared):
        for name, parameter in trainable_parameters(model).items():
            parameter.data = torch.full_like(parameter, 0.01 if "lora_B" in name else 0.02)
    shard(shared, cpu)
    weights = [weight for weight in shared.parameters() if isinstance(weight, DTensor)]
    assert sum(weight.to_local().numel() for weight in weights) * 2 == sum(weight.numel() for weight in weights)
    assert not any(isinstance(weight, DTensor) for weight in trainable_parameters(shared).values())
    layout = Layout("padded", 12, loss_chunk=4)
    mine, idle = (ROWS[:4], 0) if rank == 0 else (ROWS[4:], 3)
    assert sum(1 for _ in passes(layout.of(mine), layout)) + idle == 4
    for _ in range(2):
        wanted, found = (losses_and_gradient(model, layout, mine, idle) for model in (whole, shared))
        assert wanted[0] == found[0]
        assert torch.equal(wanted[1], found[1])
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("quantisation", KINDS)
def test_a_shared_base_gives_the_loss_and_gradient_of_a_whole_one(tmp_path: Path, quantisation: Quantisation) -> None:
    base = tiny_base(tmp_path / "base", layers=LAYERS)
    processes = [
        multiprocessing.get_context("spawn").Process(
            target=one_of_two, args=(rank, base, quantisation, tmp_path / "meeting"), daemon=True
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]


def test_a_process_needs_its_share_of_the_layers_and_two_whole_ones_at_work() -> None:
    assert held(100, [20, 20, 20, 20], processes=4) == 20 + 20 + 40
    assert held(100, [], processes=1) == 100


@pytest.mark.slow
def test_a_base_of_four_bits_has_as_many_parameters_as_before(tmp_path: Path) -> None:
    base, knobs = tiny_base(tmp_path), resolve_knobs("sample")
    counts = [base_parameters(add_adapter(load_base(base, quantisation=kind), knobs)) for kind in KINDS]
    assert counts[0] == counts[1]
