"""The model about to be trained: base and fresh adapter, the cheapest layout that is exact on it and fits (torch)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from transformers.utils import is_flash_attn_2_available

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.loading import Quantisation, choose_dtype, load_base
from grokora_pipeline.training import budget as budgets
from grokora_pipeline.training.adapter import add_adapter, base_parameters
from grokora_pipeline.training.attention import use_attention
from grokora_pipeline.training.callbacks import process_bytes
from grokora_pipeline.training.layout import Layout, Row
from grokora_pipeline.training.plan import TrainingKnobs
from grokora_pipeline.training.planner import ranked
from grokora_pipeline.training.selftest import SelfTest, probe_rows, self_test
from grokora_pipeline.training.sharding import held, in_turn, shard


@dataclass(slots=True)
class Prepared:
    """The model with its fresh adapter, and how it will be trained."""

    model: PeftModel
    base_parameters: int
    quantisation: str
    layout: Layout
    proof: SelfTest | None
    budget: budgets.Budget

    def facts(self) -> dict[str, Any]:
        """What of it belongs into the record."""
        return {
            "base_parameters": self.base_parameters,
            "quantisation": self.quantisation,
            "self_test": self.proof.as_dict() if self.proof else None,
            "budget": self.budget.as_dict(),
            "predicted_memory_mib": self.budget.predicted_mib,
        }


def prepare(
    base: Path,
    *,
    rows: Sequence[Row],
    steps: Sequence[Sequence[int]],
    knobs: TrainingKnobs,
    device: torch.device,
    tell: Callable[[str], None],
) -> Prepared:
    """Load the base, add an adapter, choose layout and memory. `steps` are the row indices of every optimiser step.

    The layout is the cheapest that is exact on this model and fits. GrokoraError where there is none.
    """
    wanted = knobs.quantisation
    quantisation = ("nf4" if device.type == "cuda" else "none") if wanted == "auto" else wanted
    processes = PartialState().num_processes if knobs.shard_base else 1
    model, fixed, parameters = _loaded(base, quantisation, knobs, device, processes)
    laid_out = [[rows[place] for place in step] for step in steps]
    stop_ids, failure = ChatFormat.load(base).stop_ids, None
    probe = probe_rows(rows) if knobs.self_test else []
    for layout in _layouts(model, laid_out, knobs, device):
        try:
            budget = _fit(model, laid_out, layout, knobs, fixed, probe=probe)
        except GrokoraError as error:
            failure = failure or error
            continue
        _apply(model, layout, budget, device)
        proof = self_test(model, probe, layout, stop_ids) if probe else None
        if proof is None or proof.exact:
            if knobs.compile:
                for layer in model.get_base_model().get_decoder().layers:
                    layer.compile()
            _demand(proof, tell)
            return Prepared(model, parameters, quantisation, layout, proof, budget)
        tell(f"The {layout.kind} layout is not exact on this model (gradient off by {proof.gradient_error:.3g})")
    raise failure or GrokoraError(
        "No layout gives this model's own loss; report its architecture, or set self_test: false."
    )


def attentions(kind: str, wanted: str, device: str) -> list[str]:
    """How a layout's tokens may attend, best first; empty where it cannot be as `wanted` (the knob `attention`)."""
    if device == "cpu":
        able = ["sdpa"] if kind == "plain" else ["short", "sdpa"]
    elif kind == "joint":
        able = ["flex", "sdpa"]
    else:
        able = ["flash", "sdpa"] if is_flash_attn_2_available() else ["sdpa"]
    return able if wanted == "auto" else [name for name in able if name == wanted]


