"""A real llama.cpp server in this process, on a free port."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from grokora_pipeline_tests.tiny import STOP


@contextmanager
def llama_server(base: Path, adapters: Sequence[Path] = (), context: int = 1024) -> Iterator[httpx.Client]:
    """A client of a server with these GGUF files; skips the test where xllamacpp is not installed."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(base)
    params.n_ctx, params.n_parallel, params.port = context, 1, 0
    params.cpuparams.n_threads, params.warmup, params.n_gpu_layers, params.verbosity = 1, False, 0, 0
    # All keys and sums in fp32, so that only the weights' own rounding is compared.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    loras = []
    for path in adapters:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(path), 1.0
        loras.append(lora)
    params.lora_adapters = loras
    server = xllamacpp.Server(params)
    with httpx.Client(base_url=server.listening_address, timeout=120) as client:
        yield client
    del server


def complete(client: httpx.Client, prompt: Sequence[int], new_tokens: int, scale: float | None = None) -> list[int]:
    """Greedy ids after a prompt of ids, without the tiny tokenizer's stop; `scale` is that of the first adapter."""
    body: dict[str, Any] = {
        **{"prompt": list(prompt), "n_predict": new_tokens, "temperature": 0.0, "top_k": 1, "cache_prompt": False},
        **{"return_tokens": True, "repeat_penalty": 1.0},
    }
    if scale is not None:
        body["lora"] = [{"id": 0, "scale": scale}]
    reply = client.post("/completion", json=body)
    reply.raise_for_status()
    tokens: list[int] = reply.json()["tokens"]
    return tokens[: tokens.index(STOP)] if STOP in tokens else tokens
