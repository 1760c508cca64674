"""The loss of labelled tokens through the model's own output layer, a chunk of tokens at a time (torch).

Logits of a whole batch never exist: the base is frozen, so the gradient of the hidden states can be taken chunk by
chunk in the forward pass (as in Liger Kernel's fused linear cross-entropy, arXiv 2410.10989).

TRL's `add_fused_lm_head` does the same from a table of config names (`logit_scale`, `final_logit_softcapping` …) and
projects every chunk twice. Here the model's own `forward` turns hidden states into logits, so that a soft cap
(Gemma-2), a scale (Granite, Cohere, Falcon-H1) or a bias needs no table, and a chunk is projected once.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from grokora_pipeline.training.attention import language_model, text_decoder


class _BodyOutput(BaseModelOutputWithPast):  # type: ignore[misc]
    """What a decoder returns; fields that only some architectures have (router logits, image states) are None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _KnownStates(nn.Module):
    """A model's body that has run already: it returns the hidden states [1, N, h] that it was made with.

    What else the model's `forward` asks of its body (Falcon-H1: a multiplier of the logits) is the body's own.
    """

    def __init__(self, states: Tensor, body: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.known = (states, body, decoder)  # a tuple, so that they are not registered as parts of this module

    def __getattr__(self, name: str) -> Any:
        if name == "known" or name.startswith("_"):
            return super().__getattr__(name)
        _, body, decoder = self.known
        value = getattr(body, name)
        return self if value is decoder else value  # OPT asks its body's decoder, not the body

    def forward(self, *_: Any, **__: Any) -> _BodyOutput:
        """What the body computed before, whatever is asked."""
        return _BodyOutput(last_hidden_state=self.known[0])


class OutputHead:
    """A causal language model without its decoder: hidden states to logits, exactly as the model's `forward` does."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.decoder = language_model(model), text_decoder(model)
        self.body = next(name for name, child in self.model.named_children() if self.decoder in set(child.modules()))

    def logits(self, states: Tensor) -> Tensor:
        """Logits [N, V] of hidden states [N, h]."""
        modules = self.model._modules
        body = modules[self.body]
        assert body is not None
        modules[self.body] = _KnownStates(states[None], body, self.decoder)
        try:
            ids = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[0]
            return logits
        finally:
            modules[self.body] = body

    def loss(self, states: Tensor, targets: Tensor, weights: Tensor, chunk: int) -> tuple[Tensor, Tensor | None]:
        """Sum of weight x nll in nats over N tokens, and its gradient [N, h] (None if none is needed).

        states [N, h], targets [N] and weights [N]; logits of `chunk` tokens exist at once, 0: of all.
        """
        total, gradients = states.new_zeros((), dtype=torch.float32), list[Tensor]()
        needed = torch.is_grad_enabled() and states.requires_grad
        size = chunk or max(1, len(states))
        parts = (torch.split(part, size) for part in (states.detach(), targets, weights))
        for part, following, weight in zip(*parts, strict=True):
            leaf = part.requires_grad_(needed)
            nll = cross_entropy(self.logits(leaf).float(), following, reduction="none")
            loss = (nll * weight).sum()
            total += loss.detach()
            if needed and len(part):
                gradients += torch.autograd.grad(loss, leaf)
        return total, torch.cat(gradients) if gradients else None

    def nlls(self, states: Tensor, targets: Tensor, chunk: int) -> Tensor:
        """The nll in nats of each of N tokens, from hidden states [N, h] and targets [N]; no gradient is needed."""
        size = chunk or max(1, len(states))
        parts = zip(torch.split(states, size), torch.split(targets, size), strict=True)
        return torch.cat([cross_entropy(self.logits(part).float(), ids, reduction="none") for part, ids in parts])
