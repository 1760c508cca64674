"""The model about to be trained: base and fresh adapter, the layout that is exact on it, what fits memory (torch)."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.loading import Quantisation, choose_dtype, load_base
from grokora_pipeline.training import budget as budgets
from grokora_pipeline.training.adapter import add_adapter, base_parameters, has_experts
from grokora_pipeline.training.attention import (
    decoder_layers,
    short_attention_is_exact,
    use_attention,
    why_not_tree,
)
from grokora_pipeline.training.layout import Layout, Row
from grokora_pipeline.training.plan import TrainingKnobs
from grokora_pipeline.training.selftest import SelfTest, recorded_self_test, stop_token_trained
from grokora_pipeline.training.sharding import held, in_turn, shard

Tell = Callable[[str], None]
LayoutKind = Literal["tree", "padded"]


@dataclass(slots=True)
class Prepared:
    """The model with its fresh adapter, and how it will be trained. `notes`: what a person should know of it."""

    model: PeftModel
    base_parameters: int
    quantisation: str
    layout: Layout
    proof: SelfTest | None
    budget: budgets.Budget
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """What of it belongs into the record."""
        return {
            "base_parameters": self.base_parameters,
            "quantisation": self.quantisation,
            "self_test": asdict(self.proof) if self.proof else None,
            "budget": asdict(self.budget),
            "predicted_memory_mib": self.budget.predicted_mib,
            "notes": self.notes,
        }


def prepare(
    base: Path,
    *,
    rows: Sequence[Row],
    steps: Sequence[Sequence[int]],
    knobs: TrainingKnobs,
    device: torch.device,
    tell: Tell,
    self_tests: Path | None = None,
) -> Prepared:
    """Load the base, add an adapter, choose layout and memory. `steps` are the row indices of every optimiser step.

    The layout follows from the architecture; the self-test (whose results are kept in the folder `self_tests`) checks
    it. GrokoraError if it is not exact, or if nothing fits the memory cap.
    """
    quantisation: Quantisation = knobs.quantisation if knobs.quantisation != "auto" else "none"
    if knobs.quantisation == "auto" and device.type == "cuda":
        quantisation = "nf4"
    processes = PartialState().num_processes if knobs.shard_base else 1
    model, fixed, parameters = _load(base, quantisation, knobs, device, processes)
    inner: PreTrainedModel = model.get_base_model()
    known, largest = inner.get_input_embeddings().weight.shape[0], max(max(row.ids) for row in rows)
    if largest >= known:  # the index would be out of range, on CUDA by an assert that names nothing
        raise GrokoraError(
            f"The split holds the token {largest}, but the base model knows {known}: its tokenizer has more tokens "
            "than the model; give a base model whose embeddings were resized with it."
        )
    kinds, notes = _layout_kinds(inner, knobs)
    notes += _expert_notes(inner, quantisation)
    if not stop_token_trained(rows, ChatFormat.load(base).stop_ids):
        notes.append("Warning: the stop token carries no loss in some rows, so the agent may not learn to stop.")
    for note in notes:
        tell(note)
    attentions = _attentions(inner, knobs.attention, device.type)
    choose = partial(
        budgets.choose,
        [[rows[index] for index in step] for step in steps],
        dimensions=budgets.ModelDimensions.of(
            inner, dtype_bytes=torch.finfo(choose_dtype(device)).bits // 8, last_layers=knobs.last_layers
        ),
        fixed=fixed,
        attentions=attentions,
        cap_gib=knobs.memory_gib or budgets.DEFAULT_CAP_GIB[device.type],
        checkpointing=knobs.checkpointing,
        device=device.type,
    )
    layouts = [Layout(kind, 2048, loss_chunk=knobs.loss_chunk) for kind in kinds]
    test = partial(recorded_self_test, base, rows, knobs, records=self_tests) if knobs.self_test else None
    layout, budget, proof = _first_possible(layouts, choose, partial(_prove, inner, test), tell)
    _apply(inner, layout, budget, knobs, device)
    return Prepared(model, parameters, quantisation, layout, proof, budget, notes)


def _first_possible(
    layouts: Sequence[Layout],
    choose: Callable[..., budgets.Budget],
    prove: Callable[[Layout], SelfTest | None],
    tell: Tell,
) -> tuple[Layout, budgets.Budget, SelfTest | None]:
    """The first layout that fits the memory and is exact, with its budget and proof; the last GrokoraError if none."""
    for layout in layouts:
        try:
            return layout, choose(layout=layout), prove(layout)
        except GrokoraError as error:
            if layout is layouts[-1]:
                raise
            tell(f"No {layout.kind} layout: {error}")
    raise ValueError("no layout to choose from")


def _prove(
    model: PreTrainedModel, test: Callable[[Sequence[Layout]], list[SelfTest]] | None, layout: Layout
) -> SelfTest | None:
    """The self-test of a layout as it was chosen, None without `test`; GrokoraError if it is not exact."""
    if test is None:
        return None
    # flash attention computes in 16 bits only: the one that the model was loaded with stands for it
    flash = layout.attention == "flash_attention_2"
    attention = str(model.config._attn_implementation) if flash else layout.attention
    with PartialState().main_process_first():  # the others find its record
        (proof,) = test([Layout(layout.kind, 512, attention, 256)])
    if not proof.adapter_starts_as_base:
        raise GrokoraError("The fresh adapter changes the base model's answers; use the default adapter settings.")
    if not proof.exact:
        raise GrokoraError(
            f"The {layout.kind} layout is not exact on {type(model).__name__} (its gradient is off by "
            f"{proof.gradient_error:.3g}); report the architecture, or set self_test: false."
        )
    return proof


def _layout_kinds(model: PreTrainedModel, knobs: TrainingKnobs) -> tuple[list[LayoutKind], list[str]]:
    """Layouts to try in this order, and a note if rows do not share their prefixes; `auto` tries padded rows if a tree
    does not fit the memory. GrokoraError if the knob wants a tree that cannot be exact."""
    reason = why_not_tree(model)
    if knobs.dropout > 0 or knobs.neftune > 0:
        reason = "rows that share tokens would share their dropout and NEFTune noise"
    elif knobs.shard_base:
        reason = "processes that hold a base together must make equally many passes"
    if knobs.packing == "padded":
        return ["padded"], []
    if reason and knobs.packing == "tree":
        raise GrokoraError(f"packing: tree is not possible for {type(model).__name__}: {reason}; use auto.")
    if reason:
        return ["padded"], [f"Rows are padded, prefixes are not shared: {reason}."]
    return (["tree"] if knobs.packing == "tree" else ["tree", "padded"]), []


def _expert_notes(model: PreTrainedModel, quantisation: str) -> list[str]:
    """What a person should know before a mixture of experts is trained."""
    if not has_experts(model):
        return []
    notes = [
        "Mixture of experts: attention and shared layers are adapted, the experts and their router stay the base's."
    ]
    wide = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    total = sum(_weight_bytes(parameter) for parameter in wide)
    kept = sum(_weight_bytes(parameter) for parameter in wide if getattr(parameter, "quant_state", None) is None)
    if quantisation == "nf4":
        notes.append(
            f"4 bits cover only {1 - kept / total:.0%} of this base's {total / 2**30:.1f} GiB: the experts are fused "
            "tensors, which bitsandbytes leaves in 16 bits."
        )
    return notes


def _attentions(model: PreTrainedModel, wanted: str, device: str) -> list[str]:
    """How tokens may attend, best first: `short` on a CPU, else what the model was loaded with.

    GrokoraError if it cannot be as `wanted` (the knob `attention`).
    """
    loaded = str(model.config._attn_implementation)
    able = {"sdpa": loaded}
    if device == "cpu" and short_attention_is_exact(model):
        able = {"short": "short", **able}
    if device == "cuda" and is_flash_attn_2_available() and model._supports_flash_attn:
        able = {"flash": "flash_attention_2", **able}
    if wanted != "auto" and wanted not in able:
        raise GrokoraError(
            f"attention: {wanted} is not possible for {type(model).__name__} on this {device} (flash: CUDA and the "
            "package flash-attn; short: a CPU and plain softmax attention); use auto."
        )
    return list(able.values()) if wanted == "auto" else [able[wanted]]


def _load(
    base: Path, quantisation: Quantisation, knobs: TrainingKnobs, device: torch.device, processes: int
) -> tuple[PeftModel, budgets.FixedMemory, int]:
    """Base and adapter on their device, the bytes that they take there, and the base's parameters."""
    before = psutil.Process().memory_info().rss if device.type == "cpu" else 0
    with in_turn() if processes > 1 else nullcontext():
        first = device if processes == 1 else torch.device("cpu")  # a sharded base need not fit one device
        model = add_adapter(load_base(base, quantisation=quantisation, device=first), knobs)
        fixed, parameters = _fixed_memory(model, knobs, device, before, processes), base_parameters(model)
        if processes > 1:
            shard(model, device)
    return model, fixed, parameters


