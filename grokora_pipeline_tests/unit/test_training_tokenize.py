"""The tokenized split: which tokens carry loss, and what is said about the rows that are too long."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.training.tokenize import load_split, tokenize_split


@pytest.fixture(scope="module")
def chat(base: Path) -> ChatFormat:
    return ChatFormat.load(base)


def example(question: str, answer: str) -> dict[str, Any]:
    prompt = [{"role": "user", "content": question}]
    completion = [{"role": "assistant", "content": answer}]
    return {"prompt": prompt, "completion": completion, "meta": {"turn_id": question, "session_id": "s", "weight": 1}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input_ids": [], "completion_mask": []}, "has 0 tokens"),
        ({"completion_mask": [1]}, "has 3 tokens and 1 marks"),
        ({"input_ids": [5, -1, 6]}, "the token -1"),
        ({"weight": float("nan")}, "weighs nan"),
    ],
)
def test_a_damaged_row_is_said_to_be_the_splits(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    whole = {"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1], "turn_id": "t", "group": "s", "weight": 1.0}
    sides = {side: Dataset.from_list([whole, whole | row]) for side in ("train", "validation")}
    DatasetDict(sides).save_to_disk(str(tmp_path))
    with pytest.raises(GrokoraError, match=f"A row of .* {reason}"):
        load_split(tmp_path)


def learnt(chat: ChatFormat, folder: Path, question: str, answer: str) -> str:
    """The text of the answer's tokens that carry loss."""
    tokenize_split([example(question, answer)], ["train"], chat, folder, max_length=512, seed=7)
    (row,), _ = load_split(folder)
    return chat.decode([token for token, weight in zip(row.ids, row.weights, strict=True) if weight])


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Log in.", "type <SECRET:password:1> now", "type  now"),
        ("Log in with <SECRET:password:1>.", "type <SECRET:password:1> now", "type <SECRET:password:1> now"),
        ("Log in with <SECRET:password:1>.", "type <SECRET:password:2> now", "type  now"),
        ("Write.", "mail <PII:email:1> and <PII:email:2>", "mail  and "),
        ("Write.", "nothing is redacted here", "nothing is redacted here"),
    ],
)
def test_a_placeholder_carries_loss_only_if_the_prompt_holds_it(
    chat: ChatFormat, tmp_path: Path, question: str, answer: str, expected: str
) -> None:
    text = learnt(chat, tmp_path, question, answer)
    assert "".join(text.split()) == "".join(expected.split())  # a token may hold the space beside a placeholder


@pytest.mark.parametrize("answer", ["<SECRET:password:1> is it", "it is <SECRET:password:1>"])
def test_a_row_knows_where_its_answer_begins(chat: ChatFormat, tmp_path: Path, answer: str) -> None:
    learnt(chat, tmp_path, "Say it.", answer)
    (row,), _ = load_split(tmp_path)
    assert row.ids[: row.prompt] == tuple(chat.encode_prompt(example("Say it.", answer)["prompt"]))


def test_the_report_says_how_many_rows_each_longer_limit_would_keep(chat: ChatFormat, tmp_path: Path) -> None:
    rows = [example(f"q{n}", "word " * (400 * n)) for n in range(4)]
    report = tokenize_split(rows, ["train"] * 4, chat, tmp_path, max_length=64, seed=7)
    longest = max(int(limit) for limit in report.fitting)
    assert (report.train_rows, report.too_long, len(report.left_out)) == (1, 3, 3)
    assert (report.fitting["64"], report.fitting[str(longest)]) == (1, 4)
    assert list(report.fitting.values()) == sorted(report.fitting.values())
