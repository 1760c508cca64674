"""What serving many adapters from one base costs; prints one JSON line (about ten minutes on two cores).

    python -m grokora_pipeline_tests.benchmarks.serving [--store DIR] [--requests 32] [--engines]

The requests are what the sandbox's swarm asks its four agents, all different, answered greedily by the store's
champions. `ours` is `grokora serve` as callers see it, over HTTP, recordings included, at 1, 8 and 32 clients.
`llamacpp` is the same with `--backend llamacpp`, weights in bf16 and in Q8_0, and `transformers_serve` what a user
would take instead without adapters: `transformers serve --continuous-batching` on the base alone, without tools in its
prompts, its answers no longer than ours (null unless fastapi is installed). They answer the same requests in turns with
ours, `identical_share` is the share of answers that are equal to ours, and with `--engines` nothing else is measured.
`swapped` answers the requests of the 8 clients one by one with PEFT: the same base, `set_adapter` before each
`generate`, all in the base's dtype, without HTTP; `ratio_vs_swapped` is tokens/s at 8 clients over that, and
`identical_share` the share of equal answers; a few are also answered in float32 and without grammars, eight rows at
once, where neither rounding nor a mended call can tell the two apart (`identical_share_float32`). Memory is resident
memory of whole processes that have answered the same few requests at 8 clients: `memory_ratio` is that of `grokora
serve` over that of `grokora serve` without champions plus the adapters' bytes in the base's dtype, on both sides
without kept prompt beginnings, which a setting bounds; `memory_mb_after_load` has all that 32 clients left behind.
`merged` is one bare process for each merged model, pages that they share counted once. `beside_long` is the engine
alone: one short request after another, first by themselves and then beside an answer of 2,000 tokens and prompts of
6,000, always one of each; `p95_ratio` says how much longer the short ones take.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import psutil

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.sandbox.roles import AGENTS
from grokora_pipeline.serving.gateway.champions import find_base
from grokora_pipeline.serving.gateway.server import CPU_ENVIRONMENT
from grokora_pipeline.settings import get_settings
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.benchmarks.soak import LONGEST, server, swarm_calls
from grokora_pipeline_tests.chain import script
from grokora_pipeline_tests.processes import served

EXACT = 8  # requests answered in float32 too: bf16 rounds a row's logits by who shares its batch
SIDES: dict[str, tuple[str, ...]] = {
    "ours": (),
    "llamacpp_bf16": ("--backend", "llamacpp", "--weights", "bf16"),
    "llamacpp_q8_0": ("--backend", "llamacpp", "--weights", "q8_0"),
}
WARM = 0  # the place, among the numbers of clients, of the requests that come first
Json = dict[str, Any]


def main() -> None:
    """Measure and print; with `--phase` be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default=get_settings().store)
    parser.add_argument("--requests", type=int, default=32, help="At 8 clients; fewer at 1, twice as many at 32.")
    parser.add_argument("--engines", action="store_true", help="Only our engine beside others.")
    parser.add_argument("--phase", choices=["swapped", "mixed", "merged", "beside"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.phase:
        {"swapped": swapped, "mixed": mixed, "merged": merged, "beside": beside}[given.phase](json.load(sys.stdin))
    else:
        os.environ.update(CPU_ENVIRONMENT)  # the same for both sides
        print(json.dumps(measure(Store(given.store), given.requests, engines_only=given.engines)))


def measure(store: Store, count: int, *, engines_only: bool = False) -> Json:
    """All figures, each side in processes of its own."""
    registry = Registry(store)
    champions = {agent: found for agent in AGENTS if (found := registry.in_service(agent))}
    base = find_base(store)
    if base is None or len(champions) < len(AGENTS):
        raise GrokoraError(f"{store.root} lacks a base model or champions of {', '.join(AGENTS)}; run `make demo`.")
    sizes = {WARM: 8, 1: max(4, count // 4), 8: count, 32: 2 * count}
    calls = requests(sum(sizes.values()))
    shares, start = {}, 0
    for clients, size in sizes.items():
        shares[clients], start = calls[start : start + size], start + size
    folders = {agent: str(found.path.resolve()) for agent, found in champions.items()}
    task: Json = {"base": str(base.folder.resolve()), "adapters": folders, "requests": shares[8]}
    names = {agent: f"{agent}@{found.version}" for agent, found in champions.items()}
    alone = 0.0 if engines_only else base_served(store, shares[WARM])
    sides = serve(store, shares, names, base.folder)
    answers: list[Json] = sides["ours"]["answers"]
    for name, side in sides.items():
        replies = side.pop("answers")
        if name.startswith("llamacpp"):
            side["identical_share"] = equal_share(answers, replies)
    ours = sides["ours"]
    others = {
        "ours": ours,
        "llamacpp": {kind: sides[f"llamacpp_{kind}"] for kind in ("bf16", "q8_0")},
        "transformers_serve": sides.get("transformers_serve"),
    }
    if engines_only:
        return {"what": "serving", "adapters": len(champions), **others}
    other = phase("swapped", task)
    exact = task | {"requests": shares[8][:EXACT], "dtype": "float32"}
    return {
        "what": "serving",
        "adapters": len(champions),
        "ratio_vs_swapped": round(ours["clients"][8]["tokens_per_second"] / other["tokens_per_second"], 2),
        "identical_share": equal_share(answers, other.pop("answers")),
        "identical_share_float32": equal_share(phase("mixed", exact)["answers"], phase("swapped", exact)["answers"]),
        "memory_ratio": round(ours["memory_mb"] / (alone + other["adapters_mb"]), 3),
        **others,
        "swapped": other,
        "beside_long": phase("beside", task),
        "base": {"memory_mb": alone},
        "merged": {"memory_mb": merged_processes(task), "processes": len(champions)},
    }


def equal_share(one: Sequence[Json], other: Sequence[Json]) -> float:
    """The share of answers that are equal."""
    return round(sum(mine == its for mine, its in zip(one, other, strict=True)) / len(one), 4)


def requests(count: int) -> list[Json]:
    """Different request bodies, the agents in turn; `model` is the agent's name."""
    known: dict[str, dict[str, Json]] = {agent: {} for agent in AGENTS}
    for call in swarm_calls(2 * count):
        body = {"model": call.agent, "messages": call.messages, "max_tokens": LONGEST.get(call.agent, 80)}
        known[call.agent][json.dumps(call.messages)] = body | ({"tools": call.tools} if call.tools else {})
    turns = zip(*(bodies.values() for bodies in known.values()), strict=False)
    found = list(chain.from_iterable(turns))[:count]
    assert len(found) == count, f"only {len(found)} different requests"
    return found


def serve(store: Store, shares: dict[int, list[Json]], names: dict[str, str], base: Path) -> dict[str, Json]:
    """The sides under load, in turns; `answers` are those of the 8 clients."""
    clients = {number: bodies for number, bodies in shares.items() if number != WARM}
    with tempfile.TemporaryDirectory(prefix="grokora-serving-") as folder, ExitStack() as stack:
        os.environ["GROKORA_CACHE"] = folder
        servers = {}
        for side, arguments in SIDES.items():
            Path(folder, side).mkdir()
            servers[side] = stack.enter_context(server(Path(folder, side), store, *arguments))
        if find_spec("fastapi"):
            servers["transformers_serve"] = stack.enter_context(transformers_serve(Path(folder), base))
        figures: dict[str, Json] = {  # nothing is measured cold
            side: {"clients": {}, "memory_mb": resident(*one, _bodies(side, shares[WARM], []))}
            for side, one in servers.items()
        }
        for number, bodies in clients.items():
            lengths = list[int]()  # of our answers
            for side, (url, _) in servers.items():
                sent = _bodies(side, bodies, lengths)
                figures[side]["clients"][number], replies = asyncio.run(load(url, sent, number))
                lengths = lengths or [reply["usage"]["completion_tokens"] for reply in replies]
                if side != "transformers_serve":
                    assert {reply["model"] for reply in replies} == set(names.values()), "somebody else answered"
                if number == 8:
                    figures[side]["answers"] = [_essence(reply["choices"][0]["message"]) for reply in replies]
        for side, one in servers.items():
            figures[side]["memory_mb_after_load"], figures[side]["prefix_cache_mb"] = settled(*one)
    return figures


def _bodies(side: str, bodies: Sequence[Json], lengths: Sequence[int]) -> list[Json]:
    """The requests as a side takes them. transformers has one model, and samples unless it is told not to; the base
    rambles, so its answers are cut to the lengths of ours: long ones cost less a token, because they share a prompt."""
    if side != "transformers_serve":
        return list(bodies)
    plain = [{name: body[name] for name in ("messages", "max_tokens")} | {"temperature": 0.0} for body in bodies]
    return [body | {"max_tokens": most} for body, most in zip(plain, lengths, strict=True)] if lengths else plain


@contextmanager
def transformers_serve(home: Path, base: Path) -> Iterator[tuple[str, psutil.Process]]:
    """`transformers serve` of the base alone, with continuous batching."""
    command = [script("transformers"), "serve", str(base), "--continuous-batching"]
    with served(command, home / "transformers.log", os.environ) as (url, process):
        yield url, psutil.Process(process.pid)


def base_served(store: Store, bodies: Sequence[Json]) -> float:
    """Megabytes of `grokora serve` where no agent has a champion."""
    with tempfile.TemporaryDirectory(prefix="grokora-serving-") as folder:
        alone = Path(folder, "store")
        shutil.copytree(Path(str(store.root)) / "base_model", alone / "base_model")
        with server(Path(folder), Store(str(alone))) as (url, process):
            return resident(url, process, bodies)


def resident(url: str, process: psutil.Process, bodies: Sequence[Json]) -> float:
    """Megabytes of a server that has answered, without its prefix cache."""
    asyncio.run(load(url, [body | {"max_tokens": 16} for body in bodies], 8))
    memory, cached = settled(url, process)
    return round(memory - cached, 1)


def settled(url: str, process: psutil.Process) -> tuple[float, float]:
    """(megabytes, those of the prefix cache) of a server that had a moment to give memory back."""
    time.sleep(3)
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    cached = next((line for line in lines if line.startswith("grokora_engine_cache_bytes ")), "none 0")
    return _megabytes(process), round(float(cached.split()[1]) / 1e6, 1)


async def load(url: str, bodies: Sequence[Json], clients: int) -> tuple[Json, list[Json]]:
    """(figures, replies in the requests' order) of so many clients that share the requests."""
    replies: list[Json] = [{}] * len(bodies)
    seconds: list[float] = []
    places = iter(range(len(bodies)))

    async def client(http: httpx.AsyncClient) -> None:
        for place in places:
            began = time.perf_counter()
            response = await http.post(f"{url}/v1/chat/completions", json=bodies[place])
            response.raise_for_status()
            seconds.append(time.perf_counter() - began)
            replies[place] = response.json()

    started = time.perf_counter()
    async with httpx.AsyncClient(timeout=None) as http:
        await asyncio.gather(*[client(http) for _ in range(clients)])
    wall = time.perf_counter() - started
    tokens, ordered = sum(reply["usage"]["completion_tokens"] for reply in replies), sorted(seconds)
    figures = {
        "requests": len(bodies),
        "requests_per_second": round(len(bodies) / wall, 2),
        "tokens_per_second": round(tokens / wall, 1),
        "p50_seconds": round(ordered[len(ordered) // 2], 3),
        "p95_seconds": round(ordered[int(len(ordered) * 0.95)], 3),
    }
    return figures, replies


def phase(name: str, task: Json) -> Json:
    """The figures of one of our processes."""
    command = [sys.executable, "-m", __spec__.name, "--phase", name]
    done = subprocess.run(command, input=json.dumps(task), stdout=subprocess.PIPE, text=True, check=True)
    figures: Json = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def merged_processes(task: Json) -> float:
    """Megabytes of one process for each merged model, all of them at the same time."""
    command = [sys.executable, "-m", __spec__.name, "--phase", "merged"]
    running = []
    for folder in task["adapters"].values():
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin and child.stdout
        child.stdin.write(json.dumps(task | {"adapter": folder}) + "\n")
        child.stdin.close()
        running.append(child)
    for child in running:
        assert child.stdout and child.stdout.readline(), "a merged model could not be loaded"
    total = sum(psutil.Process(child.pid).memory_full_info().pss for child in running)
    for child in running:
        child.terminate()
        child.wait()
    return round(total / 1e6, 1)


# --- in processes of their own --------------------------------------------------------------------------------------


def merged(task: Json) -> None:
    """A merged model that has answered once; it stays until it is ended."""
    from grokora_pipeline.models.loading import load_adapter

    model, chat = _load(task)
    model = load_adapter(model, task["adapter"]).merge_and_unload()
    _generate(model, chat, task["requests"][0])
    print("ready", flush=True)
    time.sleep(600)


def mixed(task: Json) -> None:
    """The engine, all requests at once."""
    import torch

    from grokora_pipeline.serving.engine.engine import TorchEngine
    from grokora_pipeline.serving.gateway.answers import LocalAnswer, prepare
    from grokora_pipeline.serving.gateway.protocol import ChatRequest, new_reply

    engine = TorchEngine(Path(task["base"]), dtype=getattr(torch, task["dtype"]))
    for name, folder in task["adapters"].items():
        engine.add_adapter(name, Path(folder))

    async def answer(body: Json) -> Json:
        asked = ChatRequest.parse(body)
        ask = await prepare(asked, None, body["model"], engine.chat, engine.context_length)
        ask = replace(ask, grammar=None)  # it mends calls that the model alone gets wrong
        found = LocalAnswer(asked, ask, engine.chat, engine, new_reply(body["model"]))
        async for _ in found.deltas():
            pass
        return _essence(found.reply["choices"][0]["message"])

    async def answers() -> list[Json]:
        return list(await asyncio.gather(*map(answer, task["requests"])))

    print(json.dumps({"answers": asyncio.run(answers())}))
    engine.close()


def beside(task: Json) -> None:
    """Short requests alone, and beside a long answer and long prompts."""
    from grokora_pipeline.serving.engine.engine import TorchEngine
    from grokora_pipeline.serving.engine.request import GenerationRequest

    engine = TorchEngine(Path(task["base"]))
    for name, folder in task["adapters"].items():
        engine.add_adapter(name, Path(folder))
    shorts = [
        GenerationRequest(
            tuple(engine.chat.encode_prompt(body["messages"], body.get("tools"))), body["model"], body["max_tokens"]
        )
        for body in task["requests"]
    ]
    draw, most = random.Random(1), engine.context_length
    words = range(100, engine.decoder.model.config.get_text_config().vocab_size)

    async def answer(request: GenerationRequest) -> float:
        began = time.perf_counter()
        async for _ in engine.stream(request):
            pass
        return time.perf_counter() - began

    async def again(prompt_tokens: int, new_tokens: int) -> None:
        while True:
            prompt = tuple(draw.choices(words, k=min(prompt_tokens, most - new_tokens)))
            await answer(GenerationRequest(prompt, None, new_tokens, ignore_stop=True))

    async def p95(requests: Sequence[GenerationRequest]) -> float:
        seconds = sorted([await answer(request) for request in requests])
        return seconds[int(len(seconds) * 0.95)]

    async def measured() -> Json:
        half = len(shorts) // 2
        await p95(shorts[:4])  # warm
        alone = await p95(shorts[:half])
        long = [asyncio.create_task(again(100, min(2000, most // 2))), asyncio.create_task(again(6000, 2))]
        slow = await p95(shorts[half:])
        for one in long:
            one.cancel()
        await asyncio.gather(*long, return_exceptions=True)
        return {"alone_seconds": round(alone, 3), "seconds": round(slow, 3), "p95_ratio": round(slow / alone, 2)}

    print(json.dumps(asyncio.run(measured())))
    engine.close()


def swapped(task: Json) -> None:
    """One model, its adapters swapped before each request."""
    from peft import PeftModel

    from grokora_pipeline.serving.gateway.answers import read_answer

    base, chat = _load(task)
    folders = iter(task["adapters"].items())
    name, folder = next(folders)
    model: Any = PeftModel.from_pretrained(base, folder, adapter_name=name, autocast_adapter_dtype=False)
    for name, folder in folders:
        model.load_adapter(folder, adapter_name=name, autocast_adapter_dtype=False)
    model.to(base.dtype).eval()
    for name, body in zip(task["adapters"], task["requests"], strict=False):  # warm, as the other side is
        model.set_adapter(name)
        _generate(model, chat, body | {"max_tokens": 8})
    answers, tokens, started = [], 0, time.perf_counter()
    for body in task["requests"]:
        model.set_adapter(body["model"])
        made, whole = _generate(model, chat, body)
        tokens += len(made)
        answers.append(_essence(read_answer(chat.decode(made), chat, body.get("tools"), whole=whole)[0]))
    wall = time.perf_counter() - started
    print(
        json.dumps(
            {
                "tokens_per_second": round(tokens / wall, 1),
                "requests_per_second": round(len(answers) / wall, 2),
                "memory_mb": _megabytes(psutil.Process()),
                "adapters_mb": _in_dtype(task["adapters"].values(), base.dtype),
                "answers": answers,
            }
        )
    )


def _load(task: Json) -> tuple[Any, Any]:
    import torch

    from grokora_pipeline.models.chat import ChatFormat
    from grokora_pipeline.models.loading import load_base

    dtype = getattr(torch, task["dtype"]) if "dtype" in task else None
    return load_base(task["base"], dtype=dtype), ChatFormat.load(Path(task["base"]))


def _generate(model: Any, chat: Any, body: Json) -> tuple[list[int], bool]:
    """(tokens without the stop token, whether there was one) of a greedy answer."""
    import torch

    prompt = chat.encode_prompt(body["messages"], body.get("tools"))
    ids = torch.tensor([prompt], device=model.device)
    options = {"max_new_tokens": body["max_tokens"], "do_sample": False, "eos_token_id": list(chat.stop_ids)}
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=chat.stop_ids[0], **options
        )
    made: list[int] = out[0, len(prompt) :].tolist()
    whole = made[-1] in chat.stop_ids
    return made[:-1] if whole else made, whole


def _essence(message: Json) -> Json:
    """What an answer says: its text and its calls, without their ids."""
    calls = [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message.get("tool_calls", ())
    ]
    return {"content": message["content"], "calls": json.loads(json.dumps(calls))}


def _in_dtype(folders: Iterable[str], dtype: Any) -> float:
    """Megabytes of adapters when their values have a dtype."""
    from safetensors import safe_open

    values = 0
    for folder in folders:
        with safe_open(Path(folder, "adapter_model.safetensors"), "pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        values += sum(rows * columns for rows, columns in shapes)
    size: int = dtype.itemsize
    return round(values * size / 1e6, 1)


def _megabytes(process: psutil.Process) -> float:
    processes = [process, *process.children(recursive=True)]
    resident: int = sum(one.memory_info().rss for one in processes)
    return round(resident / 1e6, 1)


if __name__ == "__main__":
    main()
