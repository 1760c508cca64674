"""A base model and its LoRA adapters as GGUF files, as llama.cpp reads them (numpy and safetensors; torch reads bf16).

What a model's tensors are called there is in `gguf_model`, how text is split in `gguf_tokenizer`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import read_json
from grokora_pipeline.models.engines import beyond_pairs, lora_scale
from grokora_pipeline.models.gguf_model import Array, Model
from grokora_pipeline.models.gguf_tokenizer import add_tokenizer

VERSION = 3  # raise when `write_base` writes another file: what was converted before is converted anew
KINDS = {"f32": "F32", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}


def check_base(folder: Path, kind: str = "bf16", output: Path | None = None) -> tuple[Model, gguf.GGUFWriter]:
    """The model in `folder`, and a writer for the file `output` that has its hyperparameters and its tokenizer.

    Nothing is written yet. GrokoraError if this converter does not write the `kind`, or does not know the model.
    """
    if kind not in KINDS:
        raise GrokoraError(
            f"The gguf package writes {', '.join(KINDS)}, not {kind}; write bf16 and run llama.cpp's "
            f"`llama-quantize base-bf16.gguf base-{kind}.gguf {kind.upper()}` for others."
        )
    model = Model(folder)
    writer = gguf.GGUFWriter(output and str(output), model.arch_name)
    model.add_hyperparameters(writer)
    add_tokenizer(writer, folder, int(model.config["vocab_size"]))
    return model, writer


def write_base(folder: Path, output: Path, kind: str = "bf16", name: str = "") -> None:
    """Write the model in `folder` as one GGUF file; `kind` is a key of KINDS and holds for matrices.

    One tensor is in memory at a time. GrokoraError if llama.cpp, or this converter, does not know the model.
    """
    model, writer = check_base(folder, kind, output)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name or folder.name)
    writer.add_file_type(gguf.LlamaFileType[{"f32": "ALL_F32"}.get(kind, f"MOSTLY_{KINDS[kind]}")])
    matrices, loads = (
        gguf.GGMLQuantizationType[KINDS[kind]],
        list[tuple[gguf.GGMLQuantizationType, Callable[[], Array]]](),
    )
    for tensor, shape, load in model.tensors():
        # As in llama.cpp's converter, vectors stay fp32, and rows that a block type cannot hold become fp16.
        fits = shape[-1] % gguf.GGML_QUANT_SIZES[matrices][0] == 0
        stored = matrices if fits else gguf.GGMLQuantizationType.F16
        stored = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else stored
        block, size = gguf.GGML_QUANT_SIZES[stored]
        writer.add_tensor_info(tensor, shape, np.dtype(np.float32), math.prod(shape) // block * size, raw_dtype=stored)
        loads.append((stored, load))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for stored, load in loads:
        writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(load()), stored))
    writer.close()


def write_adapter(base: Path, adapter: Path, output: Path) -> None:
    """Write a PEFT LoRA adapter of the model in `base` as a GGUF file of fp32 tensors.

    llama.cpp scales each pair by alpha / rank with one alpha for all: other scales (rsLoRA, ranks and alphas of single
    modules) are written into alpha if all agree, else into B. GrokoraError for what it cannot apply.
    """
    from safetensors import safe_open

    model, config = Model(base), read_json(adapter / "adapter_config.json")
    refuse_adapter(config, adapter)
    pairs: dict[str, dict[str, Array]] = {}
    with safe_open(str(adapter / "adapter_model.safetensors"), framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not iterable itself
            module, separator, side = key.removeprefix("base_model.model.").rpartition(".lora_")
            if not separator or side not in ("A.weight", "B.weight"):
                raise GrokoraError(f"{adapter} holds {key}, which llama.cpp cannot apply; merge it and export that.")
            pairs.setdefault(module, {})[side[0]] = file.get_tensor(key).float().numpy()
    alpha = float(config["lora_alpha"]) * (math.sqrt(config["r"]) if config.get("use_rslora") else 1.0)
    writer = gguf.GGUFWriter(str(output), model.arch_name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for module, pair in pairs.items():
        names, a = model.names_of(f"{module}.weight"), pair["A"]
        unread = ("token_embd.", *(("output.",) if model.tied else ()))
        if not names or names[0].startswith(unread) or a.ndim != 2:
            raise GrokoraError(f"llama.cpp cannot apply an adapter of {module} in {model.arch_name}; merge it first.")
        b = pair["B"] * np.float32(lora_scale(config, module, len(a)) / (alpha / len(a)))
        for name, rows in zip(names, np.split(b, len(names)), strict=True):
            writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a))
            writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(model.arrange(name, rows), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def refuse_adapter(config: dict[str, Any], adapter: Path) -> None:
    """GrokoraError for an adapter that is more than pairs of A and B."""
    if setting := beyond_pairs(config):
        raise GrokoraError(f"{adapter} was trained with {setting}, which only PEFT applies; merge it first.")
