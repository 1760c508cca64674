"""Whether a model folder is fit to train on, and what it is. Nothing here imports torch.

Only safetensors weights are accepted, and never a model that brings code of its own.
"""

import hashlib
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat, embedding_rows, read_json
from grokora_pipeline.models.fingerprint import BUNDLED_ID, model_files
from grokora_pipeline.store import content_version, file_sha256

BUNDLED_LICENCE = "apache-2.0"
UNDONE = ("fp8", "mxfp4")  # quantisations that transformers undoes while it loads, without another library
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_folder(folder: Path, model_id: str) -> str:
    """How the model's weights are quantised, by one of UNDONE; "" if they are not.

    GrokoraError, in one sentence, if the folder holds no model that can be trained safely.
    """
    shown = f"GROKORA_BASE_MODEL={model_id or 'bundled'}"
    config = read_json(folder / "config.json")
    if (folder / "adapter_config.json").is_file() and not config:
        raise GrokoraError(f"{shown} is a LoRA adapter, not a model; give the model that it was trained on.")
    if not config:
        raise GrokoraError(f"{shown} has no config.json, so it is no transformers model; give another model.")
    if any("auto_map" in read_json(folder / name) for name in ("config.json", "tokenizer_config.json")):
        raise GrokoraError(f"{shown} brings code of its own (auto_map), which is never run; give a model without it.")
    how = _quantised_by(folder, config)
    if how and how not in UNDONE:
        raise GrokoraError(
            f"{shown} is quantised already ({how}); give the unquantised model, training quantises it itself."
        )
    if not any(folder.glob("*.safetensors")):
        if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
            raise GrokoraError(f"{shown} has pickle weights only, which can run code; give one with .safetensors.")
        raise GrokoraError(f"{shown} has no .safetensors weights (a download was cut short?); fetch it again.")
    shards = (read_json(folder / "model.safetensors.index.json").get("weight_map") or {}).values()
    if missing := sorted(set(shards) - {path.name for path in folder.glob("*.safetensors")}):
        raise GrokoraError(f"{shown} lacks {missing[0]}; fetch the model again.")
    return how


def _quantised_by(folder: Path, config: dict[str, Any]) -> str:
    """How the weights are quantised, "" if they are not: by any of the files in which tools say so."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(settings := part.get(key), dict) and settings:
                return str(settings.get("quant_method") or settings.get("format") or key)
    # AutoGPTQ, AutoAWQ and ModelOpt once wrote a file of their own and nothing into the config
    names = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
    return next((name for name in names if (folder / name).is_file()), "")


def tensor_facts(folder: Path) -> tuple[int, str]:
    """(number of parameters, dtype of most of them), from the safetensors headers alone; tied weights count once."""
    by_dtype = Counter[str]()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(path), framework="np") as file:  # numpy has no bf16, but no tensor is read
                for name in file.keys():  # noqa: SIM118 - not iterable itself
                    tensor = file.get_slice(name)
                    by_dtype[tensor.get_dtype()] += math.prod(tensor.get_shape())
        except (SafetensorError, OSError) as error:
            raise GrokoraError(f"{path} is no complete safetensors file; fetch the model again.") from error
    if not by_dtype:
        raise GrokoraError(f"{folder} holds safetensors files without tensors; fetch the model again.")
    return sum(by_dtype.values()), max(by_dtype, key=lambda dtype: by_dtype[dtype])


def licence_of(folder: Path) -> str:
    """The licence that the model card's front matter names, else "unknown"."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:20_000] if card.is_file() else ""
    match = re.search(r"^license:\s*(\S+)\s*$", text.split("\n---", 1)[0], re.MULTILINE)
    return match.group(1) if match else "unknown"


def facts(folder: Path, model_id: str, revision: str) -> dict[str, Any]:
    """What a checked model folder is; the result of the base-model worker.

    GrokoraError if its weights are quantised, or its tokenizer or chat template writes tokens without an embedding.
    """
    chat = ChatFormat.load(folder)
    shown, (parameters, dtype) = f"GROKORA_BASE_MODEL={model_id or 'bundled'}", tensor_facts(folder)
    if dtype not in ("BF16", "F16", "F32", "F64"):
        raise GrokoraError(f"{shown} holds numbers of type {dtype}, so it is quantised; give the unquantised model.")
    config = read_json(folder / "config.json")
    ask, answer = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"}
    text, rows = chat.render_prompt([ask]) + chat.render_completion([ask], [answer]), embedding_rows(config)
    missing = sorted(token for token in chat.rowless if token in text)
    if missing or (rows is not None and chat.tokenizer.get_vocab_size(with_added_tokens=False) > rows):
        what = f"{missing[0]!r}, which its chat template writes" if missing else "every token of its tokenizer"
        raise GrokoraError(
            f"{shown} has {rows} embeddings, and so none of {what}; give the "
            "tokenizer that the model was trained with, or resize its embeddings and train them."
        )
    files = model_files(folder)
    return {
        "model_id": model_id or BUNDLED_ID,
        "revision": revision,
        "content_hash": content_version([(path.name, file_sha256(path)) for path in files]),
        "parameters": parameters,
        "architecture": next(iter(config.get("architectures") or []), config.get("model_type", "unknown")),
        "licence": licence_of(folder),
        "context_length": chat.context_length,
        "chat_template_sha256": chat.template_sha256,
        "has_chat_template": chat.has_chat_template,
        "stop_token": chat.stop_token,
        "tokenizer_sha256": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
        "dtype": dtype,
    }
