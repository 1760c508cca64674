"""The CUDA memory budget is that of the trainer's own step, measured on fake tensors: no weights, no GPU."""

from dataclasses import astuple
from typing import Any, Literal

import pytest
import torch
import transformers
from typer.testing import CliRunner

from grokora_pipeline.training import fake
from grokora_pipeline.training.budget import ActivationMemory, ModelDimensions
from grokora_pipeline.training.fake import StepMemory, step_memory
from grokora_pipeline.training.layout import Layout, Row
from grokora_pipeline.training.plan import resolve_knobs

LLAMA = {"vocab_size": 128_256, "num_key_value_heads": 8}
QWEN = {"vocab_size": 151_936, "head_dim": 128, "num_attention_heads": 32}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-1b": ("Llama", {**LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}),
    "llama-3b": ("Llama", {**LLAMA, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28}),
    "llama-8b": ("Llama", {**LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}),
    "qwen3-4b": ("Qwen3", {**QWEN, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}),
    "gemma3-1b": (
        "Gemma3Text",
        {
            "vocab_size": 262_144,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_hidden_layers": 26,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
        },
    ),
    "mixture": (
        "Qwen3Moe",
        {**QWEN, "hidden_size": 2048, "num_hidden_layers": 24, "num_experts": 16, "num_experts_per_tok": 4}
        | {"moe_intermediate_size": 768, "num_key_value_heads": 4},
    ),
}
HEADS = {"llama-1b": (32, 64), "llama-3b": (24, 128), "llama-8b": (32, 128)}


def config_of(name: str) -> Any:
    kind, settings = BASES[name]
    if name in HEADS:
        settings = settings | {"num_attention_heads": HEADS[name][0], "head_dim": HEADS[name][1]}
        settings["tie_word_embeddings"] = name != "llama-8b"
    return getattr(transformers, f"{kind}Config")(**settings)


def predicted(config: Any, layout: Layout, rows: list[Row], *, checkpointing: bool, last_layers: int) -> int:
    """What the budget says of these rows, from a model without memory."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    sizes = ModelDimensions.of(model, dtype_bytes=2, last_layers=last_layers)
    return ActivationMemory(sizes, layout, "cuda", checkpointing).step(layout.of(rows))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "last_layers"), [*((name, 0) for name in BASES), ("llama-1b", 6)])
def test_the_budget_is_within_ten_percent_of_the_trainers_own_step(name: str, last_layers: int) -> None:
    torch.set_num_threads(1)
    config, knobs = config_of(name), resolve_knobs("best", {"last_layers": last_layers})
    for checkpointing, count, length in ((False, 4, 512), (True, 1, 2048)):
        weights = (0.0,) * (length - 128) + (1.0,) * 128
        rows = [Row((number, *[5] * (length - 1)), weights) for number in range(count)]
        layout = Layout("padded", count * length, "sdpa", 256)
        measured = step_memory(config, rows, layout, knobs, nf4=True, checkpointing=checkpointing)
        prediction = predicted(config, layout, rows, checkpointing=checkpointing, last_layers=last_layers)
        assert prediction + measured.weights + measured.adapter == pytest.approx(sum(astuple(measured)), rel=0.1)


def test_layers_below_the_adapted_ones_keep_their_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4
    )
    rows, layout = [Row((3,) * 300, (0.0,) * 200 + (1.0,) * 100)] * 4, Layout("padded", 4096, "sdpa", 256)

    def memory() -> StepMemory:
        knobs = resolve_knobs("best", {"last_layers": 2})
        return step_memory(config, rows, layout, knobs, nf4=True, checkpointing=False)

    from_two_depths = memory()
    monkeypatch.setattr(fake, "shown_layers", lambda _: 4)  # the whole model at once
    assert astuple(from_two_depths) == pytest.approx(astuple(memory()), rel=0.02)


def test_a_tree_keeps_its_path_and_one_batch() -> None:
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4
    )
    shared = tuple(range(3, 400))
    rows = [Row((*shared, 500 + number, *[7] * 60), (0.0,) * 420 + (1.0,) * 38) for number in range(8)]
    knobs = resolve_knobs("best")

    def activations(kind: Literal["tree", "padded"]) -> int:
        layout = Layout(kind, 4096, "sdpa", 256)
        return step_memory(config, rows, layout, knobs, nf4=True, checkpointing=False).activations

    assert activations("tree") < 0.4 * activations("padded")


@pytest.mark.slow
def test_fits_says_what_a_base_needs_from_its_config_alone(tmp_path: Any) -> None:
    from grokora_pipeline.cli.commands import app

    config_of("llama-8b").save_pretrained(tmp_path)  # its config alone
    roomy = CliRunner().invoke(app, ["fits", str(tmp_path), "--memory", "8", "--max-length", "512"])
    assert roomy.exit_code == 0, roomy.output
    assert "llama trains in 8 GiB" in roomy.output
    assert "1,536,000 tokens at 2,000 tokens/s (stated, not measured): 0.2 h, 0.11 dollars" in " ".join(
        roomy.output.split()
    )
    shallow = config_of("llama-8b")
    shallow.num_hidden_layers = 2
    shallow.save_pretrained(tmp_path / "shallow")
    tight = CliRunner().invoke(app, ["fits", str(tmp_path / "shallow"), "--memory", "2", "--max-length", "512"])
    assert tight.exit_code == 1
    assert "does not train in 2 GiB" in tight.output
