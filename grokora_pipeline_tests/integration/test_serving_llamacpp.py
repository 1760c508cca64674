"""llama.cpp behind the gateway's engine protocol, against this project's own engine in fp32, on a tiny random model."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import torch

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models import gguf
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.serving.backends import llamacpp
from grokora_pipeline.serving.backends.llamacpp import TURN_TOKENS, LlamaCppEngine
from grokora_pipeline.serving.engine.constrain import grammar_for
from grokora_pipeline.serving.engine.engine import TorchEngine
from grokora_pipeline.serving.engine.request import Engine, GenerationRequest, TokenChunk
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.gateway import Setup
from grokora_pipeline_tests.integration.test_gguf import random_adapter
from grokora_pipeline_tests.tiny import tiny_base, wandering_model

pytest.importorskip("xllamacpp")
KNOBS: dict[str, dict[str, Any]] = {
    "wide": {"use_rslora": True, "rank_pattern": {"q_proj": 4, "o_proj": 2}},
    "narrow": {"target_modules": ["q_proj", "v_proj"]},
}
TOOL = {"name": "click", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}
TOOLS = [{"type": "function", "function": TOOL}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a head of its own, so that its answers wander; it writes no half characters."""
    torch.set_num_threads(1)
    folder = tiny_base(tmp_path_factory.mktemp("base"))
    model = wandering_model(folder)
    chat = ChatFormat.load(folder)
    half = [
        token for token in range(512) if not chat.decode([token]).isascii() or chat.tokenizer.id_to_token(token) is None
    ]
    model.lm_head.weight.data[half] = 0.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: random_adapter(base, tmp_path_factory.mktemp(name), **knobs) for name, knobs in KNOBS.items()}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions in this process, which has torch anyway; llama.cpp on one thread."""
    monkeypatch.setattr(llamacpp, "_in_process", lambda function, **arguments: function(**arguments))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def engine(base: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppEngine]:
    cache = tmp_path_factory.getbasetemp() / "cache"
    started = LlamaCppEngine(base, cache, weights="f32", slots=4, gpu=False)
    for name, folder in adapters.items():
        started.add_adapter(name, folder)
    yield started
    started.close()


@pytest.fixture(scope="module")
def own(base: Path, adapters: dict[str, Path]) -> Iterator[Callable[[GenerationRequest], list[int]]]:
    """What this project's own engine answers in fp32."""
    torch_engine = TorchEngine(base, dtype=torch.float32)
    for name, folder in adapters.items():
        torch_engine.add_adapter(name, folder)
    yield lambda request: run(answer(torch_engine, request))[0]
    torch_engine.close()


async def answer(engine: Engine, request: GenerationRequest) -> tuple[list[int], TokenChunk]:
    tokens: list[int] = []
    async for chunk in engine.stream(request):
        tokens += chunk.tokens
    return tokens, chunk


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def requests(base: Path, count: int, new_tokens: int) -> list[GenerationRequest]:
    chat, names = ChatFormat.load(base), [None, *KNOBS]
    prompts = [
        chat.encode_prompt([{"role": "user", "content": f"Click the button at {7 * at}."}]) for at in range(count)
    ]
    return [
        GenerationRequest(tuple(prompt), names[at % len(names)], new_tokens - at) for at, prompt in enumerate(prompts)
    ]


def test_requests_of_different_adapters_get_the_answers_of_this_projects_own_engine(
    engine: LlamaCppEngine, base: Path, own: Callable[[GenerationRequest], list[int]]
) -> None:
    asked = requests(base, 12, 40)
    expected = [own(request) for request in asked]
    assert len({tuple(tokens) for tokens in expected}) > 8

    async def together() -> list[tuple[list[int], TokenChunk]]:
        return list(await asyncio.gather(*(answer(engine, request) for request in asked)))

    replies = run(together())
    assert [tokens for tokens, _ in replies] == expected
    full = [len(tokens) == request.max_new_tokens for tokens, request in zip(expected, asked, strict=True)]
    assert [chunk.finish for _, chunk in replies] == ["length" if whole else "stop" for whole in full]
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.failed) == (0, 0, 0)
    assert stats.generated_tokens == sum(map(len, expected))
    assert stats.prompt_tokens == sum(len(request.prompt) for request in asked)


