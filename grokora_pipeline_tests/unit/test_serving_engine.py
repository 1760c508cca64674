"""The engine against PEFT and `model.generate`, one row at a time, on a tiny random model in fp32."""

import asyncio
import random
import shutil
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.engine import engine as engine_module
from grokora_pipeline.serving.engine.adapters import AdapterStack, read_adapter
from grokora_pipeline.serving.engine.engine import TorchEngine
from grokora_pipeline.serving.engine.kv import release_memory
from grokora_pipeline.serving.engine.prefix_cache import BLOCK, PrefixCache
from grokora_pipeline.serving.engine.request import GenerationRequest, TokenChunk
from grokora_pipeline_tests.tiny import greedy, tiny_base, wandering_model

ADAPTERS: dict[str, dict[str, Any]] = {
    "wide": {"r": 4, "target_modules": "all-linear"},
    "narrow": {"r": 8, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "mixed": {
        "r": 2,
        "target_modules": ["o_proj", "down_proj"],
        "rank_pattern": {"o_proj": 6},
        "alpha_pattern": {"o_proj": 3},
    },
    "dora": {"r": 3, "target_modules": ["q_proj", "down_proj"], "use_dora": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a head of its own, so that its answers wander and do not hang on rounding."""
    torch.set_num_threads(1)
    folder = tiny_base(tmp_path_factory.mktemp("base"))
    model = wandering_model(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of different ranks, scalings and layers, with random weights."""
    from peft import LoraConfig, get_peft_model

    folders = {}
    for seed, (name, knobs) in enumerate(ADAPTERS.items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(_plain(base), LoraConfig(init_lora_weights=False, **knobs))
            for parameter, values in model.named_parameters():
                if "magnitude" in parameter:  # DoRA's start where they change nothing
                    values.data *= 0.7 + 0.6 * torch.rand_like(values)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
    return folders


@pytest.fixture
def engine(base: Path, adapters: dict[str, Path]) -> Iterator[TorchEngine]:
    made = TorchEngine(base, dtype=torch.float32)
    for name, folder in adapters.items():
        made.add_adapter(name, folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(base: Path, adapters: dict[str, Path]) -> Any:
    """(adapter, prompt, new tokens) → the answer of `generate` with PEFT, in a batch of its own."""
    from peft import PeftModel

    model: Any = PeftModel.from_pretrained(_plain(base), str(adapters["wide"]), adapter_name="wide").eval()
    for name in ("narrow", "mixed", "dora"):
        model.load_adapter(str(adapters[name]), adapter_name=name)

    def answer(adapter: str | None, prompt: tuple[int, ...], new_tokens: int) -> list[int]:
        if adapter is None:
            with model.disable_adapter():
                return greedy(model, prompt, new_tokens)
        model.set_adapter(adapter)
        return greedy(model, prompt, new_tokens)

    return answer


def _plain(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def _prompts(count: int, *, seed: int = 5, shared: int = 0, longest: int = 60) -> list[tuple[int, ...]]:
    draw = random.Random(seed)
    prefix = [draw.randrange(3, 500) for _ in range(shared)]
    return [
        (*prefix, *(draw.randrange(3, 500) for _ in range(draw.randrange(1, longest - shared)))) for _ in range(count)
    ]


def _asks(count: int, new_tokens: int = 12, **options: Any) -> list[GenerationRequest]:
    names = [None, *ADAPTERS]
    draw = random.Random(3)
    return [
        GenerationRequest(prompt, names[place % len(names)], draw.randrange(new_tokens // 2, new_tokens + 1))
        for place, prompt in enumerate(_prompts(count, **options))
    ]


async def _answer(engine: TorchEngine, ask: GenerationRequest) -> tuple[list[int], TokenChunk]:
    tokens: list[int] = []
    async for piece in engine.stream(ask):
        tokens += piece.tokens
        last = piece
    return tokens, last


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def _together(engine: TorchEngine, asks: list[GenerationRequest]) -> list[list[int]]:
    async def work() -> list[list[int]]:
        return [tokens for tokens, _ in await asyncio.gather(*(_answer(engine, ask) for ask in asks))]

    found: list[list[int]] = _run(work())
    return found


@pytest.mark.parametrize("shared", [0, 40])
def test_rows_of_different_adapters_in_one_batch_get_the_answers_they_get_alone(
    engine: TorchEngine, alone: Any, shared: int
) -> None:
    asks = _asks(16, shared=shared)
    expected = [alone(ask.adapter, ask.prompt, ask.max_new_tokens) for ask in asks]
    assert len({tuple(tokens) for tokens in expected}) > 12
    assert _together(engine, asks) == expected
    assert engine.stats().steps < sum(map(len, expected))
    assert engine.stats().generated_tokens == sum(map(len, expected))


def test_rows_that_join_later_and_leave_earlier_change_nobody_elses_answer(engine: TorchEngine, alone: Any) -> None:
    asks = _asks(24, new_tokens=20)

    async def work() -> list[list[int]]:
        async def late(place: int, ask: GenerationRequest) -> list[int]:
            await asyncio.sleep(0.01 * (place % 7))
            return (await _answer(engine, ask))[0]

        return await asyncio.gather(*(late(place, ask) for place, ask in enumerate(asks)))

    assert _run(work()) == [alone(ask.adapter, ask.prompt, ask.max_new_tokens) for ask in asks]


def test_prompts_longer_than_a_step_are_run_in_parts(engine: TorchEngine, alone: Any) -> None:
    engine.decoder.scheduler.prefill_tokens = 7
    asks = _asks(9)
    assert _together(engine, asks) == [alone(ask.adapter, ask.prompt, ask.max_new_tokens) for ask in asks]


def test_what_a_prompt_begins_with_is_reused_per_adapter_and_gives_the_same_answer(
    engine: TorchEngine, alone: Any
) -> None:
    first, second = _prompts(2, shared=50, longest=80)

    async def work() -> None:
        for adapter in (None, "wide"):
            for prompt, least in ((first, 0), (second, 48)):
                tokens, last = await _answer(engine, GenerationRequest(prompt, adapter, 10))
                assert tokens == alone(adapter, prompt, 10)
                assert least <= last.cached_tokens <= (50 if least else 0)

    _run(work())
    stats = engine.stats()
    assert stats.cached_tokens == 2 * 48
    assert stats.prompt_tokens == 2 * (len(first) + len(second))


def test_a_sessions_next_turn_reuses_its_earlier_turns_with_the_answer(engine: TorchEngine, alone: Any) -> None:
    prompt = _prompts(1, shared=30)[0]

    async def work() -> None:
        answer, _ = await _answer(engine, GenerationRequest(prompt, "narrow", 30))
        turn = (*prompt, *answer, 7, 8, 9)
        tokens, last = await _answer(engine, GenerationRequest(turn, "narrow", 8))
        assert last.cached_tokens == (len(prompt) + len(answer) - 1) // BLOCK * BLOCK
        assert tokens == alone("narrow", turn, 8)

    _run(work())


def test_the_prefix_cache_stays_within_its_bytes(base: Path, alone: Any) -> None:
    engine = TorchEngine(base, dtype=torch.float32, cache_bytes=20_000)
    block = BLOCK * 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, size, bytes
    assert 20_000 // block >= 2
    asks = [GenerationRequest(prompt, None, 4) for prompt in _prompts(12)]
    assert _together(engine, asks) == [alone(None, ask.prompt, 4) for ask in asks]
    assert 0 < engine.stats().cache_bytes <= 20_000
    engine.close()


def test_a_block_never_outlives_the_one_that_it_continues() -> None:
    row, size = torch.randn(64, 8), BLOCK * 8 * 4
    kept = PrefixCache(3 * size)
    kept.add("a", range(64), lambda start, stop: row[start:stop])  # four blocks, of which three have room
    assert [len(kept.find("a", range(stop))) for stop in (15, 16, 48, 64)] == [0, 1, 3, 3]
    assert torch.equal(torch.cat(kept.find("a", range(48))), row[:48])
    assert not kept.find("b", range(64))
    kept.forget("a")
    assert (kept.used_bytes, kept.find("a", range(64))) == (0, [])


def test_an_adapter_comes_and_goes_while_others_run(engine: TorchEngine, alone: Any, adapters: dict[str, Path]) -> None:
    prompts = _prompts(6)

    async def work() -> None:
        running = [asyncio.create_task(_answer(engine, GenerationRequest(prompt, "wide", 60))) for prompt in prompts]
        await asyncio.sleep(0.02)
        await asyncio.to_thread(engine.add_adapter, "again", adapters["narrow"])
        await asyncio.to_thread(engine.remove_adapter, "wide")
        assert set(engine.decoder.adapters) == {"narrow", "mixed", "dora", "again"}
        tokens, _ = await _answer(engine, GenerationRequest(prompts[0], "again", 10))
        assert tokens == alone("narrow", prompts[0], 10)
        with pytest.raises(GrokoraError, match="no adapter 'wide'"):
            await _answer(engine, GenerationRequest(prompts[0], "wide", 10))
        for task, prompt in zip(running, prompts, strict=True):
            assert (await task)[0] == alone("wide", prompt, 60)
        await _answer(engine, GenerationRequest(prompts[0], None, 1))

    _run(work())
    assert {adapter.name for adapter in engine.decoder.stack.adapters} == {"narrow", "mixed", "dora", "again"}


def test_a_name_that_is_loaded_again_means_the_new_adapter_at_once(
    engine: TorchEngine, alone: Any, adapters: dict[str, Path]
) -> None:
    prompt = _prompts(1)[0]

    async def work() -> None:
        running = asyncio.create_task(_answer(engine, GenerationRequest(prompt, "wide", 60)))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(engine.add_adapter, "wide", adapters["mixed"])
        assert (await _answer(engine, GenerationRequest(prompt, "wide", 10)))[0] == alone("mixed", prompt, 10)
        assert (await running)[0] == alone("wide", prompt, 60)

    _run(work())


def test_whoever_stops_listening_leaves_the_batch(engine: TorchEngine) -> None:
    async def work() -> None:
        stream: Any = engine.stream(GenerationRequest(_prompts(1)[0], "wide", 1900))
        await anext(stream)
        await stream.aclose()
        for _ in range(500):
            if engine.stats().running == 0:
                return
            await asyncio.sleep(0.01)

    _run(work())
    assert engine.stats().running == 0
    assert engine.stats().generated_tokens < 1900


def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(engine: TorchEngine) -> None:
    with pytest.raises(GrokoraError, match=r"2048 tokens.*holds 2048"):
        _together(engine, [GenerationRequest((5,) * 2048)])


def test_an_answer_ends_where_the_context_does(engine: TorchEngine) -> None:
    async def work() -> None:
        tokens, last = await _answer(engine, GenerationRequest((5, *range(100, 140)) * 49, None, 4096))
        assert (last.finish, len(tokens)) == ("length", 2048 - 41 * 49) or last.finish == "stop"

    _run(work())


def test_rows_wait_where_memory_or_places_are_short(base: Path, alone: Any) -> None:
    engine = TorchEngine(base, dtype=torch.float32, max_rows=3, row_bytes=2 * 80 * 512)
    most = 0

    async def work(asks: list[GenerationRequest]) -> list[list[int]]:
        nonlocal most
        tasks = [asyncio.create_task(_answer(engine, ask)) for ask in asks]
        while not all(task.done() for task in tasks):
            most = max(most, engine.stats().running)
            await asyncio.sleep(0)
        return [task.result()[0] for task in tasks]

    asks = [GenerationRequest(prompt, None, 20) for prompt in _prompts(9, shared=50, longest=61)]
    assert _run(work(asks)) == [alone(None, ask.prompt, 20) for ask in asks]
    assert most == 2
    engine.close()


def test_a_failing_pass_fails_its_rows_and_not_the_engine(
    engine: TorchEngine, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = _prompts(1)[0]

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.decoder.runner, "run", broken)
        with pytest.raises(GrokoraError, match="RuntimeError: out of memory"):
            _together(engine, [GenerationRequest(prompt, "wide", 10)])
    assert engine.stats().failed == 1
    assert _together(engine, [GenerationRequest(prompt, "wide", 10)]) == [alone("wide", prompt, 10)]


def test_a_seed_gives_the_same_sample_in_any_company(engine: TorchEngine) -> None:
    prompt = _prompts(1)[0]
    ask = GenerationRequest(prompt, "wide", 12, temperature=1.0, top_p=0.9, seed=4)
    [first] = _together(engine, [ask])
    assert _together(engine, [ask, *_asks(8)])[0] == first
    assert _together(engine, [GenerationRequest(prompt, "wide", 12, temperature=1.0, top_p=0.9, seed=5)]) != [first]
    greedy = _together(engine, [GenerationRequest(prompt, "wide", 12)])
    assert _together(engine, [GenerationRequest(prompt, "wide", 12, temperature=1.0, top_p=1e-6, seed=5)]) == greedy


def test_adapters_that_do_not_fit_are_refused_and_leave_no_trace(
    engine: TorchEngine, adapters: dict[str, Path], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    other = get_peft_model(_plain(tiny_base(tmp_path / "base", hidden_size=32)), LoraConfig(target_modules=["q_proj"]))
    other.save_pretrained(tmp_path / "other")
    for name in ("dora", "cut", "torn"):
        shutil.copytree(adapters["wide"], tmp_path / name)
    config = tmp_path / "dora" / "adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))
    weights = tmp_path / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (tmp_path / "torn" / "adapter_config.json").write_text("{")
    reasons = {"other": "maps 32", "dora": "other weights", "cut": "cannot be read", "torn": "cannot be read"}
    for folder, reason in (reasons | {"nothing": "no adapter_model.safetensors"}).items():
        with pytest.raises(GrokoraError, match=reason):
            engine.add_adapter("new", tmp_path / folder)
    assert set(engine.decoder.adapters) == set(ADAPTERS)


def test_in_a_quiet_moment_memory_goes_back_once_and_the_next_ask_is_answered(
    base: Path, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[bool] = []

    def note() -> None:
        release_memory()
        given_back.append(True)

    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(engine_module, "release_memory", note)
    engine = TorchEngine(base, dtype=torch.float32)
    ask = GenerationRequest((5, 6, 7), None, 4)
    for _ in range(2):
        given_back.clear()
        assert _together(engine, [ask]) == [alone(ask.adapter, ask.prompt, ask.max_new_tokens)]
        time.sleep(0.4)
        assert len(given_back) == 1
    engine.close()


def test_a_closed_engine_says_so(base: Path) -> None:
    engine = TorchEngine(base, dtype=torch.float32)

    async def work() -> None:
        task = asyncio.create_task(_answer(engine, GenerationRequest((5, 6, 7), None, 2000)))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(engine.close)
        with pytest.raises(GrokoraError, match="has ended"):
            await task
        with pytest.raises(GrokoraError, match="has ended"):
            await _answer(engine, GenerationRequest((5, 6, 7), None, 2))

    _run(work())


def test_a_mixed_pass_has_the_logits_of_separate_passes(base: Path, adapters: dict[str, Path]) -> None:
    from peft import PeftModel

    model = _plain(base)
    stack = AdapterStack(model)
    loaded = {name: read_adapter(name, folder, model) for name, folder in adapters.items()}
    for adapter in loaded.values():
        stack.install(adapter)
    ids = torch.tensor(_prompts(1, longest=40) * 5)
    with torch.inference_mode():
        stack.activate([None, *loaded.values()])
        mixed = model(ids).logits
        for place, folder in enumerate(adapters.values(), 1):
            expected = PeftModel.from_pretrained(_plain(base), str(folder)).eval()(ids[:1]).logits
            assert torch.allclose(mixed[place], expected[0], atol=1e-4, rtol=1e-4)
        assert torch.allclose(mixed[0], _plain(base)(ids[:1]).logits[0], atol=1e-4, rtol=1e-4)
