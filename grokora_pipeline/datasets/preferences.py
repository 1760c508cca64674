"""Worse answers beside the examples: for KTO one by one, for DPO each with a better answer to the same prompt or task.

They lie in a file of their own, `worse.jsonl`, so that nothing takes them for answers to be learnt or measured against.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from grokora_pipeline.datasets import duplicates
from grokora_pipeline.datasets.example import Example
from grokora_pipeline.datasets.selection import DatasetOptions, Reason, refuse_prompt
from grokora_pipeline.sessions.turns import TurnRow

_JUDGED: frozenset[Reason] = frozenset({"low_rating", "failed_step", "at_or_after_blamed_step", "failed_without_blame"})


def is_worse(turn: TurnRow, reason: str | None, options: DatasetOptions) -> bool:
    """Whether a turn that is not learnt may be a worse answer: blamed, or of a failed or low-rated session in which
    nobody is blamed.

    What came before or after a blamed step is not: nobody said that those answers were bad, whatever the session's
    rating.
    """
    if reason not in _JUDGED or refuse_prompt(turn, options):
        return False
    if reason == "failed_step":
        rating = turn["rating"]
        return turn["blamed"] or (rating is not None and rating < options.min_rating)
    return turn["blamed"] or reason in {"low_rating", "failed_without_blame"}


def worse_answers(
    examples: Sequence[Example],
    candidates: Sequence[Example],
    options: DatasetOptions,
    steps: Mapping[str, tuple[int, int]],
    tasks: Mapping[str, str],
) -> "list[Example]":
    """The worse answers that are learnt from, sorted by id; none that some session was praised for.

    For pairs `meta["better"]` names an example with the same prompt, or else one of the same task and step. One by one,
    a failed or low-rated session of several steps in which nobody is blamed says nothing of any single step.
    """
    learnt, distinct = {example.id for example in examples}, dict[str, Example]()
    for candidate in candidates:
        if candidate.id not in learnt:
            distinct.setdefault(candidate.id, candidate)
            candidate.meta["task_key"] = tasks.get(candidate.meta["session_id"], "")
    by_prompt, by_step = dict[str, Example](), dict[tuple[str, int], Example]()
    for example in sorted(examples, key=lambda one: (-(one.meta["rating"] or 0), one.id)):
        if _is_praised(example):
            by_prompt.setdefault(duplicates.prompt_id(example.prompt), example)
            by_step.setdefault((example.meta["task_key"], example.meta["step"]), example)
    kept, per_session = list[Example](), Counter[str]()
    for _, worse in sorted(distinct.items()):
        meta = worse.meta
        if options.learn_from == "preferences":
            of_task = by_step.get((meta["task_key"], meta["step"])) if meta["task_key"] else None
            better = by_prompt.get(duplicates.prompt_id(worse.prompt)) or of_task
            if better is None or duplicates.prompt_id(better.completion) == duplicates.prompt_id(worse.completion):
                continue  # the same answer, to another prompt of the task, is no worse one
            meta["better"] = better.id
        elif not meta["blamed"] and len(set(steps[meta["session_id"]])) > 1:
            continue
        per_session[meta["session_id"]] += 1
        if per_session[meta["session_id"]] <= options.max_per_session:
            kept.append(worse)
    return kept


def _is_praised(example: Example) -> bool:
    """Whether somebody said that the answer is good; one of unknown outcome is learnt, but not compared."""
    return example.meta["rating"] is not None or example.meta["status"] == "success"


def judged_rows(
    examples: Sequence[Example], worse: Sequence[Example], sides: Mapping[str, str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """(example as JSON, side) of all rows to tokenize: `meta` says `judged` and `pair` where a row is compared.

    With pairs, each brings two rows of its own beside the plain ones; a pair on two sides of the split is left out.
    """
    by_id, pairs = {example.id: example for example in examples}, any("better" in one.meta for one in worse)
    for example in examples:
        judged = "better" if worse and not pairs and _is_praised(example) else ""
        yield _row(example, judged), sides.get(example.id, "")
    for one in worse:
        side = sides.get(one.id, "")
        if not pairs:
            yield _row(one, "worse"), side
        elif side and sides.get(one.meta["better"]) == side:
            yield _row(by_id[one.meta["better"]], "better", one.id), side
            yield _row(one, "worse", one.id), side


def _row(example: Example, judged: str, pair: str = "") -> dict[str, Any]:
    row = asdict(example)
    row["meta"] |= {"judged": judged, "pair": pair} if judged else {}
    return row
