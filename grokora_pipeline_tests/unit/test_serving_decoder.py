"""The decoder's answers and scores against `transformers`' own, row by row, on a tiny random model in fp32."""

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.serving.engine.adapters import Adapter
from grokora_pipeline.serving.engine.constrain import grammar_for
from grokora_pipeline.serving.engine.decoder import Decoder
from grokora_pipeline.serving.engine.request import Completion, GenerationRequest, TokenChunk
from grokora_pipeline.serving.engine.rows import ActiveRow
from grokora_pipeline.serving.engine.sampling import sample
from grokora_pipeline.serving.engine.scheduler import LEAST_CHUNK, LONG_SHARE, MAX_OVERTAKEN, PrefillPace
from grokora_pipeline_tests.tiny import STOP, greedy, wandering_model

Make = Callable[..., Decoder]


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    """The tiny model in fp32 with a head of its own, so that its answers wander and do not hang on rounding."""
    return wandering_model(base).eval()


@pytest.fixture
def make(model: Any, base: Path) -> Make:
    """A fresh decoder on the model, with these limits."""
    return lambda **limits: Decoder(model, ChatFormat.load(base), **limits)


def _prompts(count: int, shared: int) -> list[list[int]]:
    draw = random.Random(5)
    prefix = [draw.randrange(3, 500) for _ in range(shared)]
    return [[*prefix, *(draw.randrange(3, 500) for _ in range(draw.randrange(1, 30)))] for _ in range(count)]


def _answers(decoder: Decoder, prompts: list[list[int]], new_tokens: int = 12, **options: Any) -> list[Completion]:
    requests = [GenerationRequest(tuple(prompt), None, new_tokens, **options) for prompt in prompts]
    return decoder.generate(requests)


def _tokens(*arguments: Any, **options: Any) -> list[list[int]]:
    return [one.tokens for one in _answers(*arguments, **options)]


@pytest.mark.parametrize("shared", [0, 40])
def test_batched_greedy_answers_are_those_of_one_row_at_a_time(make: Make, model: Any, shared: int) -> None:
    prompts = _prompts(8, shared)
    expected = [greedy(model, prompt, 12) for prompt in prompts]
    assert len({token for tokens in expected for token in tokens}) > 20
    for max_rows in (1, 5, 64):
        assert _tokens(make(max_rows=max_rows), prompts) == expected


def test_rows_that_stop_early_leave_the_batch_and_change_nobody_elses_answer(make: Make) -> None:
    prompts, decoder = _prompts(12, 40), make()
    free = _tokens(decoder, prompts, ignore_stop=True)
    stop = free[0][3]
    expected = [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in free]
    decoder.stop_ids = (stop,)
    answers = _answers(decoder, prompts)
    assert [one.tokens for one in answers] == expected
    assert [one.finish for one in answers] == ["stop" if stop in tokens else "length" for tokens in free]
    assert len({len(tokens) for tokens in expected}) > 1


def test_a_sampled_answer_depends_on_its_seed_and_prompt_not_on_its_batch(make: Make) -> None:
    prompts, decoder = _prompts(8, 40), make()
    together = _tokens(decoder, prompts, temperature=1.0, seed=3)
    assert [_tokens(decoder, [prompt], temperature=1.0, seed=3)[0] for prompt in prompts] == together
    assert _tokens(decoder, prompts, temperature=1.0, seed=4) != together


def test_each_row_may_have_a_seed_of_its_own(make: Make) -> None:
    prompt = tuple(_prompts(1, 20)[0])
    requests = [GenerationRequest(prompt, None, 12, 1.0, seed=seed) for seed in (1, 2, 1)]
    first, second, third = (one.tokens for one in make().generate(requests))
    assert first == third
    assert first != second


@pytest.mark.parametrize("shared", [0, 40])
def test_likelihoods_are_those_of_whole_rows(make: Make, model: Any, shared: int) -> None:
    prompts, completions = _prompts(9, shared), [row[-20:] for row in reversed(_prompts(9, 20))]
    completions[4] = []
    for nlls in (make().score(None, prompts, completions), make(max_rows=2).score(None, prompts, completions)):
        for nll, prompt, completion in zip(nlls, prompts, completions, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(completion).long(), reduction="sum")
            assert nll == pytest.approx(float(loss), rel=1e-4)


