"""The prefix tree is exact: loss and gradient of every layout are those of row-by-row training."""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import LlamaForCausalLM

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.loading import load_base
from grokora_pipeline.training import budget, prepare, selftest
from grokora_pipeline.training.adapter import add_adapter, trainable_parameters
from grokora_pipeline.training.attention import use_attention
from grokora_pipeline.training.gradients import TreeLoss
from grokora_pipeline.training.layout import Layout, Row
from grokora_pipeline.training.plan import resolve_knobs
from grokora_pipeline.training.selftest import SelfTest, probe_rows, recorded_self_test, self_test, stop_token_trained
from grokora_pipeline.training.shrink import truncate
from grokora_pipeline_tests.row_by_row import gradient, row_by_row, wake_adapter
from grokora_pipeline_tests.tiny import STOP

KINDS: tuple[Literal["tree", "padded"], ...] = ("tree", "padded")


def adapted(base: Path, **knobs: Any) -> Any:
    model = load_base(base, dtype=torch.float32, device=torch.device("cpu"))
    return wake_adapter(add_adapter(model, resolve_knobs("best", {"rank": 4, **knobs})))


def row(ids: list[int], labelled: int, weight: float = 1.0) -> Row:
    tokens = [*ids[:-1], STOP]
    weights = (0.0,) * (len(ids) - labelled) + (weight,) * labelled
    return Row(tuple(tokens), weights, "s")


def awkward_rows() -> list[Row]:
    """Chains, branches inside a completion, duplicates, weights, and a row that shares nothing."""
    chooser = random.Random(1)

    def some(count: int) -> list[int]:
        return [chooser.randrange(3, 500) for _ in range(count)]

    system, first, second = some(60), some(10), some(12)
    start = row(system + first + some(6), 5)
    rows = [start, row([*start.ids, *some(8)], 4, 0.5), row(system + first + some(9), 5)]
    rows += [row(system + second, 3, 2.0), row(system + second, 3), row(system + second[:6] + some(7), 4)]
    return [*rows, row(some(20), 19)]


