"""Proof, in fp32 on a base's own first layers, that a layout gives what row-by-row training gives (torch).

bf16 rounds a gradient by as much as a leak between rows would change it, so nothing can be told apart there; in fp32
the layouts agree to 1e-6. As many layers are taken as show every kind that the base has, with its own weights. The
proof is made once a base (and longest row), and recorded.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, PreTrainedModel

from grokora_pipeline.errors import GrokoraError, one_line
from grokora_pipeline.models.loading import auto_class, prompt_marks, shown_layers
from grokora_pipeline.models.sequences import first_difference
from grokora_pipeline.store import content_version, write_atomic
from grokora_pipeline.training.adapter import add_adapter, trainable_parameters
from grokora_pipeline.training.attention import text_decoder, use_attention, with_layers
from grokora_pipeline.training.gradients import TreeLoss
from grokora_pipeline.training.layout import Layout, Row
from grokora_pipeline.training.plan import TrainingKnobs

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-5  # relative; seen over forty architectures: 1e-7 and 2e-6
_VERSION = 2  # raise it if the proof proves something else


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Relative error of loss and gradient of the layout against plain row-by-row training, and what else must hold."""

    layout: str
    attention: str
    loss_error: float
    gradient_error: float
    adapter_starts_as_base: bool
    layers: int
    longest_row: int
    shortest_row: int
    exact: bool


def probe_rows(rows: Sequence[Row]) -> list[Row]:
    """The longest row and the one that shares most of it, and the two shortest rows.

    Long rows reach beyond a sliding window, which short ones fit into; short ones share the least.
    """
    ordered = sorted(rows, key=lambda row: (len(row.ids), row.ids))
    longest = ordered[-1]
    partner = max(ordered[:-1], key=lambda row: first_difference(row.ids, longest.ids), default=longest)
    return list(dict.fromkeys([longest, partner, *ordered[:2]]))


def first_layers(base: Path) -> PreTrainedModel:
    """The first layers of a base with its own weights, in fp32 on the CPU: as many as show every kind of layer."""
    config = AutoConfig.from_pretrained(str(base), trust_remote_code=False)
    config = with_layers(config, shown_layers(config.get_text_config(decoder=True)))
    options = {"config": config, "dtype": torch.float32, "trust_remote_code": False, "use_safetensors": True}
    # Gemma 3n has one table of embeddings for all layers: of fewer layers it is a random one, which proves as much.
    model: PreTrainedModel = auto_class(config).from_pretrained(str(base), ignore_mismatched_sizes=True, **options)
    model.requires_grad_(False)
    return model.eval()


def self_test(base: Path, rows: Sequence[Row], knobs: TrainingKnobs, layouts: Sequence[Layout]) -> list[SelfTest]:
    """Compare each layout's loss and adapter gradient with the model's own forward pass over `rows`, one by one."""
    every = {"dropout": 0.0, "target_modules": "all-linear", "last_layers": 0}
    model = add_adapter(first_layers(base), knobs.model_copy(update=every))
    inner, loaded_with = model.get_base_model(), model.get_base_model().config._attn_implementation
    untouched = _starts_as_base(model, rows[-1])
    generator = torch.Generator().manual_seed(1)
    for name, parameter in trainable_parameters(model).items():
        if "lora_B" in name:  # of a fresh adapter B = 0, so that A's gradient would be 0 as well
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    expected = _row_by_row(inner, rows)
    if not math.isfinite(expected):
        raise GrokoraError(
            f"The loss of the base model in {base} is {expected:.4g}: its weights are damaged; fetch it again."
        )
    expected_gradient = _gradient(model)
    proofs = []
    for layout in layouts:
        use_attention(inner, layout.attention)
        # Every prefix is shared and every row is padded, also where a run would not find it worth a pass.
        hardest = replace(layout, least_saving=1, pass_tokens=1 << 20)
        loss = float(TreeLoss(inner, hardest).run(hardest.of(rows), backward=True))
        gradient = _gradient(model)
        use_attention(inner, loaded_with)
        loss_error = abs(loss - expected) / max(abs(expected), 1e-9)
        gradient_error = float((gradient - expected_gradient).norm() / expected_gradient.norm().clamp(min=1e-12))
        proofs.append(
            SelfTest(
                layout=layout.kind,
                attention=layout.attention,
                loss_error=loss_error,
                gradient_error=gradient_error,
                adapter_starts_as_base=untouched,
                layers=inner.config.get_text_config(decoder=True).num_hidden_layers,
                longest_row=max(len(row.ids) for row in rows),
                shortest_row=min(len(row.ids) for row in rows),
                exact=loss_error <= LOSS_TOLERANCE and gradient_error <= GRADIENT_TOLERANCE,
            )
        )
    return proofs