def _counted(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of every pass from now on, padding included."""
    seen: list[int] = []
    forward = model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    return seen


def test_a_prefix_that_prompts_share_goes_through_the_model_once(
    make: Make, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, prompts = make(), _prompts(10, 64)
    seen = _counted(model, monkeypatch)
    decoder.score(None, prompts, [[7, 8, 9]] * 10)
    longest = max(map(len, prompts)) + 2
    assert sum(seen) <= 64 + 10 * (longest - 64)


def test_a_prefix_that_was_computed_before_is_not_computed_again_and_changes_no_answer(
    make: Make, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = _prompts(6, 64)
    expected = [greedy(model, prompt, 6) for prompt in prompts]
    decoder = make()
    seen = _counted(model, monkeypatch)
    for rows in (prompts[:3], prompts[3:4], prompts[4:]):  # the second call has one row alone
        _answers(decoder, rows, 6)
    assert sum(tokens >= 64 for tokens in seen) == 1
    assert [_tokens(decoder, [prompt], 6)[0] for prompt in prompts] == expected


def test_a_shorter_and_a_longer_beginning_of_a_known_prefix_are_exact_too(make: Make, model: Any) -> None:
    decoder, long = make(), _prompts(4, 80)
    short = [[*prompt[:40], *prompt[70:]] for prompt in long]
    longer = [[*long[0], *range(3, 40), end] for end in (7, 9)]
    for rows in (long, short, longer, long):
        assert _tokens(decoder, rows, 6) == [greedy(model, prompt, 6) for prompt in rows]


def test_an_empty_list_of_prompts_gives_no_answers(make: Make) -> None:
    assert _answers(make(), []) == []


def test_the_batch_keeps_to_its_memory(make: Make) -> None:
    row = (40 + 30 + 8) * 2 * 2 * 2 * 16 * 4  # tokens, layers, keys and values, heads, size, bytes
    decoder, most = make(row_bytes=3 * row), list[int]()
    rows = [decoder.row(GenerationRequest(tuple(prompt), None, 8), lambda chunk: None) for prompt in _prompts(10, 40)]
    decoder.scheduler.waiting += rows
    while not decoder.idle:
        decoder.step()
        most.append(len(decoder.scheduler.rows))
    assert all(row.done for row in rows)
    assert max(most) in (3, 4, 5)


def test_the_time_of_a_pass_is_shared_by_its_rows(make: Make) -> None:
    answers = _answers(make(), _prompts(4, 20))
    assert all(one.seconds > 0 for one in answers)


def test_a_stop_token_that_is_to_be_ignored_is_part_of_the_answer(make: Make) -> None:
    decoder = make()
    decoder.stop_ids = tuple(range(512))
    assert _tokens(decoder, [[5, 6]]) == [[]]
    assert len(_tokens(decoder, [[5, 6]], ignore_stop=True)[0]) == 12
    assert STOP in decoder.stop_ids


# --- one row's trouble is its own ------------------------------------------------------------------------------------


def _run(decoder: Decoder, requests: list[GenerationRequest]) -> list[list[TokenChunk | GrokoraError]]:
    """Every request's chunks, errors included."""
    chunks: list[list[TokenChunk | GrokoraError]] = [[] for _ in requests]
    decoder.scheduler.waiting += [
        decoder.row(request, each.append) for request, each in zip(requests, chunks, strict=True)
    ]
    while not decoder.idle:
        decoder.step()
    return chunks


def _text(chunks: list[TokenChunk | GrokoraError]) -> list[int]:
    return [token for chunk in chunks if isinstance(chunk, TokenChunk) for token in chunk.tokens]


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, float("nan")])
def test_a_tiny_temperature_is_greedy_and_hurts_nobody(make: Make, model: Any, temperature: float) -> None:
    prompts = _prompts(4, 20)
    requests = [GenerationRequest(tuple(prompt), None, 8) for prompt in prompts]
    requests[1] = replace(requests[1], temperature=temperature, top_p=0.9)
    assert [_text(chunks) for chunks in _run(make(), requests)] == [greedy(model, prompt, 8) for prompt in prompts]


