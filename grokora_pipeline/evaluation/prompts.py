"""Prompts that compete with an adapter: fixed examples, retrieved examples, and an instruction that a search chose.

All of them are made of training rows alone, so that the held-out rows judge them as they judge the adapter.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import orjson

from grokora_pipeline.agents import AnswerSpec
from grokora_pipeline.datasets.example import ExampleLine
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.plan import Case
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.messages import calls_of, canonical, json_value, message_role, message_text
from grokora_pipeline.models.prompt import FixedPrompt, example_turns
from grokora_pipeline.models.words import words

EXAMPLE_TOKENS = 1536  # the most that examples may take of the context
SEARCH_ROWS = 12  # training rows that an instruction is tried on
Score = Callable[[FixedPrompt, Sequence[ExampleLine]], float]


def choose_shots(
    pool: Sequence[ExampleLine], chat: ChatFormat, count: int, budget: int, seed: int
) -> list[ExampleLine]:
    """At most `count` examples, drawn by the seed, that together take no more than `budget` tokens."""
    drawn = list(pool)
    random.Random(seed).shuffle(drawn)  # noqa: S311
    return _fitting(drawn[: 8 * count], chat, count, budget)


def _fitting(candidates: Sequence[ExampleLine], chat: ChatFormat, count: int, budget: int) -> list[ExampleLine]:
    chosen = list[ExampleLine]()
    for example in candidates:
        if len(chosen) == count:
            break
        try:
            size = sum(map(len, chat.encode_example(example)))
        except GrokoraError:  # the chat template refuses it, so it is in no split either
            continue
        if size <= budget:
            chosen.append(example)
            budget -= size
    return chosen


def retrieved_prompts(
    pool: Sequence[ExampleLine], cases: Sequence[Case], chat: ChatFormat, count: int, budget: int
) -> list[FixedPrompt]:
    """For each case the nearest examples of the pool by BM25 (Robertson & Zaragoza 2009), the nearest one last.

    Empty if no example has a word. The nearest stands last, since models weigh what is near the question most.
    """
    import bm25s

    texts = [words(_question(example)) for example in pool]
    if not any(texts):
        return []
    index = bm25s.BM25()
    index.index(texts, show_progress=False)
    prompts = []
    for case in cases:
        # `get_scores` drops words that no example has, while `retrieve` fails on a question without known words
        known = [word for word in words(_question(case.example)) if word in index.vocab_dict]
        scores = index.get_scores(known) if known else np.zeros(len(pool))
        order = np.argsort(-scores, kind="stable")[: 4 * count]  # ties in the pool's order, the same at every run
        prompts.append(
            FixedPrompt(messages=example_turns(_fitting([pool[i] for i in order], chat, count, budget)[::-1]))
        )
    return prompts


def _question(example: ExampleLine) -> str:
    return "\n".join(message_text(one) for one in example["prompt"] if message_role(one) != "system")


def instruction_candidates(train: Sequence[ExampleLine], agent: str, description: str, answer: AnswerSpec) -> list[str]:
    """Sentences that may help the base model, read off the training rows: role, form, fields, values, an example."""
    answers = [example["completion"][-1] for example in train]
    sentences = [f"You are the {agent}. {description}".strip()]
    calls = Counter(call.name for message in answers for call in calls_of(message))
    values = [value for message in answers if isinstance(value := json_value(message), dict)]
    if calls:
        sentences.append(f"Answer with a call of one of these tools and nothing else: {', '.join(sorted(calls))}.")
    elif values:
        fields = Counter(name for value in values for name in value)
        sentences.append("Answer with one JSON object and nothing else, without explanation and without a code fence.")
        sentences.append(f"The JSON object has exactly these fields: {', '.join(sorted(fields, key=str))}.")
    else:
        length = int(np.median([len(words(canonical(message))) for message in answers]))
        sentences.append(f"Answer in about {max(1, length)} words and nothing else.")
    if answer.schema_:
        sentences.append(f"The answer must satisfy this JSON Schema: {orjson.dumps(answer.schema_).decode()}")
    common = Counter(map(canonical, answers)).most_common(8)
    shown = [text for text, count in common if count > 1 and len(text) <= 200]
    if shown:
        sentences.append("Answers that are often right: " + " | ".join(shown))
    sentences.append(f"A right answer looks like this: {min(map(canonical, answers), key=len)}")
    return list(dict.fromkeys(sentences))


def search_instruction(
    candidates: Sequence[str], rows: Sequence[ExampleLine], budget: int, score: Score
) -> FixedPrompt:
    """The instruction that greedy forward selection finds: each round adds the sentence that raises the score most.

    `score` is a prompt's main metric on training rows, higher being better; `budget` is how many answers may be
    generated for it in all. An empty prompt if no sentence helps or the budget does not pay for one.
    """
    best, left = FixedPrompt(), list(candidates)
    spent, reached = len(rows), None
    while left and spent + len(rows) <= budget:
        reached = score(best, rows) if reached is None else reached
        tried: list[tuple[float, str]] = []
        for sentence in left:
            if spent + len(rows) > budget:
                break
            text = f"{best.instruction}\n{sentence}".strip()
            tried.append((score(FixedPrompt(instruction=text), rows), sentence))
            spent += len(rows)
        value, sentence = max(tried, key=lambda one: one[0])
        if value <= reached:
            break
        best, reached = FixedPrompt(instruction=f"{best.instruction}\n{sentence}".strip()), value
        left.remove(sentence)
    return best