@pytest.mark.parametrize("attention", ["short", "sdpa"])
@pytest.mark.parametrize("kind", ["tree", "padded"])
@pytest.mark.parametrize(("token_budget", "loss_chunk"), [(40, 0), (4096, 7)])
def test_loss_and_gradient_are_those_of_row_by_row_training(
    base: Path, attention: str, kind: Literal["tree", "padded"], token_budget: int, loss_chunk: int
) -> None:
    model, rows = adapted(base), awkward_rows()
    wanted, expected = row_by_row(model, rows)
    use_attention(model.get_base_model(), attention)
    layout = Layout(kind, token_budget, attention, loss_chunk)
    found = float(TreeLoss(model.get_base_model(), layout).run(layout.of(rows), backward=True))
    assert found == pytest.approx(wanted, rel=1e-6)
    assert float((gradient(model) - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_may_have_a_weight_of_its_own_and_of_either_sign(
    base: Path, kind: Literal["tree", "padded"]
) -> None:
    chooser = random.Random(3)
    rows = [
        Row(each.ids, tuple(weight and chooser.uniform(-1, 1) for weight in each.weights), each.group)
        for each in awkward_rows()
    ]
    model = adapted(base)
    wanted, expected = row_by_row(model, rows)
    layout = Layout(kind, 64, loss_chunk=5)
    total = float(TreeLoss(model.get_base_model(), layout).run(layout.of(rows), backward=True))
    assert total == pytest.approx(wanted, 1e-5)
    assert float((gradient(model) - expected).norm() / expected.norm()) < 1e-5


MLP = {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("targets", "expected_modules"),
    [("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", *MLP}), ("mlp", MLP), (("down_proj",), {"down_proj"})],
    ids=["all", "mlp", "named"],
)
def test_only_the_last_layers_are_adapted_and_those_below_keep_no_graph(
    base: Path, targets: Any, expected_modules: set[str]
) -> None:
    model, rows = adapted(base, last_layers=1, target_modules=targets), awkward_rows()
    places = {(parts[-6], parts[-4]) for parts in (name.split(".") for name in trainable_parameters(model))}
    assert places == {("1", module) for module in expected_modules}  # layer 1 of 0 and 1
    wanted, expected = row_by_row(model, rows)
    first, graphs = model.get_base_model().model.layers[0], list[bool]()
    first.register_forward_hook(lambda _, __, hidden: graphs.append(hidden.requires_grad))
    layout = Layout("tree", 64)
    total = float(TreeLoss(model.get_base_model(), layout).run(layout.of(rows), backward=True))
    assert total == pytest.approx(wanted, rel=1e-6)
    assert float((gradient(model) - expected).norm() / expected.norm()) < 1e-5
    assert graphs and not any(graphs)


def test_last_layers_without_the_named_modules_are_refused(base: Path) -> None:
    with pytest.raises(GrokoraError, match=r"The last 1 of 2 layers have none of layers\.0\.mlp\.up_proj"):
        adapted(base, last_layers=1, target_modules=("layers.0.mlp.up_proj",))


def test_the_tree_computes_a_fraction_of_the_tokens(base: Path) -> None:
    model, rows = adapted(base), awkward_rows()
    layout = Layout("tree", 40)
    losses = TreeLoss(model.get_base_model(), layout)
    losses.run(layout.of(rows))
    assert losses.computed_tokens < 0.5 * sum(len(each.ids) for each in rows)


def test_the_self_test_passes_what_is_exact(base: Path) -> None:
    layouts = [Layout(kind, 64, attention, 16) for kind in KINDS for attention in ("short", "sdpa")]
    proofs = self_test(base, probe_rows(awkward_rows()), resolve_knobs("sample"), layouts)
    assert [(proof.layout, proof.attention) for proof in proofs] == [(each.kind, each.attention) for each in layouts]
    assert all(proof.exact and proof.adapter_starts_as_base for proof in proofs)


def test_the_self_test_catches_a_row_that_sees_another_rows_tokens(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grokora_pipeline.training import gradients

    def with_a_token_too_many(past: Any, rows: int) -> Any:
        past = past and [(keys.repeat(1, 1, 2, 1), values.repeat(1, 1, 2, 1)) for keys, values in past]
        return cache(past, rows)

    cache = gradients._cache
    monkeypatch.setattr(gradients, "_cache", with_a_token_too_many)
    (proof,) = self_test(base, awkward_rows(), resolve_knobs("sample"), [Layout("tree", 4096)])
    assert not proof.exact


def test_the_self_test_looks_at_the_longest_and_the_shortest_rows() -> None:
    rows = [row([*range(5, 5 + length)], 3) for length in (40, 300, 12, 90, 10)]
    assert sorted(len(each.ids) for each in probe_rows(rows)) == [10, 12, 90, 300]


def test_the_self_test_is_made_once_a_base(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs, layouts = resolve_knobs("sample"), [Layout("tree", 64)]
    first = recorded_self_test(base, awkward_rows(), knobs, layouts, tmp_path)
    monkeypatch.setattr(selftest, "self_test", lambda *_: pytest.fail("made again"))
    assert recorded_self_test(base, awkward_rows()[:3], knobs, layouts, tmp_path) == first
    longer = [*awkward_rows(), row([*range(3, 203)], 5)]
    with pytest.raises(pytest.fail.Exception, match="made again"):
        recorded_self_test(base, longer, knobs, layouts, tmp_path)


def test_a_base_whose_own_code_wants_more_than_text_is_refused_in_a_sentence(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*_: object, **__: object) -> None:
        raise TypeError("forward() missing 1 required\npositional argument: 'pixel_values'.")

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(GrokoraError, match=r"cannot be trained on text .*'pixel_values'") as caught:
        recorded_self_test(base, awkward_rows(), resolve_knobs("sample"), [Layout("tree", 64)], None)
    assert "\n" not in str(caught.value)


def test_a_layout_that_is_not_exact_gives_way_to_padded_rows_or_is_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, told = {"tree"}, list[str]()

    def proven(base: Path, rows: Sequence[Row], knobs: Any, layouts: Sequence[Layout], **_: Any) -> list[SelfTest]:
        facts: dict[str, Any] = {"adapter_starts_as_base": True, "layers": 2, "longest_row": 9, "shortest_row": 9}
        return [
            SelfTest(each.kind, each.attention, 0.0, 0.5, exact=each.kind not in wrong, **facts) for each in layouts
        ]

    monkeypatch.setattr(prepare, "recorded_self_test", proven)
    ready = partial(prepare.prepare, base, rows=awkward_rows(), steps=[[0, 1]], knobs=resolve_knobs("sample"))
    prepared = ready(device=torch.device("cpu"), tell=told.append)
    assert prepared.proof is not None
    assert (prepared.layout.kind, prepared.proof.layout, prepared.proof.attention) == ("padded", "padded", "short")
    assert "tree layout is not exact on LlamaForCausalLM" in told[-1]
    wrong.add("padded")
    with pytest.raises(GrokoraError, match="padded layout is not exact on LlamaForCausalLM"):
        ready(device=torch.device("cpu"), tell=told.append)


def test_an_untrained_stop_token_is_seen() -> None:
    rows = [row([*range(5, 30)], 5) for _ in range(2)]
    assert stop_token_trained(rows, [STOP])
    assert not stop_token_trained(rows, [499])


def test_less_memory_means_smaller_batches_then_checkpointing_then_an_error() -> None:
    shape = budget.ModelDimensions(32, 4096, 4096, 32, 14336, 128_256, 2, norms=8192)  # Llama-3-8B
    fixed = budget.FixedMemory(process=0, weights=round(5.7 * 2**30), adapter=round(0.25 * 2**30))
    steps = [[row([*range(5, 505)], 100 + number) for number in range(16)]]
    padded = Layout("padded", 0, loss_chunk=256)
    choose = partial(
        budget.choose,
        steps,
        padded,
        shape,
        fixed,
        attentions=["sdpa"],
        checkpointing="auto",
        device="cuda",
    )
    chosen = {cap: choose(cap_gib=cap) for cap in (80.0, 24.0, 8.0)}
    assert chosen[80.0].token_budget > chosen[24.0].token_budget
    assert chosen[8.0].checkpointing
    assert not chosen[24.0].checkpointing
    assert all(choice.predicted_mib <= cap * 1024 for cap, choice in chosen.items())
    with pytest.raises(GrokoraError, match="more than the cap of 5 GiB"):
        choose(cap_gib=5.0)


# Runs on a CPU (2026-11-29): the budget's fixed MiB, its activations, steps, and the peak that was measured.
MEASURED = {
    "a long window": (1124, 1366, 60, 3227),
    "coordinator": (1106, 627, 95, 2270),
    "observer": (1105, 597, 60, 2173),
    "actor": (1110, 503, 195, 2192),
    "actor again": (1110, 503, 195, 2255),
    "validator": (1106, 353, 98, 1852),
    "tiny model": (666, 23, 9, 814),
    "tiny model, short rows": (666, 4.3, 8, 632),
    "tiny model, long rows": (694, 196, 6, 1071),
}


@pytest.mark.parametrize("run", MEASURED)
def test_a_cpus_budget_is_within_ten_percent_of_measured_peaks(run: str) -> None:
    fixed, activations, steps, peak = MEASURED[run]
    predicted = fixed + budget.with_heap(round(activations * budget.MIB), steps, "cpu") / budget.MIB
    assert predicted == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_truncation_keeps_the_largest_singular_values(rank: int) -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(8, 20, generator=generator), torch.randn(30, 8, generator=generator)
    new_a, new_b, kept = truncate(a, b, rank)
    values = torch.linalg.svdvals(b @ a)
    error = torch.linalg.matrix_norm(b @ a - new_b @ new_a)
    assert new_a.shape == (rank, 20)
    assert float(error) == pytest.approx(float(values[rank:].norm()), abs=1e-3)
    assert kept == pytest.approx(float(values[:rank].pow(2).sum() / values.pow(2).sum()), rel=1e-4)


def test_a_quantised_base_has_the_same_gradient_after_it_was_evaluated(base: Path) -> None:
    frozen = load_base(base, quantisation="nf4", device=torch.device("cpu"))
    model = add_adapter(frozen, resolve_knobs("best", {"rank": 4}))
    for name, parameter in trainable_parameters(model).items():
        parameter.data = torch.full_like(parameter, 0.01 if "lora_B" in name else 0.02)
    layout, gradients = Layout("padded", 64), list[torch.Tensor]()
    losses = TreeLoss(model.get_base_model(), layout)
    for _ in range(2):
        model.train()
        losses.run(layout.of(awkward_rows()), backward=True)
        gradients.append(gradient(model))
        model.eval()
        losses.run(layout.of(awkward_rows()))
    assert torch.equal(*gradients)