def test_a_row_whose_logits_are_nan_fails_alone_and_leaves_a_clean_slot(make: Make, model: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    knobs = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    diverged = get_peft_model(copy.deepcopy(model), knobs)
    for name, values in diverged.named_parameters():
        if "lora_" in name:
            values.data *= 1e25  # finite, as weights must be; its products are not
    diverged.save_pretrained(tmp_path)
    decoder, prompts = make(), _prompts(6, 20)
    decoder.add_adapter("diverged", tmp_path)
    requests = [GenerationRequest(tuple(prompt), None, 8) for prompt in prompts]
    requests[2] = replace(requests[2], adapter="diverged")
    for _ in range(2):
        chunks = _run(decoder, requests)
        (error,) = chunks.pop(2)
        assert "'diverged' computed no usable logits" in str(error)
        assert [_text(each) for each in chunks] == [greedy(model, p, 8) for i, p in enumerate(prompts) if i != 2]
    assert decoder.counts["failed"] == 2


def test_a_row_for_which_no_token_can_be_chosen_fails_alone(
    make: Make, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> int:
        raise RuntimeError("no number drawn")

    monkeypatch.setattr("grokora_pipeline.serving.engine.sampling.sample", broken)
    prompts = _prompts(3, 20)
    requests = [
        GenerationRequest(tuple(prompt), None, 8, temperature=float(i == 1)) for i, prompt in enumerate(prompts)
    ]
    first, second, third = _run(make(), requests)
    assert "no number drawn" in str(second[0])
    assert [_text(first), _text(third)] == [greedy(model, prompts[0], 8), greedy(model, prompts[2], 8)]


@pytest.mark.parametrize(("top_p", "tokens"), [(1.0, 4), (0.81, 3), (0.75, 2), (0.5, 1), (1e-9, 1)])
def test_samples_come_from_the_likeliest_tokens_that_make_up_top_p(top_p: float, tokens: int) -> None:
    chances = torch.tensor([0.05, 0.5, 0.15, 0.3])
    noise = torch.Generator().manual_seed(1)
    drawn = torch.tensor([sample(chances.log() * 2, 2.0, top_p, noise) for _ in range(2000)])
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    kept = torch.zeros(4).index_fill(0, chances.argsort(descending=True)[:tokens], 1.0) * chances
    assert torch.allclose(shares, kept / kept.sum(), atol=0.04)


def test_a_nucleus_larger_than_what_is_looked_at_first_is_found() -> None:
    noise = torch.Generator().manual_seed(1)
    drawn = {sample(torch.zeros(5000), 1.0, 0.9, noise) for _ in range(3000)}
    assert len(drawn) > 2000


def test_a_row_whose_adapter_was_unloaded_before_it_was_submitted_is_not_answered_by_the_base(make: Make) -> None:
    decoder, chunks = make(), list[TokenChunk | GrokoraError]()
    decoder.install(Adapter("short-lived", {}))
    row = decoder.row(GenerationRequest((5, 6), "short-lived", 4), chunks.append)
    decoder.retire("short-lived")
    decoder.step()
    decoder.submit(row)
    assert decoder.idle
    assert "was unloaded" in str(chunks[0])


def test_a_row_that_fills_the_context_is_not_run_beyond_it(
    make: Make, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    last: list[int] = []
    forward = model.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        last.append(int(kwargs["position_ids"].max()))
        return forward(*args, **kwargs)

    decoder = make()
    monkeypatch.setattr(model, "forward", watched)
    room = decoder.chat.context_length
    full, other = decoder.generate([GenerationRequest((5,) * (room - 1)), GenerationRequest((5, 6), None, 4)])
    assert (len(full.tokens), full.finish) == (1, "length")
    assert max(last) == room - 2
    assert len(other.tokens) == 4


# --- whose turn it is ------------------------------------------------------------------------------------------------


def test_short_prompts_overtake_a_long_one_which_is_not_starved(make: Make, model: Any) -> None:
    decoder = make(prefill_tokens=32)
    draw = random.Random(1)
    long = tuple(draw.randrange(3, 500) for _ in range(600))
    order: list[str] = []

    def ask(prompt: tuple[int, ...], name: str) -> ActiveRow:
        row = decoder.row(GenerationRequest(prompt, None, 2), lambda chunk: order.append(name))
        decoder.scheduler.waiting.append(row)
        return row

    ask(long, "long")
    steps = 0
    while "long" not in order:
        if steps % 3:  # two short prompts arrive in three steps; a step has room for one
            ask(tuple(draw.randrange(3, 500) for _ in range(20)), "short")
        decoder.step()
        steps += 1
    assert order[:20] == ["short"] * 20
    assert steps <= (1 + 600 // 32) * (MAX_OVERTAKEN + 1)
    while not decoder.idle:
        decoder.step()
    assert _tokens(decoder, [list(long)], 2) == [greedy(model, long, 2)]


@pytest.mark.parametrize("token_seconds", [0.0001, 0.002, 0.01])
@pytest.mark.parametrize("step_seconds", [0.001, 0.05])
def test_a_long_prompt_takes_its_share_of_the_time_and_no_more(step_seconds: float, token_seconds: float) -> None:
    pace, steps, parts = PrefillPace(), 0.0, list[float]()
    for _ in range(40_000):
        if tokens := pace.tokens(busy=True):
            parts.append(step_seconds / 2 + tokens * token_seconds)  # a pass reads all weights, however few its tokens
            pace.record_part(tokens, parts[-1])
        pace.record_step(step_seconds)
        steps += step_seconds
    assert sum(parts[5:]) == pytest.approx(LONG_SHARE * steps, rel=0.25)
    assert max(parts[5:]) <= max(3 * step_seconds, 2 * (LEAST_CHUNK * token_seconds + step_seconds))


def test_a_quiet_engine_runs_a_long_prompt_in_parts_that_a_short_one_may_wait_for() -> None:
    pace = PrefillPace()
    pace.record_part(64, 0.064)
    assert pace.tokens(busy=False) == 100
    assert pace.tokens(busy=True) == 0  # nothing earned yet


def test_a_paced_decoder_gives_the_same_answers_while_short_ones_overtake(make: Make, model: Any) -> None:
    decoder, draw = make(prefill_tokens=32, paced=True), random.Random(2)
    prompts = [tuple(draw.randrange(3, 500) for _ in range(length)) for length in (9, 300, 20, 200, 5)]
    assert _tokens(decoder, [list(prompt) for prompt in prompts], 40) == [greedy(model, p, 40) for p in prompts]


def test_adapters_that_must_not_share_a_pass_are_answered_one_after_another(make: Make, model: Any) -> None:
    decoder, prompts = make(), _prompts(6, 20)
    other = Adapter("other", {})
    decoder.install(other)
    decoder.scheduler.mixes = False
    requests = [GenerationRequest(tuple(p), "other" if i % 2 else None, 6) for i, p in enumerate(prompts)]
    together: set[frozenset[Adapter | None]] = set()
    rows = [decoder.row(request, lambda chunk: None) for request in requests]
    decoder.scheduler.waiting += rows
    while not decoder.idle:
        decoder.step()
        together.add(frozenset(row.adapter for row in decoder.scheduler.rows))
    assert all(len(owners) <= 1 for owners in together)
    assert [row.tokens[len(row.request.prompt) :] for row in rows] == [greedy(model, p, 6) for p in prompts]


def test_a_step_attends_with_a_groups_heads_packed_and_no_pass_copies_keys_for_them(
    make: Make, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[list[int], list[int]]] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def seen(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        shapes.append((list(query.shape[1:3]), list(key.shape[1:2])))
        return attend(query, key, *args, **kwargs)

    decoder = make()
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
    _answers(decoder, [[5, 6, 7]], 3)
    heads, groups = model.config.num_attention_heads, model.config.num_key_value_heads
    assert heads > groups
    assert ([heads, 3], [groups]) in shapes
    assert ([groups, heads // groups], [groups]) in shapes
    assert len({tuple(map(tuple, shape)) for shape in shapes}) == 2


def test_a_schema_of_500_optional_properties_ends_no_answer_in_its_middle(make: Make) -> None:
    decoder = make()
    properties = {f"property_{number}": {"type": "string"} for number in range(500)}
    schema = {"name": "wide", "schema": {"type": "object", "properties": properties}}
    grammar = grammar_for(None, None, {"type": "json_schema", "json_schema": schema}, decoder.chat)
    [answer] = decoder.generate([GenerationRequest((5, 6, 7), None, 40, grammar=grammar)])
    assert answer.tokens
