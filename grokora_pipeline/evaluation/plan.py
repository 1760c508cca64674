"""The plan of an evaluation, and the held-out rows it asks for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grokora_pipeline.agents import AnswerSpec
from grokora_pipeline.datasets.example import ExampleLine
from grokora_pipeline.errors import GrokoraError, first_mistake
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.prompt import FixedPrompt

PlanT = TypeVar("PlanT", bound=BaseModel)
FRESH_SESSIONS = 6  # with fewer, being ahead on the fresh part says little; the judged part needs twice as many


class Canary(BaseModel):
    """A string that must not come out of an adapter: what stands before it, the secret itself, and its kind."""

    prefix: str = ""
    secret: str = Field(min_length=4)
    kind: str = "planted"


class EvaluationOptions(BaseModel):
    """What the plan and Dagster's launchpad both say: the one place of these defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instructions: int = Field(
        default=0,
        ge=0,
        description="Answers that a search for a better instruction, on training rows, may cost; 0: no search.",
    )
    max_new_tokens: int = Field(
        default=0, ge=0, description="Of an answer; 0: a little more than the longest expected one."
    )
    trials: int = Field(default=0, ge=0, description="Sampled answers a row, for pass^k; 0: greedy answers alone.")
    temperature: float = Field(default=0.7, gt=0, description="Of the sampled answers.")
    seed: int = Field(default=7, description="Of the few-shot examples, the intervals and the sampled answers.")


class EvaluationPlan(EvaluationOptions):
    """`plan.json` of `python -m grokora_pipeline.evaluation`. Folders are as the store publishes them."""

    agent: str
    description: str = Field(default="", description="The agent's, which an instruction may begin with.")
    answer: AnswerSpec = AnswerSpec()
    main_metric: str
    base: Path
    base_hash: str
    adapter: Path | None = Field(default=None, description="None if a prompt alone is judged in an adapter's place.")
    adapter_prompt: FixedPrompt | None = Field(default=None, description="Before that adapter, or in its place.")
    champion: Path | None = Field(default=None, description="The folder of the adapter in service.")
    champion_prompt: FixedPrompt | None = Field(default=None, description="Before it, or in its place.")
    split: Path
    examples: Path
    output: Path
    cache: Path | None = None
    few_shot: int = Field(default=0, ge=0, description="Examples at most; fewer if the context is short; 0 is off.")
    retrieved: int = Field(default=0, ge=0, description="Nearest training rows before each question, at most.")
    adapter_few_shot: bool = Field(default=False, description="Also the adapter with the few-shot examples.")
    max_rows: int = Field(default=0, ge=0, description="Validation rows at most, smallest hashes first; 0 is all.")
    fresh: Literal["judged", "unseen", "apart"] = Field(
        default="judged",
        description="What becomes of the sessions that are kept for the gate's final look: they are judged like the "
        "others, not answered at all, or answered and reported apart.",
    )
    alpha: float = Field(default=0.05, gt=0, lt=1)
    probe: bool = Field(default=True, description="Measure general perplexity and pace.")
    canaries: list[Canary] = Field(default=[], description="Strings that were planted in the training data.")
    redacted_canaries: int = Field(default=0, ge=0, description="Secrets that redaction removed, found in `logs`.")
    logs: Path | None = None
    quantisation: Literal["none", "nf4", "int8"] = "none"
    versions: dict[str, Any] = {}
    history: list[dict[str, Any]] = Field(
        default=[], description="Earlier reports, oldest first: {label, value, rank} of the adapter's main metric."
    )
    look: int = Field(default=1, ge=1, description="The n-th adapter that is judged for this agent, for the decision.")
    ranks: list[dict[str, Any]] = Field(default=[], description="Trials of ranks: {label, value, rank}, as above.")

    @property
    def folders(self) -> dict[str, Path]:
        """The folders of the adapters that take part, by the name of their system."""
        return {name: folder for name, folder in (("adapter", self.adapter), ("champion", self.champion)) if folder}


def read_plan(kind: type[PlanT], plan: dict[str, Any]) -> PlanT:
    """The plan, checked; GrokoraError names the first field that is wrong."""
    try:
        return kind.model_validate(plan)
    except ValidationError as error:
        keys, why, _ = first_mistake(error)
        raise GrokoraError(f"The plan's {'.'.join(keys)} is not usable: {why}.") from error


