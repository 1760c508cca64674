"""What training must compute: loss and gradient of rows, one at a time, by the model's own forward pass."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from grokora_pipeline.training.layout import Row


def wake_adapter(model: Any) -> Any:
    """The model, whose fresh adapter has a B other than 0 from now on: the gradient of an untrained one says less."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def row_by_row(model: Any, rows: Sequence[Row]) -> tuple[float, torch.Tensor]:
    """(sum of weight x nll, its gradient)."""
    total = torch.zeros(())
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, :-1].float()
        losses = cross_entropy(logits, torch.tensor(row.ids[1:]), reduction="none")
        total = total + (losses * torch.tensor(row.weights[1:])).sum()
    torch.autograd.backward([total])
    return total.item(), gradient(model)


def gradient(model: Any) -> torch.Tensor:
    """The gradient of all parameters that have one, in one vector; it is taken off them."""
    parts = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return torch.cat(parts)