def test_an_answer_of_several_turns_is_the_one_of_a_single_turn_and_keeps_its_beginning(
    engine: LlamaCppEngine, base: Path, own: Callable[[GenerationRequest], list[int]]
) -> None:
    request = GenerationRequest(requests(base, 1, 9)[0].prompt, "wide", 2 * TURN_TOKENS + 20, ignore_stop=True)
    tokens, last = run(answer(engine, request))
    assert tokens == own(request)
    assert (len(tokens), last.finish) == (request.max_new_tokens, "length")
    for adapter, least in (("wide", len(request.prompt)), ("narrow", 0)):  # keys of one adapter are not another's
        again = GenerationRequest((*request.prompt, *tokens[: 2 * TURN_TOKENS], 70, 71), adapter, 5)
        followed, last = run(answer(engine, again))
        assert followed == own(again)
        assert (last.cached_tokens >= least) if least else (last.cached_tokens == 0)


def test_an_adapter_comes_and_goes_while_others_run(
    engine: LlamaCppEngine, base: Path, adapters: dict[str, Path], own: Callable[[GenerationRequest], list[int]]
) -> None:
    prompt = requests(base, 1, 9)[0].prompt
    long = GenerationRequest(prompt, "wide", 900, ignore_stop=True)
    own_long, own_narrow = own(long), own(GenerationRequest(prompt, "narrow", 9))

    async def work() -> None:
        stream: Any = engine.stream(long)
        tokens = [*(await anext(stream)).tokens]
        await asyncio.to_thread(engine.add_adapter, "wide", adapters["narrow"])
        await asyncio.to_thread(engine.remove_adapter, "narrow")
        assert set(engine.adapters) == {"wide"}
        assert (await answer(engine, GenerationRequest(prompt, "wide", 9)))[0] == own_narrow
        with pytest.raises(GrokoraError, match="no adapter 'narrow'"):
            await answer(engine, GenerationRequest(prompt, "narrow", 9))
        async for chunk in stream:  # on the server that it began on, with the adapter of then
            tokens += chunk.tokens
        assert tokens == own_long

    run(work())
    assert len(engine._servers()) == 1