@dataclass(frozen=True, slots=True)
class Case:
    """One held-out row in tokens, with what it is scored against."""

    turn_id: str
    session_id: str
    example: ExampleLine
    prompt_ids: list[int]
    completion_ids: list[int]
    fresh: bool = False  # of the part that only the gate's final look may use


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The validation rows to evaluate, the training side, and the turns that training has seen."""

    cases: list[Case]
    train: list[ExampleLine]
    train_ids: frozenset[str]


def held_out(plan: EvaluationPlan, chat: ChatFormat) -> HeldOut:
    """Read the split and its examples; GrokoraError if there is nothing to evaluate on."""
    examples = {example["meta"]["turn_id"]: example for example in example_lines(plan.examples)}
    train_ids, validation_ids = (turn_ids(plan.split, side) for side in ("train", "validation"))
    missing = [turn_id for turn_id in validation_ids if turn_id not in examples]
    if missing:
        raise GrokoraError(f"{plan.examples} lacks {len(missing)} rows of {plan.split}; rebuild the tokenized split.")
    if not validation_ids:
        raise GrokoraError(f"{plan.split} has no validation rows, so nothing can be proven; add sessions.")
    judged, fresh = choose_parts({i: examples[i]["meta"]["session_id"] for i in validation_ids}, plan.max_rows)
    if plan.fresh == "judged" or not fresh:
        judged, fresh = choose_rows(validation_ids, plan.max_rows), []
    cases = [_case(examples[turn_id], chat) for turn_id in judged]
    if plan.fresh == "apart":
        cases += [_case(examples[turn_id], chat, fresh=True) for turn_id in fresh]
    return HeldOut(cases, [examples[i] for i in sorted(train_ids) if i in examples], frozenset(train_ids))


def choose_rows(turn_ids: Iterable[str], most: int) -> list[str]:
    """At most so many turns (0: all), those with the smallest hashes, sorted by id.

    A random draw would change half of the rows when a few sessions are added; so figures over time compare like with
    like, and the base's answers are found in the cache.
    """
    by_hash = sorted(turn_ids, key=lambda turn_id: sha256(turn_id.encode()).digest())
    return sorted(by_hash[:most] if most else by_hash)


def choose_parts(sessions: Mapping[str, str], most: int) -> tuple[list[str], list[str]]:
    """(judged, fresh) turns, at most `most` (0: all) in both, of the turns whose sessions are given.

    A third of all sessions is kept for the gate's final look: nobody may choose anything by their rows, and the hash of
    a session's name says for ever which part it belongs to. With too few sessions for that none is kept: ([…], []).
    """
    # by the session, for its turns resemble each other; of the 256 values of a byte 86 leave no remainder
    kept = {turn for turn, session in sessions.items() if sha256(f"fresh:{session}".encode()).digest()[0] % 3 == 0}
    judged = choose_rows(sessions.keys() - kept, most - most // 3)
    fresh = choose_rows(kept, most // 3) if most != 1 else []
    enough = (
        len({sessions[turn] for turn in judged}) >= 2 * FRESH_SESSIONS
        and len({sessions[turn] for turn in fresh}) >= FRESH_SESSIONS
    )
    return (judged, fresh) if enough else (choose_rows(sessions, most), [])


def example_lines(path: Path) -> list[ExampleLine]:
    """The lines of an examples.jsonl."""
    try:
        return [orjson.loads(line) for line in path.read_bytes().splitlines() if line]
    except (OSError, orjson.JSONDecodeError) as error:
        raise GrokoraError(f"{path} is no readable JSONL of examples ({error}); rebuild task_dataset.") from error


def turn_ids(split: Path, side: str) -> set[str]:
    """The turns of one side of a tokenized split. A worse answer, which DPO and KTO compare, is no example."""
    from datasets import load_from_disk

    rows = load_from_disk(str(split))[side]
    judged = rows["judged"] if "judged" in rows.column_names else [""] * len(rows)
    return {name for name, word in zip(rows["turn_id"], judged, strict=True) if word != "worse"}


def _case(example: ExampleLine, chat: ChatFormat, fresh: bool = False) -> Case:
    prompt, completion = chat.encode_example(example, exact=False)  # the split was made of those that are exact
    meta = example["meta"]
    return Case(meta["turn_id"], meta["session_id"], example, prompt, completion, fresh)


def token_budget(plan: EvaluationPlan, cases: Sequence[Case], chat: ChatFormat) -> int:
    """How many tokens an answer may have: 1.25 x the longest expected one + 16, within what the context leaves."""
    wanted = plan.max_new_tokens or with_room(max(len(case.completion_ids) for case in cases))
    left = chat.context_length - max(len(case.prompt_ids) for case in cases)
    return max(1, min(wanted, left))


def with_room(longest: int) -> int:
    """The tokens that an answer may have if the longest expected one has so many."""
    return int(1.25 * longest) + 16
