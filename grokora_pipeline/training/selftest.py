"""Proof, on the very model about to be trained, that the fast layout gives what row-by-row training gives (torch)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import PeftModel

from grokora_pipeline.training.attention import use_attention
from grokora_pipeline.training.gradients import TreeLoss, autocast
from grokora_pipeline.training.layout import Layout, Row

PROBE_ROWS = 4
# Relative errors (loss, gradient) that the arithmetic itself makes, several times over.
TOLERANCE = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (1e-2, 1e-1)}


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Relative error of loss and gradient of the layout against plain row-by-row training, and what else must hold."""

    layout: str
    loss_error: float
    gradient_error: float
    adapter_starts_as_base: bool
    prompt_carries_no_loss: bool
    stop_token_trained: bool
    exact: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def probe_rows(rows: Sequence[Row], count: int = PROBE_ROWS) -> list[Row]:
    """A few of the shortest rows, those of one session together so that they share what rows of this split share."""
    shortest = sorted(rows, key=lambda row: (len(row.ids), row.ids))
    session = [row for row in shortest if row.group and row.group == shortest[0].group][:2]
    return (session + [row for row in shortest if row not in session])[:count]


def self_test(model: PeftModel, rows: Sequence[Row], layout: Layout, stop_ids: Sequence[int]) -> SelfTest:
    """Compare the layout's loss and adapter gradient with the model's own forward pass, row by row."""
    training = model.training
    model.train()  # as it will be trained, checkpointing included
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    expected, wanted = _loss_and_gradient(model, Layout("plain", 1), rows)
    found, gradient = _loss_and_gradient(model, layout, rows)
    loss_error = abs(found - expected) / max(abs(expected), 1e-9)
    gradient_error = float((gradient - wanted).norm() / wanted.norm().clamp(min=1e-12))
    loss_limit, gradient_limit = TOLERANCE[model.get_base_model().dtype]
    model.train(training)
    return SelfTest(
        layout=layout.kind,
        loss_error=loss_error,
        gradient_error=gradient_error,
        adapter_starts_as_base=_starts_as_base(model, rows[0]),
        prompt_carries_no_loss=all(_labels_are_a_tail(row) for row in rows),
        stop_token_trained=all(row.weights[-1] > 0 and row.ids[-1] in stop_ids for row in rows),
        exact=loss_error <= loss_limit and gradient_error <= gradient_limit,
    )


def _loss_and_gradient(model: PeftModel, layout: Layout, rows: Sequence[Row]) -> tuple[float, torch.Tensor]:
    base = model.get_base_model()
    use_attention(base, layout.attention)
    total = TreeLoss(base, layout).run(layout.of(rows), backward=True)
    parts = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    gradient = torch.cat(parts).clone()
    model.zero_grad()
    return total, gradient


def _starts_as_base(model: PeftModel, row: Row) -> bool:
    """Whether the fresh adapter changes nothing: logits with and without it are the same."""
    weight = next(model.parameters())
    ids = torch.tensor([row.ids], device=weight.device)
    with torch.no_grad(), autocast(weight.device, weight.dtype):
        adapted = model(input_ids=ids, use_cache=False).logits
        with model.disable_adapter():
            return bool(torch.equal(adapted, model(input_ids=ids, use_cache=False).logits))


def _labels_are_a_tail(row: Row) -> bool:
    first = next((index for index, weight in enumerate(row.weights) if weight > 0), len(row.ids))
    return first > 0 and all(weight > 0 for weight in row.weights[first:])