def recorded_self_test(
    base: Path, rows: Sequence[Row], knobs: TrainingKnobs, layouts: Sequence[Layout], records: Path | None
) -> list[SelfTest]:
    """`self_test` on the longest and shortest of `rows`, made once a base: `records` is a folder of what was proven.

    A proof holds for the base's config and files, for rows no longer than its longest, and for these libraries.
    GrokoraError if the model's own code fails: it may want more than text (BLIP-2: pictures).
    """
    probe, config = probe_rows(rows), (base / "config.json").read_bytes().decode()
    sizes = sorted((path.name, path.stat().st_size) for path in base.glob("*.safetensors"))
    wanted = [(layout.kind, layout.attention) for layout in layouts]
    libraries = (torch.__version__, transformers.__version__)
    name = content_version(_VERSION, config, sizes, str(base), wanted, knobs.dora, libraries)
    record = records / f"{name}.json" if records else None
    if record and record.is_file():
        known = [SelfTest(**proof) for proof in orjson.loads(record.read_bytes())]
        if known[0].longest_row >= len(probe[0].ids):
            return known
    try:
        proofs = self_test(base, probe, knobs, layouts)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # of the architecture's own code
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise GrokoraError(f"The base model in {base} cannot be trained on text ({reason}); give another.") from error
    if record:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(record, orjson.dumps([asdict(proof) for proof in proofs]))
    return proofs


def stop_token_trained(rows: Sequence[Row], stop_ids: Sequence[int]) -> bool:
    """Whether every row ends with a stop token that carries loss; else the agent may not learn to stop."""
    return all(row.weights[-1] > 0 and row.ids[-1] in stop_ids for row in rows)


def _row_by_row(model: PreTrainedModel, rows: Sequence[Row]) -> float:
    """Sum of weight x nll of plain rows by the model's own forward pass; leaves the gradient on the adapter."""
    total = 0.0
    for row in rows:
        first = next((index for index, weight in enumerate(row.weights) if weight > 0), len(row.ids) - 1)
        ids = torch.tensor([row.ids])
        wanted = len(row.ids) - first + 1
        # cut again: some models for pictures know no `logits_to_keep` and give logits for every token (MiniCPM-V)
        marks = prompt_marks(model, ids, [row.prompt])
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=wanted, **marks).logits[0, -wanted:-1]
        nll = cross_entropy(logits.float(), ids[0, first:], reduction="none")
        loss = (nll * torch.tensor(row.weights[first:])).sum()
        torch.autograd.backward([loss])
        total += loss.item()
    return total


def _gradient(model: torch.nn.Module) -> Tensor:
    """The gradient of all parameters that have one, as one vector; it is cleared."""
    gradient = torch.cat([part.grad.flatten() for part in model.parameters() if part.grad is not None])
    model.zero_grad()
    return gradient


def _starts_as_base(model: Any, row: Row) -> bool:
    """Whether the fresh adapter changes nothing: hidden states with and without it are the same.

    Logits would take longer than all the rest of the self-test: a vocabulary in fp32 for every token.
    """
    ids, decoder = torch.tensor([row.ids]), text_decoder(model.get_base_model())
    with torch.no_grad():
        adapted = decoder(input_ids=ids, use_cache=False).last_hidden_state
        with model.disable_adapter():
            return bool(torch.equal(adapted, decoder(input_ids=ids, use_cache=False).last_hidden_state))
