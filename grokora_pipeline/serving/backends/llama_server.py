"""A process that is one llama.cpp server: `python -m` with a line of JSON on stdin (see `serve`).

In a process of its own a crash of llama.cpp does not end the gateway, and all of its memory goes back when it ends.
It ends with its parent: then stdin is closed.
"""

import json
import os
import sys
from typing import Any


def serve(spec: dict[str, Any]) -> str:
    """Start the server; gives its address. RuntimeError if llama.cpp cannot load the files.

    `spec`: `base` and `adapters`, paths of GGUF files; `cells` of KV cache for all `slots` together; `gpu`;
    `exact`: keys, values and sums in fp32; `key`, which requests must carry.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = spec["base"]
    params.n_ctx, params.n_parallel, params.kv_unified = spec["cells"], spec["slots"], True
    params.n_batch = 512  # tokens in a pass: running answers wait for no more of a long prompt
    # llama.cpp's own cache of prompts asks for tokens only: it would give an adapter the keys of another one.
    params.cache_ram_mib, params.cache_idle_slots = 0, False
    params.port, params.api_keys = 0, [spec["key"]]
    params.ui, params.endpoint_slots, params.warmup, params.verbosity = False, False, False, 1
    if threads := int(os.environ.get("OMP_NUM_THREADS") or 0):  # else all cores, whose threads spin for those in use
        params.cpuparams.n_threads = threads
    if not spec["gpu"]:
        params.n_gpu_layers = 0
    if spec["exact"]:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    adapters = []
    for path in spec["adapters"]:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 0.0  # a request switches on its own
        adapters.append(adapter)
    params.lora_adapters = adapters
    global _server  # noqa: PLW0603 - it serves for as long as it is referenced
    _server = xllamacpp.Server(params)
    address: str = _server.listening_address
    return address


_server: Any = None


def main() -> None:
    """Serve until stdin ends; tells the address, or that it failed, in a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp may print what it likes
    spec = json.loads(sys.stdin.readline())
    try:
        reply = {"url": serve(spec)}
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        reply = {"error": str(error)}
    print(json.dumps(reply), file=answers, flush=True)
    sys.stdin.read()
    os._exit(0)  # no tidy end: it would wait for requests that nobody waits for


if __name__ == "__main__":
    main()
