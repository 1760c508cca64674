"""Examples → the tokenized split: an HF DatasetDict of train and validation, and a report on it. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.sessions.redaction.detector import PLACEHOLDER
from grokora_pipeline.training.layout import Row, build_forest, merge_chains

SIDES = ("train", "validation")
_BINS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
_LIMITS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)  # for which the report tells how many rows would fit


@dataclass(frozen=True, slots=True)
class TokenizeReport:
    """What the split holds. Tokens are counted over whole rows; label tokens are those that carry loss."""

    train_rows: int
    validation_rows: int
    tokens: int
    label_tokens: int
    longest: int
    too_long: int  # examples left out whole because they exceed max_length
    refused: int  # examples left out because the chat template cannot render them, or their answer not exactly
    refusal: str  # why the first of them was, "" for none
    left_out: list[str]  # the example ids of both
    max_length: int
    fitting: dict[str, int]  # a limit (tokens) → rows that it would keep, of those that have a side
    length_histogram: dict[str, int]  # upper bound of the bin (tokens) → rows
    shared_prefix_share: float  # share of the train tokens that a prefix tree over all rows saves


def tokenize_split(
    examples: Sequence[Mapping[str, Any]],
    sides: Sequence[str],
    chat: ChatFormat,
    output: Path,
    *,
    max_length: int,
    seed: int,
) -> TokenizeReport:
    """Write the DatasetDict to `output` and report on it.

    `sides[i]` is "train" or "validation"; any other value leaves example i out. Columns: input_ids, completion_mask (1
    where the loss is taken: the answer without the placeholders that its prompt does not hold), turn_id, group (the
    session), weight; if answers are compared, judged (better, worse) and pair. Train rows are in a seeded order, so
    that the first n of them are a random sample.
    """
    if len(examples) != len(sides):
        raise ValueError(f"{len(examples)} examples, but {len(sides)} sides")
    rows: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    lengths, refusals, left_out = list[int](), list[str](), list[str]()
    for example, side in zip(examples, sides, strict=True):
        if side not in rows:
            continue
        try:
            row = _row(example, chat)
        except GrokoraError as error:  # this one example is lost, not the agent's whole split
            refusals.append(str(error))
            left_out.append(str((example.get("meta") or {}).get("example_id", "")))
            continue
        lengths.append(len(row["input_ids"]))
        if lengths[-1] <= max_length:
            rows[side].append(row)
        else:
            left_out.append(str((example.get("meta") or {}).get("example_id", "")))
    _save(rows, output, seed)
    return _report(rows, lengths, refusals, left_out, max_length)


def _row(example: Mapping[str, Any], chat: ChatFormat) -> dict[str, Any]:
    facts = example.get("meta") or {}
    # A worse answer, which DPO and KTO only compare, may be no sound one.
    prompt, completion = chat.encode_example(example, exact=facts.get("judged") != "worse")
    mask = [1] * len(completion)
    if PLACEHOLDER.search(str(example["completion"])):
        mask = _placeholder_mask(example, chat)
    return {
        "input_ids": prompt + completion,
        "completion_mask": [0] * len(prompt) + mask,
        "answer_at": len(prompt),
        "turn_id": str(facts.get("turn_id", "")),
        "group": str(facts.get("session_id", "")),
        "weight": float(facts.get("weight", 1.0)),
        "judged": str(facts.get("judged", "")),
        "pair": str(facts.get("pair", "")),
    }


def _placeholder_mask(example: Mapping[str, Any], chat: ChatFormat) -> list[int]:
    """0 for the completion's tokens that write a placeholder which the prompt does not hold, 1 for all others.

    The agent cannot have known the value that was redacted there, so learning the placeholder would teach it to invent
    one; a placeholder of the prompt is copied, and the gateway puts the caller's own value back.
    """
    prompt = chat.render_prompt(example["prompt"], example.get("tools"))
    text = chat.render_completion(example["prompt"], example["completion"], example.get("tools"))
    known = set(PLACEHOLDER.findall(prompt))
    unlearnt = [match.span() for match in PLACEHOLDER.finditer(text) if match.group() not in known]
    offsets = chat.tokenizer.encode(text, add_special_tokens=False).offsets
    return [int(not any(start < last and first < stop for first, last in unlearnt)) for start, stop in offsets]


def _save(rows: dict[str, list[dict[str, Any]]], output: Path, seed: int) -> None:
    from datasets import Dataset, DatasetDict, Features, List, Value

    features = {
        "input_ids": List(Value("int32")),
        "completion_mask": List(Value("int8")),
        "turn_id": Value("string"),
        "group": Value("string"),
        "weight": Value("float32"),
    }
    if any(row["judged"] for side in SIDES for row in rows[side]):  # without, the split is what it always was
        features |= {"judged": Value("string"), "pair": Value("string")}
    # if no loss is taken of an answer's first token, the mask does not say where the answer begins
    if any(not row["completion_mask"][row["answer_at"]] for side in SIDES for row in rows[side]):
        features |= {"answer_at": Value("int32")}
    order = np.random.default_rng(seed).permutation(len(rows["train"]))
    rows = {**rows, "train": [rows["train"][index] for index in order]}
    # An empty side needs its columns (from_list of no rows has none) and a shard (0 rows are written into 0 shards by
    # default), or load_from_disk refuses the folder.
    columns = {side: {name: [row[name] for row in rows[side]] for name in features} for side in SIDES}
    sets = {side: Dataset.from_dict(columns[side], features=Features(features)) for side in SIDES}
    DatasetDict(sets).save_to_disk(str(output), num_shards=dict.fromkeys(SIDES, 1))


def _report(
    rows: dict[str, list[dict[str, Any]]],
    all_lengths: Sequence[int],
    refusals: Sequence[str],
    left_out: list[str],
    max_length: int,
) -> TokenizeReport:
    """`all_lengths` are the rows' lengths in tokens, of those that are too long, too."""
    every = [row for side in SIDES for row in rows[side]]
    lengths = [len(row["input_ids"]) for row in every]
    longest = max(all_lengths, default=0)
    limits = {max_length, max(longest, max_length), *(limit for limit in _LIMITS if max_length < limit < longest)}
    train = [Row.from_columns(row) for row in rows["train"]]
    train_tokens = sum(len(row.ids) for row in train)
    saved = 1 - build_forest(merge_chains(train), least_saving=1).tokens / train_tokens if train_tokens else 0.0
    histogram = {str(top): 0 for top in (*_BINS, "more")}
    for length in lengths:
        histogram[str(next((top for top in _BINS if length <= top), "more"))] += 1
    return TokenizeReport(
        train_rows=len(rows["train"]),
        validation_rows=len(rows["validation"]),
        tokens=sum(lengths),
        label_tokens=sum(sum(row["completion_mask"]) for row in every),
        longest=max(lengths, default=0),
        too_long=len(all_lengths) - len(lengths),
        refused=len(refusals),
        refusal=refusals[0] if refusals else "",
        left_out=left_out,
        max_length=max_length,
        fitting={str(limit): sum(length <= limit for length in all_lengths) for limit in sorted(limits)},
        length_histogram={top: count for top, count in histogram.items() if count},
        shared_prefix_share=round(saved, 4),
    )


def load_split(folder: Path) -> tuple[list[Row], list[Row]]:
    """(train rows, validation rows) of a tokenized split; GrokoraError if the folder holds none, or damaged rows."""
    from datasets import load_from_disk

    sides: dict[str, list[Row]] = {side: [] for side in SIDES}
    try:
        sets = load_from_disk(str(folder))
        for side, rows in sides.items():
            for columns in sets[side]:
                if damage := _damage(columns):
                    raise GrokoraError(f"A row of {folder} {damage}; materialize tokenized_split again.")
                rows.append(Row.from_columns(columns))
        return sides["train"], sides["validation"]
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise GrokoraError(
            f"{folder} holds no tokenized split ({error}); materialize tokenized_split first."
        ) from error


def _damage(row: Mapping[str, Any]) -> str:
    """What makes a row useless for training, "" for nothing: torch would fail on it with a sentence about the model."""
    ids = row["input_ids"]
    if not ids or len(row["completion_mask"]) != len(ids):
        return f"has {len(ids)} tokens and {len(row['completion_mask'])} marks of what is learnt"
    if min(ids) < 0:
        return f"has the token {min(ids)}, which no model knows"
    return "" if math.isfinite(row["weight"]) else f"weighs {row['weight']}"
