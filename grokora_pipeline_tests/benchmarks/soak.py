"""`python -m grokora_pipeline_tests.benchmarks.soak [--minutes 10]`: load on `grokora serve`, champions changing.

Clients go through the calls of the sandbox's swarm over all three APIs, half of them streaming. After a third of the
time the actor's champion is replaced, after a half the observer gets one that cannot be read, after two thirds the
actor's is rolled back. All the time somebody sends hostile requests: bad temperatures, huge bodies, deep JSON, streams
that are left, bodies that never end. One JSON line: requests of innocent clients and how many failed, recordings that
are missing, what the hostile ones got, and the server's memory. `--store` copies a store to serve from; without it a
tiny random model is made.
"""

import argparse
import asyncio
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil

from grokora_pipeline.models.messages import first_text, message_text
from grokora_pipeline.sandbox.experts import expert_answer
from grokora_pipeline.sandbox.roles import AGENTS, AgentCall
from grokora_pipeline.sandbox.swarm import run_swarm, swarm_tasks
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.chain import script
from grokora_pipeline_tests.processes import served
from grokora_pipeline_tests.tiny import tiny_base

LONGEST = {"coordinator": 144}
HOSTILE = "somebody"  # the session of hostile requests
ENDS = {  # by API: what stands in the last event of a stream, and a member of a whole reply
    "chat/completions": (("[DONE]",), "choices"),
    "messages": (("message_stop",), "content"),
    "responses": (("response.completed", "response.incomplete"), "output"),
}
WARM_UP = 0.15  # of the time: until then caches fill, and memory may grow


@dataclass
class Seen:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    apis: Counter[str] = field(default_factory=Counter)
    hostile: Counter[str] = field(default_factory=Counter)  # kind and status
    degraded: bool = False  # whether /health named the broken adapter
    served_by: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)  # bytes, once a second
    over: bool = False


def make_store(folder: Path, source: Path | None) -> Store:
    """A store of its own whose actor has two adapters, the first in service."""
    store = Store(str(folder))
    if source:
        for key in ("base_model", *(f"{agent}/{link}" for agent in AGENTS for link in ("lora_adapter", "champion"))):
            shutil.copytree(source / key, folder / key)
    else:
        _tiny_store(store)
    for agent, version in (("actor", "challenger"), ("observer", "broken")):
        champion = Registry(store).in_service(agent)
        assert champion is not None, f"the store's {agent} needs a champion"
        with store.stage(f"{agent}/lora_adapter") as staged:
            shutil.copytree(champion.path, staged, dirs_exist_ok=True)
            if version == "broken":
                (staged / "adapter_model.safetensors").write_bytes(b"no safetensors")
            store.publish(f"{agent}/lora_adapter", version, staged)
    return store


def _tiny_store(store: Store) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from grokora_pipeline.models.loading import load_base

    with store.stage("base_model") as staged:
        tiny_base(staged)
        (staged / "base_model.json").write_bytes(orjson.dumps({"model_id": "tiny", "path": "."}))
        base = store.publish("base_model", "tiny", staged)
    for agent in AGENTS:
        with store.stage(f"{agent}/lora_adapter") as staged:
            config = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False)
            torch.manual_seed(len(agent))
            get_peft_model(load_base(base.path), config).save_pretrained(str(staged))
            store.publish(f"{agent}/lora_adapter", "first", staged)
        Registry(store).promote(agent, "first", "for the soak", {})


def swarm_calls(tasks: int) -> list[AgentCall]:
    """The calls of a swarm in which everybody answers rightly."""
    results = run_swarm(swarm_tasks(7, tasks), expert_answer)
    return [exchange.call for result in results for exchange in result.transcript]


@contextmanager
def server(home: Path, store: Store, *arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    """`grokora serve` with these arguments and logs of its own."""
    (home / "logs").mkdir()
    variables = {**os.environ, "GROKORA_LOGS": str(home / "logs"), "GROKORA_STORE": str(store.root)}
    with served([script("grokora"), "serve", *arguments], home / "serve.log", variables) as (url, process):
        yield url, psutil.Process(process.pid)


async def client(number: int, url: str, calls: list[AgentCall], seen: Seen) -> None:
    """One caller: a call after the other until the time is over."""
    chosen = random.Random(number)
    async with httpx.AsyncClient(timeout=None) as http:
        while not seen.over:
            call, api = chosen.choice(calls), chosen.choice(list(ENDS))
            body = body_of(api, call) | {"model": "auto", "stream": chosen.random() < 0.5}
            started = time.perf_counter()
            failure, served_by = await _ask(http, f"{url}/v1/{api}", body, f"client-{number}")
            seen.seconds.append(time.perf_counter() - started)
            seen.served_by[served_by] += 1
            seen.apis[api] += 1
            if failure:
                seen.failures[failure] += 1


def body_of(api: str, call: AgentCall) -> dict[str, Any]:
    """A call of the swarm as an API's body; the others than chat get its texts, without tools."""
    longest = LONGEST.get(call.agent, 80)
    if api == "chat/completions":
        body = {"messages": call.messages, "max_tokens": longest}
        return body | ({"tools": call.tools} if call.tools else {})
    system = first_text(call.messages, "system")
    texts = [
        {"role": "assistant" if message["role"] == "assistant" else "user", "content": message_text(message) or "-"}
        for message in call.messages
        if message["role"] != "system"
    ]
    if api == "messages":
        return {"messages": texts, "max_tokens": longest} | ({"system": system} if system else {})
    return {"input": texts, "max_output_tokens": longest, "instructions": system or None}


async def hostile(url: str, seen: Seen) -> None:
    """Somebody who means no good, one request after the other; a status of 500 or more is a failure."""
    task = {"role": "user", "content": "Task: open the vault"}
    deep = b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    bodies = {
        "temperature": orjson.dumps({"messages": [task], "temperature": 1e-300, "max_tokens": 20}),
        "bad temperature": b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        "huge body": b'{"messages": "' + b"x" * (20 << 20) + b'"}',
        "long prompt": orjson.dumps({"messages": [{"role": "user", "content": "word " * 1_000_000}]}),
        "deep JSON": deep,
    }
    headers = {"x-session-id": HOSTILE, "content-type": "application/json"}
    address = url.removeprefix("http://").split(":")
    async with httpx.AsyncClient(timeout=60, headers=headers) as http:
        while not seen.over:
            for kind, body in bodies.items():
                try:
                    status = str((await http.post(f"{url}/v1/chat/completions", content=body)).status_code)
                except httpx.TransportError as error:  # the server may close before it has read all of a huge body
                    status = type(error).__name__
                seen.hostile[f"{kind}: {status}"] += 1
                if status.startswith("5"):
                    seen.failures[f"hostile {kind}: {status}"] += 1
            left = orjson.dumps({"messages": [task], "stream": True, "max_tokens": 500})
            async with http.stream("POST", f"{url}/v1/chat/completions", content=left) as response:
                await anext(response.aiter_bytes())
            seen.hostile["left stream"] += 1
            _, writer = await asyncio.open_connection(address[0], int(address[1]))
            writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99\r\n"
                         b"content-type: application/json\r\n\r\n{")  # fmt: skip
            await asyncio.sleep(0.5)
            writer.close()
            seen.hostile["unfinished body"] += 1