def _fixed_memory(
    model: PeftModel, knobs: TrainingKnobs, device: torch.device, before: int, processes: int
) -> budgets.FixedMemory:
    small_states = "8bit" in knobs.optimizer or (knobs.optimizer == "auto" and device.type == "cuda")
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    weights = _frozen_bytes(model)
    layers = list[int]()
    if processes > 1:
        layers = [sum(_frozen_bytes(layer)) for layer in decoder_layers(model.get_base_model())]
    return budgets.FixedMemory(
        process=before + (budgets.LATE_LIBRARIES + 2 * max(weights) if device.type == "cpu" else 0),
        weights=held(sum(weights), layers, processes),
        adapter=trained * (4 + 4 + (2 if small_states else 8)),
    )


def _frozen_bytes(module: torch.nn.Module) -> list[int]:
    return [_weight_bytes(parameter) for parameter in module.parameters() if not parameter.requires_grad]


def _weight_bytes(parameter: torch.nn.Parameter) -> int:
    """What a weight occupies; one packed to 4 bits has a scale for every 64 weights, itself quantised."""
    state = getattr(parameter, "quant_state", None)
    constants = [state.absmax, state.state2.absmax] if state is not None and state.nested else []
    return sum(tensor.numel() * tensor.element_size() for tensor in (parameter, *constants))


def _apply(
    base: PreTrainedModel, layout: Layout, budget: budgets.Budget, knobs: TrainingKnobs, device: torch.device
) -> None:
    """Make the model train as was chosen, and hold CUDA to the cap."""
    use_attention(base, layout.attention)
    if budget.checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    else:
        base.activation_checkpointing_disable()
    if knobs.compile:
        for layer in decoder_layers(base):
            layer.compile()
    if device.type == "cuda":
        share = budget.cap_mib * budgets.MIB / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
