"""The plan of an evaluation, and the held-out rows it asks for."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grokora_pipeline.agents import Answer as AnswerSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat

Example = dict[str, Any]
Message = dict[str, Any]
PlanT = TypeVar("PlanT", bound=BaseModel)
FEW_SHOT_TOKENS = 1536  # the most that few-shot examples may take of the context


class Canary(BaseModel):
    """A string that must not come out of an adapter: what stands before it, the secret itself, and its kind."""

    prefix: str = ""
    secret: str = Field(min_length=4)
    kind: str = "planted"


class EvaluationPlan(BaseModel):
    """`plan.json` of `python -m grokora_pipeline.evaluation`. Folders are as the store publishes them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent: str
    answer: AnswerSpec = AnswerSpec()
    main_metric: str
    base: Path
    base_hash: str
    adapter: Path
    champion: Path | None = None
    split: Path
    examples: Path
    output: Path
    cache: Path | None = None
    few_shot: int = Field(default=0, ge=0, description="Examples at most; fewer where the context is short; 0 is off.")
    max_rows: int = Field(default=0, ge=0, description="Validation rows at most, smallest hashes first; 0 is all.")
    max_new_tokens: int = Field(default=0, ge=0, description="0: 1.25 x the longest expected answer + 16.")
    seed: int = 7
    alpha: float = Field(default=0.05, gt=0, lt=1)
    trials: int = Field(default=0, ge=0, description="Sampled answers a row for pass^k; 0 is off.")
    temperature: float = Field(default=0.7, gt=0)
    probe: bool = Field(default=True, description="Measure general perplexity and pace.")
    canaries: list[Canary] = Field(default=[], description="Strings that were planted in the training data.")
    redacted_canaries: int = Field(default=0, ge=0, description="Secrets that redaction removed, found in `logs`.")
    logs: Path | None = None
    quantisation: Literal["none", "nf4", "int8"] = "none"
    versions: dict[str, Any] = {}
    history: list[dict[str, Any]] = Field(
        default=[], description="Earlier reports, oldest first: {label, value, rank} of the adapter's main metric."
    )
    ranks: list[dict[str, Any]] = Field(default=[], description="Trials of ranks: {label, value, rank}, as above.")


def read_plan(kind: type[PlanT], plan: dict[str, Any]) -> PlanT:
    """The plan, checked; GrokoraError names the first field that is wrong."""
    try:
        return kind.model_validate(plan)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GrokoraError(f"The plan's {where} is not usable: {first['msg']}.") from error


@dataclass(frozen=True, slots=True)
class Case:
    """One held-out row in tokens, with what it is scored against."""

    turn_id: str
    session_id: str
    example: Example
    prompt_ids: list[int]
    completion_ids: list[int]

    @property
    def reference(self) -> dict[str, Any]:
        """The expected assistant message."""
        message: dict[str, Any] = self.example["completion"][-1]
        return message


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The validation rows to evaluate, the training side, and the turns that training has seen."""

    cases: list[Case]
    train: list[Example]
    train_ids: frozenset[str]


def held_out(plan: EvaluationPlan, chat: ChatFormat) -> HeldOut:
    """Read the split and its examples; GrokoraError where there is nothing to evaluate on."""
    examples = {example["meta"]["turn_id"]: example for example in read_examples(plan.examples)}
    train_ids, validation_ids = (turn_ids(plan.split, side) for side in ("train", "validation"))
    missing = [turn_id for turn_id in validation_ids if turn_id not in examples]
    if missing:
        raise GrokoraError(f"{plan.examples} lacks {len(missing)} rows of {plan.split}; rebuild the tokenized split.")
    if not validation_ids:
        raise GrokoraError(f"{plan.split} has no validation rows, so nothing can be proven; add sessions.")
    cases = [_case(examples[turn_id], chat) for turn_id in choose_rows(validation_ids, plan.max_rows)]
    return HeldOut(cases, [examples[i] for i in sorted(train_ids) if i in examples], frozenset(train_ids))


def choose_rows(turn_ids: Iterable[str], most: int) -> list[str]:
    """At most so many turns (0: all), those with the smallest hashes, sorted by id.

    A random draw would change half of the rows when a few sessions are added; so figures over time compare like with
    like, and the base's answers are found in the cache.
    """
    by_hash = sorted(turn_ids, key=lambda turn_id: sha256(turn_id.encode()).digest())
    return sorted(by_hash[:most] if most else by_hash)


def read_examples(path: Path) -> list[Example]:
    """The lines of an examples.jsonl."""
    try:
        return [orjson.loads(line) for line in path.read_bytes().splitlines() if line]
    except (OSError, orjson.JSONDecodeError) as error:
        raise GrokoraError(f"{path} is no readable JSONL of examples ({error}); rebuild task_dataset.") from error


def turn_ids(split: Path, side: str) -> set[str]:
    """The turns of one side of a tokenized split."""
    from datasets import load_from_disk

    return set(load_from_disk(str(split))[side]["turn_id"])


def _case(example: Example, chat: ChatFormat) -> Case:
    prompt, completion = chat.encode_example(example)
    meta = example["meta"]
    return Case(meta["turn_id"], meta["session_id"], example, prompt, completion)


def token_budget(plan: EvaluationPlan, cases: Sequence[Case], chat: ChatFormat) -> int:
    """How many tokens an answer may have: 1.25 x the longest expected one + 16, within what the context leaves."""
    wanted = plan.max_new_tokens or int(1.25 * max(len(case.completion_ids) for case in cases)) + 16
    left = chat.context_length - max(len(case.prompt_ids) for case in cases)
    return max(1, min(wanted, left))


def few_shot_prompts(
    plan: EvaluationPlan, rows: HeldOut, chat: ChatFormat, new_tokens: int
) -> tuple[int, list[list[int]]]:
    """(k, prompts): every case's prompt with the same k examples of the training side as earlier turns before it."""
    longest = max(len(case.prompt_ids) for case in rows.cases)
    budget = min(FEW_SHOT_TOKENS, chat.context_length - longest - new_tokens)
    shots = choose_shots(rows.train, chat, plan.few_shot, budget, plan.seed)
    asked = [(with_shots(case.example["prompt"], shots), case.example.get("tools")) for case in rows.cases]
    return len(shots), [chat.encode_prompt(messages, tools) for messages, tools in asked]


def choose_shots(pool: Sequence[Example], chat: ChatFormat, count: int, budget: int, seed: int) -> list[Example]:
    """At most `count` examples, drawn by the seed, that together take no more than `budget` tokens."""
    drawn, chosen = list(pool), list[Example]()
    random.Random(seed).shuffle(drawn)  # noqa: S311
    for example in drawn[: 8 * count]:
        try:
            size = sum(map(len, chat.encode_example(example)))
        except GrokoraError:  # the chat template refuses it, so it is in no split either
            continue
        if len(chosen) < count and size <= budget:
            chosen.append(example)
            budget -= size
    return chosen


def with_shots(prompt: Sequence[Message], shots: Sequence[Example]) -> list[Message]:
    """A prompt with examples as earlier turns between its system message and the rest."""
    system = [message for message in prompt if message["role"] == "system"]
    earlier = [turn for shot in shots for turn in [*_spoken(shot["prompt"]), *shot["completion"]]]
    return [*system, *earlier, *_spoken(prompt)]


def _spoken(messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message["role"] != "system"]
