"""What is in the store, as pandas DataFrames: turns, an agent's examples, and the answers of its evaluation.

from grokora_pipeline.datasets import frames
examples = frames.examples(frames.open_store(), "actor")
examples.groupby(["task_key", "status"]).weight.sum()
"""

from pathlib import Path

import orjson
import pandas as pd

from grokora_pipeline.datasets.examples import read_examples
from grokora_pipeline.models.messages import message_text
from grokora_pipeline.sessions.verdicts import read_turns
from grokora_pipeline.settings import get_settings
from grokora_pipeline.store import Store

_TURN_COLUMNS = ["turn_id", "session_id", "agent", "step", "started_at", "status", "rating", "blamed", "step_failed"]
_TURN_COLUMNS += ["completeness", "model", "recorded_agent", "task", "source_file", "line", "prompt", "completion"]


def open_store() -> Store:
    """The store of the settings (`GROKORA_STORE`)."""
    settings = get_settings()
    return Store(settings.store, settings.cache)


def turns(store: Store) -> pd.DataFrame:
    """A row a turn, each once and with its session's verdict; `started_at` is a UTC time, NaT if the log has none.

    Raises GrokoraError if `session_logs` was not materialized.
    """
    rows = read_turns(store.require("session_logs").path, _TURN_COLUMNS)
    frame = pd.DataFrame(list(rows), columns=_TURN_COLUMNS)
    return frame.assign(started_at=pd.to_datetime(frame["started_at"], utc=True, format="ISO8601", errors="coerce"))


def examples(store: Store, agent: str) -> pd.DataFrame:
    """A row an example of the agent's dataset: its meta columns, `prompt`, `completion` and `tools`, and its `side`.

    `side` is train or validation; NaN for an example that is held back, or if the dataset was not split yet. Raises
    GrokoraError if the agent's `task_dataset` was not materialized.
    """
    frame = dataset_frame(store.require(f"{agent}/task_dataset").path)
    split = store.current(f"{agent}/tokenized_split")
    sides = split.read_json("examples.json") if split else {}
    return frame.assign(side=frame["example_id"].map(sides))


def dataset_frame(folder: Path) -> pd.DataFrame:
    """A row an example of a dataset folder, with `question` and `answer`: the texts of the last message and the reply.

    An answer without a text is the JSON of its tool calls.
    """
    columns = ["example_id", "turn_id", "session_id", "prompt", "completion", "tools", "question", "answer"]
    rows = []
    for example in read_examples(folder):
        question = message_text(example.prompt[-1]) if example.prompt else ""
        reply = example.completion[0] if example.completion else {}
        answer = message_text(reply) or orjson.dumps(reply.get("tool_calls") or []).decode()
        texts = {"prompt": example.prompt, "completion": example.completion, "tools": example.tools}
        rows.append({**example.meta, **texts, "question": question, "answer": answer})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def predictions(store: Store, agent: str) -> pd.DataFrame:
    """A row an example and system (base, adapter, …) of the agent's newest report, with the metrics of the answer.

    Raises GrokoraError if the agent's `eval_report` was not materialized.
    """
    path = store.require(f"{agent}/eval_report").path / "predictions.jsonl"
    return pd.json_normalize([orjson.loads(line) for line in path.read_bytes().splitlines()])