def test_whoever_leaves_frees_the_slot_and_adapters_that_do_not_load_change_nothing(
    base: Path, adapters: dict[str, Path], tmp_path: Path, own: Callable[[GenerationRequest], list[int]]
) -> None:
    engine = LlamaCppEngine(base, tmp_path / "cache", weights="f32", slots=1, gpu=False)
    request = requests(base, 1, 12)[0]

    async def work() -> None:
        stream: Any = engine.stream(GenerationRequest(request.prompt, None, 1900, ignore_stop=True))
        await anext(stream)
        waiting = asyncio.create_task(answer(engine, request))
        await asyncio.sleep(0.05)
        assert (engine.stats().running, engine.stats().waiting) == (1, 1)
        await stream.aclose()
        assert (await waiting)[0] == own_answer

    own_answer = own(request)
    run(work())
    assert engine.stats().running == 0
    other = random_adapter(tiny_base(tmp_path / "other", hidden_size=32), tmp_path / "of_other")
    for folder, reason in (
        (other, "cannot be served by llama.cpp: llama.cpp does not start"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(GrokoraError, match=reason):
            engine.add_adapter("bad", folder)
    assert run(answer(engine, request))[0] == own_answer
    assert not engine.adapters
    engine.close()
    with pytest.raises(GrokoraError, match="has ended"):
        run(answer(engine, request))


def test_a_crash_of_llamacpp_fails_its_answers_by_name_and_the_next_one_is_answered(
    engine: LlamaCppEngine, base: Path, own: Callable[[GenerationRequest], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    request = requests(base, 2, 12)[1]

    async def crash() -> None:
        stream: Any = engine.stream(GenerationRequest(request.prompt, "wide", 1900, ignore_stop=True))
        await anext(stream)
        os.kill(engine._servers()[-1].process.pid, signal.SIGKILL)
        async for _ in stream:
            pass

    with pytest.raises(GrokoraError, match=r"broke off \(signal 9.*ask again"):
        run(crash())
    assert run(answer(engine, request))[0] == own(request)
    assert "ALERT llama.cpp has ended by itself (signal 9" in caplog.text
    assert engine.stats().failed == 1


def test_grammars_are_followed_and_never_dropped(
    engine: LlamaCppEngine, base: Path, own: Callable[[GenerationRequest], list[int]]
) -> None:
    # an answer may end where the grammar could go on, by the stop token that training used
    choices = 'start: "a" ("b" | "c" | "de" | "f")*'
    for request in requests(base, 6, 30):
        constrained = replace(request, grammar=f"%llguidance {{}}\n{choices}")
        assert run(answer(engine, constrained))[0] == own(constrained)
    prompt, chat = requests(base, 1, 9)[0].prompt, engine.chat
    schema = {"type": "object", "properties": {"name": {"enum": ["été 😀", "ночь"]}}, "required": ["name"]}
    grammar = grammar_for(None, None, {"type": "json_schema", "json_schema": {"schema": schema}}, chat)
    tokens, last = run(answer(engine, GenerationRequest(prompt, "wide", 100, grammar=grammar)))
    assert orjson.loads(chat.decode(tokens))["name"] in ("été 😀", "ночь")  # characters of several tokens arrive whole
    assert last.finish == "stop"
    with pytest.raises(GrokoraError, match="grammar cannot be used"):
        run(answer(engine, GenerationRequest(prompt, None, 9, grammar="%llguidance {}\nstart: missing")))


def test_sampling_follows_the_seed(engine: LlamaCppEngine, base: Path) -> None:
    prompt = requests(base, 1, 9)[0].prompt

    def sample(seed: int, **options: Any) -> list[int]:
        options = {"temperature": 1.0, **options}
        tokens: list[int] = run(answer(engine, GenerationRequest(prompt, "wide", 20, seed=seed, **options)))[0]
        return tokens

    assert sample(4) == sample(4)
    assert sample(4) != sample(5)
    assert sample(4, top_p=1e-6) == sample(5, top_p=1e-6) == sample(5, temperature=1e-300)


def test_the_gateway_answers_records_and_streams_by_llamacpp_as_by_its_own_engine(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    for key, version, folder in (("base_model", "base1", base), ("actor/lora_adapter", "v1", adapters["wide"])):
        with store.stage(key) as staged:
            for file in folder.iterdir():
                (staged / file.name).write_bytes(file.read_bytes())
            (staged / "base_model.json").write_bytes(orjson.dumps({"model_id": "tiny", "path": "."}))
            store.publish(key, version, staged)
    Registry(store).promote("actor", "v1", "for the test", {})
    body = {"model": "actor", "messages": [{"role": "user", "content": "Click 12."}], "max_tokens": 60}
    bodies = [
        body,
        {**body, "stop": ["e"]},
        {**body, "tools": TOOLS, "tool_choice": "required"},
        {**body, "model": "base", "max_tokens": 5},
    ]

    def replies(name: str, start: Callable[[Path], Engine]) -> tuple[list[Any], str, list[Any]]:
        setup = Setup(tmp_path / name, [AgentSpec(name="actor", description="acts")], store=store, start_engine=start)
        with setup.running() as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
            answers = [client.post("/v1/chat/completions", json=one).raise_for_status() for one in bodies]
            streamed = client.post("/v1/chat/completions", json={**body, "stream": True}).raise_for_status()
            lines = gateway.lines()
            engine = gateway.gateway.champions.engine
            assert engine
            engine.close()
        choices = [
            [reply.json()["choices"][0], reply.json()["usage"], reply.headers["x-served-by"]] for reply in answers
        ]
        for choice, usage, _ in choices:
            usage.pop("prompt_tokens_details", None)
            for call in choice["message"].get("tool_calls") or ():
                call.pop("id")
        events = [orjson.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
        text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
        return choices, text, [line["response"]["choices"][0]["finish_reason"] for line in lines]

    ours = replies("own", lambda folder: TorchEngine(folder, dtype=torch.float32))
    theirs = replies("llamacpp", lambda folder: LlamaCppEngine(folder, tmp_path / "cache", weights="f32", gpu=False))
    assert theirs == ours
    (call,) = theirs[0][2][0]["message"]["tool_calls"]
    assert (call["function"]["name"], list(orjson.loads(call["function"]["arguments"]))) == ("click", ["x"])
    assert theirs[1] == theirs[0][0][0]["message"]["content"]


def test_what_cannot_be_served_is_one_sentence(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GrokoraError, match="writes f32, bf16, q8_0, q4_0, not q4_k_m"):
        LlamaCppEngine(base, tmp_path, weights="q4_k_m")
    unknown = tiny_base(tmp_path / "unknown")
    config = orjson.loads((unknown / "config.json").read_bytes())
    (unknown / "config.json").write_bytes(orjson.dumps({**config, "architectures": ["OddForCausalLM"]}))
    with pytest.raises(GrokoraError, match="does not know OddForCausalLM"):
        LlamaCppEngine(unknown, tmp_path)
    monkeypatch.setattr(llamacpp, "find_spec", lambda name: None)
    with pytest.raises(GrokoraError, match="xllamacpp is not installed"):
        LlamaCppEngine(base, tmp_path)


def test_conversions_run_in_a_process_of_their_own_and_their_errors_arrive(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with pytest.raises(GrokoraError, match="not q9"):
        llamacpp._in_process(gguf.write_base, folder=base, output=tmp_path / "x.gguf", kind="q9")
    assert not (tmp_path / "x.gguf").exists()