def _layouts(model: PeftModel, steps: list[list[Row]], knobs: TrainingKnobs, device: torch.device) -> Iterator[Layout]:
    noisy = knobs.dropout > 0 or knobs.neftune > 0  # rows that share tokens would share their noise
    hidden = model.get_base_model().config.get_text_config().hidden_size
    without = {"tree", "joint"} if noisy else {"tree"} if knobs.shard_base else set[str]()
    kinds = ranked(steps, knobs.packing, without=without, hidden=hidden, device=device.type)
    for kind in kinds:
        if attentions(kind, knobs.attention, device.type):
            yield Layout(kind, 2048, loss_chunk=knobs.loss_chunk)
    if not any(attentions(kind, knobs.attention, device.type) for kind in kinds):
        raise GrokoraError(
            f"attention: {knobs.attention} is not possible for {kinds[0]} rows on this {device.type} (flex: joint rows "
            "on CUDA, flash: CUDA and the package flash-attn, short: CPU); use auto."
        )


def _loaded(
    base: Path, quantisation: Quantisation, knobs: TrainingKnobs, device: torch.device, processes: int
) -> tuple[PeftModel, budgets.Fixed, int]:
    """Base and adapter on their device, the bytes that they take there, and the base's parameters."""
    before = process_bytes(device)
    with in_turn() if processes > 1 else nullcontext():
        first = device if processes == 1 else torch.device("cpu")  # a sharded base need not fit one device
        model = add_adapter(load_base(base, quantisation=quantisation, device=first), knobs)
        fixed, parameters = _fixed(model, knobs, device, before, processes), base_parameters(model)
        if processes > 1:
            shard(model, device)
    return model, fixed, parameters


def _fixed(model: PeftModel, knobs: TrainingKnobs, device: torch.device, before: int, processes: int) -> budgets.Fixed:
    small = "8bit" in knobs.optimizer or (knobs.optimizer == "auto" and device.type == "cuda")
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    weights = _frozen(model)
    layers = list[int]()
    if processes > 1:
        layers = [sum(_frozen(layer)) for layer in model.get_base_model().get_decoder().layers]
    return budgets.Fixed(
        process=before + (budgets.LATER + 2 * max(weights) if device.type == "cpu" else 0),
        weights=held(sum(weights), layers, processes),
        adapter=trained * (4 + 4 + (2 if small else 8)),
    )


def _frozen(module: torch.nn.Module) -> list[int]:
    """Bytes of each weight that is not trained."""
    return [_bytes(parameter) for parameter in module.parameters() if not parameter.requires_grad]


def _bytes(parameter: torch.nn.Parameter) -> int:
    """What a weight occupies; one packed to 4 bits has a scale for every 64 weights, itself quantised."""
    state = getattr(parameter, "quant_state", None)
    constants = [state.absmax, state.state2.absmax] if state is not None and state.nested else []
    return sum(tensor.numel() * tensor.element_size() for tensor in (parameter, *constants))


def _fit(
    model: PeftModel,
    steps: list[list[Row]],
    layout: Layout,
    knobs: TrainingKnobs,
    fixed: budgets.Fixed,
    *,
    probe: Sequence[Row],
) -> budgets.Budget:
    device = next(model.parameters()).device
    size = torch.finfo(choose_dtype(device)).bits // 8
    return budgets.choose(
        steps,
        layout,
        budgets.Shape.of(model.get_base_model().config, dtype_bytes=size),
        fixed,
        probe=probe,
        attentions=attentions(layout.kind, knobs.attention, device.type),
        cap_gib=knobs.memory_gib or budgets.DEFAULT_CAP_GIB[device.type],
        checkpointing=knobs.checkpointing,
        device=device.type,
    )


def _apply(model: PeftModel, layout: Layout, budget: budgets.Budget, device: torch.device) -> None:
    """Make the model train as was chosen, and hold CUDA to the cap."""
    base = model.get_base_model()
    use_attention(base, layout.attention)
    if budget.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        base.gradient_checkpointing_disable()
    if device.type == "cuda":
        share = budget.cap_mib * budgets.MIB / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)


def _demand(proof: SelfTest | None, tell: Callable[[str], None]) -> None:
    if proof and not proof.adapter_starts_as_base:
        raise GrokoraError("The fresh adapter changes the base model's answers; use the default adapter settings.")
    if proof and not proof.stop_token_trained:
        tell("Warning: the stop token carries no loss in this split, so the agent may not learn to stop")
