"""Drafts: what a lookup finds, how much of it a pass checks, and that no answer depends on what was guessed."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.serving.engine import decoder as decoder_module
from grokora_pipeline.serving.engine.constrain import grammar_for
from grokora_pipeline.serving.engine.decoder import Decoder
from grokora_pipeline.serving.engine.drafts import WORST_GUESS, AnswerHistory, TokenText, draft_length
from grokora_pipeline.serving.engine.request import GenerationRequest
from grokora_pipeline_tests.tiny import STOP, greedy, wandering_model

Make = Callable[..., Decoder]
# Of such tokens the bytes of neighbours look like a token between them.
TOKENS = st.lists(st.sampled_from([0, 1, 256, 257, 65536, 16777216, 16777217]), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return wandering_model(base).eval()


@pytest.fixture
def make(model: Any, base: Path) -> Make:
    return lambda **limits: Decoder(model, ChatFormat.load(base), **limits)


@given(TOKENS, st.integers(1, 3), st.integers(1, 8))
def test_a_draft_is_what_followed_the_latest_place_with_the_same_tokens(
    tokens: list[int], matched: int, count: int
) -> None:
    last = tokens[-matched:]
    places = [at for at in range(len(tokens) - len(last)) if tokens[at : at + len(last)] == last]
    expected = tokens[places[-1] + len(last) :][:count] if places else []
    assert TokenText(tokens).after(last, count) == expected


def test_a_rows_own_text_goes_before_other_answers_and_a_longer_match_before_a_shorter_one() -> None:
    history = AnswerHistory()
    history.text.extend([1, 2, 3, 40, 5, 6, 70])
    assert history.draft(TokenText([1, 2, 3, 41, 1, 2, 3]), [1, 2, 3], 1) == [41]
    assert history.draft(TokenText([9, 2, 3, 42, 1, 2, 3]), [1, 2, 3], 1) == [40]
    assert history.draft(TokenText([8, 5, 6]), [8, 5, 6], 4) == [70]
    assert history.draft(TokenText([8, 8, 8]), [7, 8, 9], 4) == []


def test_old_answers_are_forgotten() -> None:
    text = TokenText()
    for number in range(100):
        text.extend([number, number + 1000], limit=10)
    assert text.after([99], 1) == [1099]
    assert text.after([50], 1) == []


def test_the_more_rows_and_the_worse_the_guesses_the_shorter_the_drafts_that_are_checked() -> None:
    lengths = [draft_length([(7, 0.8)] * rows, rows, 16) for rows in (1, 4, 16, 64)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 7 and lengths[-1] == 0
    assert draft_length([(7, 0.9)] * 8, 8, 16) > draft_length([(7, 0.5)] * 8, 8, 16)
    assert draft_length([(7, WORST_GUESS)], 1, 16) > 0  # a lone row goes on guessing, and may learn better
    assert draft_length([(0, 0.7)] * 3, 3, 16) == draft_length([], 0, 16) == 0


def _prompts(count: int) -> list[tuple[int, ...]]:
    draw = random.Random(5)
    return [tuple(draw.randrange(3, 500) for _ in range(draw.randrange(4, 40))) for _ in range(count)]


def _tokens(decoder: Decoder, prompts: Sequence[tuple[int, ...]], new_tokens: int, **options: Any) -> list[list[int]]:
    requests = [GenerationRequest(prompt, None, new_tokens, **options) for prompt in prompts]
    return [one.tokens for one in decoder.generate(requests)]


def test_what_was_answered_before_comes_in_fewer_passes_and_is_the_models_own(make: Make, model: Any) -> None:
    decoder, prompts = make(), _prompts(3)
    expected = [greedy(model, prompt, 32) for prompt in prompts]
    assert _tokens(decoder, prompts, 32) == expected
    first = decoder.counts["steps"]
    assert _tokens(decoder, prompts, 32) == expected
    assert decoder.counts["steps"] - first < first / 2
    assert decoder.counts["generated_tokens"] == 2 * 3 * 32


@pytest.mark.parametrize("rows", [1, 6])
def test_no_answer_depends_on_what_was_guessed(
    make: Make, model: Any, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Drafts that are right, wrong, and right up to a place, of all lengths, for greedy and for sampled answers."""
    prompts, draw = _prompts(rows), random.Random(2)
    monkeypatch.setattr(AnswerHistory, "draft", lambda *_: [])
    expected = [greedy(model, prompt, 24) for prompt in prompts]
    sampled = _tokens(make(), prompts, 24, temperature=1.0, top_p=0.9, seed=3)
    assert sampled != expected

    for answers, options in ((expected, {}), (sampled, {"temperature": 1.0, "top_p": 0.9, "seed": 3})):
        texts = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]

        def spoilt(_: Any, row: TokenText, last: Sequence[int], count: int, texts: Any = texts) -> list[int]:
            after = next((rest for text in texts if (rest := TokenText(text).after(last, count))), [])
            return [token if draw.random() < 0.7 else draw.randrange(500) for token in after]

        monkeypatch.setattr(AnswerHistory, "draft", spoilt)
        monkeypatch.setattr(decoder_module, "draft_length", lambda drafts, *_: draw.randrange(8))
        assert _tokens(make(), prompts, 24, **options) == answers


def test_drafts_end_where_the_context_or_the_answer_does(
    make: Make, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [prompt] = _prompts(1)
    answer = greedy(model, prompt, 20)
    monkeypatch.setattr(AnswerHistory, "draft", lambda _, row, last, count: [*answer, *answer, *answer][:count])
    decoder = make()
    for limit in range(1, 12):
        assert _tokens(decoder, [prompt], limit) == [answer[:limit]]
    decoder.stop_ids = (answer[9],)  # a draft holds the stop token, and tokens after it
    assert _tokens(decoder, [prompt], 20) == [answer[: answer.index(answer[9])]]


def test_a_grammar_holds_in_what_was_guessed(make: Make, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "yy"]}, "b": {"type": "integer", "maximum": 9}}}
    form = {"type": "json_schema", "json_schema": {"schema": {**schema, "required": ["a", "b"]}}}
    grammar = grammar_for(None, None, form, ChatFormat.load(base))
    decoder, prompts = make(), _prompts(4)
    first = _tokens(decoder, prompts, 40, grammar=grammar)
    assert _tokens(decoder, prompts, 40, grammar=grammar) == first
    monkeypatch.setattr(AnswerHistory, "draft", lambda *_: [])
    assert _tokens(make(), prompts, 40, grammar=grammar) == first


def test_a_model_with_running_states_gets_no_drafts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make()
    monkeypatch.setattr(decoder.scheduler, "pads", False)
    steps = decoder.counts["steps"]
    [answer] = _tokens(decoder, _prompts(1), 16)
    assert len(answer) == 16 and STOP not in answer
    assert decoder.counts["steps"] - steps == 16