async def _ask(http: httpx.AsyncClient, url: str, body: dict[str, Any], session: str) -> tuple[str, str]:
    """(what went wrong, "" if nothing did; who answered)."""
    try:
        response = await http.post(url, json=body, headers={"x-session-id": session})
    except httpx.HTTPError as error:
        return type(error).__name__, ""
    ends, member = ENDS[url.partition("/v1/")[2]]
    if body["stream"]:
        whole = any(end in line for line in response.text.splitlines()[-3:] for end in ends)
    else:
        whole = member in response.json()
    failure = "" if response.status_code == 200 and whole else f"{response.status_code} {response.text[-200:]}"
    return failure, response.headers.get("x-served-by", "")


async def soak(url: str, process: psutil.Process, store: Store, seconds: float, clients: int) -> Seen:
    """Load for so long, with what happens to champions in it. Seconds are ticks: a machine that sleeps adds none."""
    seen, calls, registry = Seen(), swarm_calls(40), Registry(store)
    changes: dict[int, Callable[[], object]] = {
        round(seconds / 3): lambda: registry.promote("actor", "challenger", "for the soak", {}),
        round(seconds / 2): lambda: registry.promote("observer", "broken", "for the soak", {}),
        round(seconds / 3 * 2): lambda: registry.rollback("actor"),
    }
    tasks = [asyncio.create_task(client(number, url, calls, seen)) for number in range(clients)]
    tasks.append(asyncio.create_task(hostile(url, seen)))
    for tick in range(round(seconds)):
        changes.get(tick, lambda: None)()
        seen.memory.append(process.memory_info().rss)
        await asyncio.sleep(1)
    seen.over = True
    async with httpx.AsyncClient(timeout=60) as http:
        seen.degraded = (await http.get(f"{url}/health")).json().get("refused") == {"observer": "broken"}
    await asyncio.gather(*tasks)
    return seen


def recorded(home: Path) -> int:
    """Exchanges of the innocent clients on the disk."""
    files = (home / "logs" / "recordings").glob("*/client-*.jsonl")
    return sum(b'"request"' in line and line.endswith(b"\n") for file in files for line in file.open("rb"))


def main() -> None:
    """Print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--store", type=Path)
    given = parser.parse_args()
    seconds = 60 * given.minutes
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        store = make_store(home / "store", given.store)
        with server(home, store) as (url, process):
            seen = asyncio.run(soak(url, process, store, seconds, given.clients))
            metrics = httpx.get(f"{url}/metrics").text
        figures = report(seen, seconds, recorded(home))
    cached = next((line for line in metrics.splitlines() if line.startswith("grokora_engine_cache_bytes ")), " 0")
    print(orjson.dumps(figures | {"prefix_cache_mb": round(float(cached.split()[1]) / 1e6, 1)}).decode())


def report(seen: Seen, seconds: float, lines: int) -> dict[str, Any]:
    """The figures; memory is compared from the end of the warm-up on."""
    ordered, warm = sorted(seen.seconds), seen.memory[int(len(seen.memory) * WARM_UP) :]
    third = max(1, len(warm) // 3)
    first, last = sum(warm[:third]) / third, sum(warm[-third:]) / third
    return {
        "requests": len(ordered),
        "failed": sum(seen.failures.values()),
        "failures": dict(seen.failures.most_common(5)),
        "lost_recordings": len(ordered) - lines,
        "served_by": dict(seen.served_by),
        "apis": dict(seen.apis),
        "hostile": dict(seen.hostile),
        "broken_adapter_named": seen.degraded,
        "requests_per_second": round(len(ordered) / seconds, 2),
        "p50_seconds": round(ordered[len(ordered) // 2], 3),
        "p95_seconds": round(ordered[int(len(ordered) * 0.95)], 3),
        "memory_mb": [round(seen.memory[int(len(seen.memory) * part / 12)] / 1e6) for part in range(12)],
        "memory_mb_end": round(seen.memory[-1] / 1e6),
        "memory_growth": round(last / first - 1, 4),
    }


if __name__ == "__main__":
    main()
