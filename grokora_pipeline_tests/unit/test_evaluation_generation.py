"""Batched decoding against `transformers`' own, row by row, on a tiny random model in fp32."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from grokora_pipeline.evaluation import generation
from grokora_pipeline.evaluation.generation import Decoding, Prefixes, completion_nll, generate
from grokora_pipeline.models.kv import token_bytes
from grokora_pipeline_tests.tiny import STOP, greedy, tiny_base


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny model in fp32 with a head of its own, so that its answers wander and do not hang on rounding."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    loaded = AutoModelForCausalLM.from_pretrained(tiny_base(tmp_path_factory.mktemp("base")), dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        loaded.lm_head.weight = torch.nn.Parameter(torch.randn(512, 64))
        for layer in loaded.model.layers:
            for weight in layer.parameters():
                weight.data += 0.1 * torch.randn_like(weight)
    return loaded.eval()


def _prompts(count: int, shared: int) -> list[list[int]]:
    draw = random.Random(5)
    prefix = [draw.randrange(3, 500) for _ in range(shared)]
    return [[*prefix, *(draw.randrange(3, 500) for _ in range(draw.randrange(1, 30)))] for _ in range(count)]


@pytest.mark.parametrize("shared", [0, 40])
def test_batched_greedy_answers_are_those_of_one_row_at_a_time(
    model: Any, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = _prompts(8, shared)
    expected = [greedy(model, prompt, 12) for prompt in prompts]
    assert len({token for tokens in expected for token in tokens}) > 20
    for batch_rows in (1, 5, 64):
        monkeypatch.setattr(generation, "BATCH_ROWS", batch_rows)
        made = generate(model, prompts, Decoding(12, (STOP,)))
        assert [one.tokens for one in made] == expected


def test_rows_that_stop_early_leave_the_batch_and_change_nobody_elses_answer(model: Any) -> None:
    prompts = _prompts(12, 40)
    free = [one.tokens for one in generate(model, prompts, Decoding(12, ()))]
    stop = free[0][3]
    expected = [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in free]
    assert [one.tokens for one in generate(model, prompts, Decoding(12, (stop,)))] == expected
    assert len({len(tokens) for tokens in expected}) > 1


def test_a_sampled_answer_depends_on_its_seed_and_prompt_not_on_its_batch(model: Any) -> None:
    prompts = _prompts(8, 40)
    decoding = Decoding(12, (STOP,), temperature=1.0, seed=3)
    together = [one.tokens for one in generate(model, prompts, decoding)]
    assert [generate(model, [prompt], decoding)[0].tokens for prompt in prompts] == together
    assert [one.tokens for one in generate(model, prompts, Decoding(12, (STOP,), 1.0, 4))] != together


@pytest.mark.parametrize("shared", [0, 40])
def test_likelihoods_are_those_of_whole_rows(model: Any, shared: int) -> None:
    prompts, completions = _prompts(9, shared), [row[-20:] for row in reversed(_prompts(9, 20))]
    found = completion_nll(model, prompts, completions)
    for nll, prompt, completion in zip(found, prompts, completions, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(completion), reduction="sum")
        assert nll == pytest.approx(float(loss), rel=1e-4)


def test_the_shared_prefix_goes_through_the_model_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    prompts = _prompts(10, 60)
    completion_nll(model, prompts, [[7, 8, 9]] * 10)
    longest = max(map(len, prompts)) + 3
    assert sum(seen) <= 60 + 10 * (longest - 60)


def test_a_prefix_that_was_computed_before_is_not_computed_again_and_changes_no_answer(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding, prompts = Decoding(6, (STOP,)), _prompts(6, 60)
    expected = [one.tokens for one in generate(model, prompts, decoding)]
    seen: list[int] = []
    forward = model.forward

    def counted(**inputs: Any) -> Any:
        seen.append(inputs["input_ids"].shape[1])
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", counted)
    kept = Prefixes()
    for rows in (prompts[:3], prompts[3:4], prompts[4:]):  # the second call has one row alone
        generate(model, rows, decoding, prefixes=kept)
    assert sum(length >= 60 for length in seen) == 1
    again = [generate(model, [prompt], decoding, prefixes=kept)[0].tokens for prompt in prompts]
    assert again == expected


def test_a_shorter_and_a_longer_beginning_of_a_known_prefix_are_exact_too(model: Any) -> None:
    decoding, long = Decoding(6, (STOP,)), _prompts(4, 80)
    short = [[*prompt[:40], *prompt[70:]] for prompt in long]
    longer = [[*long[0], *range(3, 40), end] for end in (7, 9)]
    kept = Prefixes()
    for rows in (long, short, longer, long):
        made = [one.tokens for one in generate(model, rows, decoding, prefixes=kept)]
        assert made == [greedy(model, prompt, 6) for prompt in rows]


def test_each_row_may_have_a_seed_of_its_own(model: Any) -> None:
    prompts, decoding = _prompts(2, 20)[:1] * 3, Decoding(12, (), 1.0)
    made = [one.tokens for one in generate(model, prompts, decoding, seeds=[1, 2, 1])]
    assert made[0] == made[2]
    assert made[0] != made[1]


def test_an_empty_list_of_prompts_gives_no_answers(model: Any) -> None:
    assert generate(model, [], Decoding(4, (STOP,))) == []


def test_the_batch_keeps_to_its_memory(model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = (40 + 30 + 8) * token_bytes(model)
    monkeypatch.setattr(generation, "BATCH_BYTES", 3 * row)
    sizes: list[int] = []
    generate(model, _prompts(10, 40), Decoding(8, (STOP,)), lambda done, total: sizes.append(done))
    steps = [after - before for before, after in zip([0, *sizes], sizes, strict=False)]
    assert sum(steps) == 10
    assert max(steps) <= 5
