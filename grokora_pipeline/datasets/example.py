"""An example: a line of `examples.jsonl`, what it holds, and how a published dataset is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import orjson

from grokora_pipeline.datasets import duplicates
from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.turns import Completeness, Status

FILE = "examples.jsonl"
WORSE_FILE = "worse.jsonl"  # beside it, so that nothing takes a worse answer for one to be learnt or measured against


class ExampleMeta(TypedDict, total=False):
    """Where an example comes from. `example_id`, `turn_id`, `session_id` and `step` are always there."""

    example_id: str  # SHA-256 of prompt and completion as logged: equal text is the same example
    turn_id: str
    session_id: str
    step: int
    started_at: str  # ISO 8601, UTC, "" for a call without a time
    status: Status
    rating: int | None
    source_file: str
    source_sha256: str
    line: int
    completeness: Completeness
    model: str  # who answered
    task_key: str  # see `task_key`; "" for no task
    cluster: str  # the near-duplicate cluster: the beginning of its representative's example id
    copies: int  # distinct calls that say the same
    weight: int  # how often the example counts in training: copies, capped
    files: list[str]  # with `replay`: its session and all log files it stands in, so that it can be forgotten later
    blamed: bool  # of a worse answer: this very step is blamed
    better: str  # of a worse answer in a pair: the example id of the better one


class ExampleLine(TypedDict):
    """A line of `examples.jsonl` as JSON: what an `Example` is to the processes that only read it."""

    prompt: list[Message]
    completion: list[Message]
    tools: NotRequired[list[dict[str, Any]]]
    meta: ExampleMeta


@dataclass(slots=True)
class Example:
    """A line of `examples.jsonl`. `meta` says where it comes from; `meta["example_id"]` is the hash of its text."""

    prompt: list[Message]
    completion: list[Message]
    tools: list[dict[str, Any]] | None
    meta: ExampleMeta

    @property
    def id(self) -> str:
        """The hash of prompt and completion: equal text is the same example, wherever it was logged."""
        return self.meta["example_id"]

    @property
    def text(self) -> str:
        """What is compared with other examples: see `duplicates.plain_text`."""
        return duplicates.plain_text([*self.prompt, *self.completion])

    def to_line(self) -> bytes:
        """The example as a line of JSON."""
        line: ExampleLine = {"prompt": self.prompt, "completion": self.completion, "meta": self.meta}
        if self.tools:
            line["tools"] = self.tools
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def read_examples(folder: Path) -> Iterator[Example]:
    """The examples of a published dataset folder, in order."""
    return _parse(folder / FILE)


def read_worse(folder: Path) -> list[Example]:
    """The worse answers that a published dataset learns from (see `datasets/preferences.py`); mostly none."""
    return list(_parse(folder / WORSE_FILE)) if (folder / WORSE_FILE).is_file() else []


def _parse(path: Path) -> Iterator[Example]:
    with path.open("rb") as stream:
        for line in stream:
            row = orjson.loads(line)
            yield Example(row["prompt"], row["completion"], row.get("tools"), row["meta"])
