"""Turns with their sessions' verdicts and examples with their sides, as pandas DataFrames.

    from grokora_pipeline.datasets import frames
    examples = frames.examples(frames.open_store(), "actor")
    examples.groupby(["side", "status"]).weight.sum()

`store.readers` gives every artifact as it is stored; these two join what belongs together.
"""

import orjson
import pandas as pd

from grokora_pipeline.models.messages import message_text
from grokora_pipeline.sessions.verdicts import read_turns
from grokora_pipeline.settings import get_settings
from grokora_pipeline.store import Store, readers

_TURN_COLUMNS = ["turn_id", "session_id", "agent", "step", "started_at", "status", "rating", "blamed", "step_failed"]
_TURN_COLUMNS += ["completeness", "model", "recorded_agent", "task", "source_file", "line", "prompt", "completion"]


def open_store() -> Store:
    """The store of the settings (`GROKORA_STORE`)."""
    return Store.of(get_settings())


def turns(store: Store) -> pd.DataFrame:
    """A row a turn, each once and with its session's verdict; `started_at` is a UTC time, NaT if the log has none.

    Raises GrokoraError if `session_logs` was not materialized.
    """
    rows = read_turns(store.require("session_logs").path, _TURN_COLUMNS)
    frame = pd.DataFrame(list(rows), columns=_TURN_COLUMNS)
    return frame.assign(started_at=pd.to_datetime(frame["started_at"], utc=True, format="ISO8601", errors="coerce"))


def examples(store: Store, agent: str) -> pd.DataFrame:
    """A row an example: what `readers.load` gives, and `side`, `question` and `answer`.

    `side` is train or validation; NaN for an example that is held back, or if the dataset was not split yet. `question`
    is the text of the prompt's last message, `answer` that of the reply, or the JSON of its tool calls. Raises
    GrokoraError if the agent's `task_dataset` was not materialized.
    """
    frame: pd.DataFrame = readers.load(store, f"{agent}/task_dataset")
    if frame.empty:
        return frame.reindex(columns=["example_id", "session_id", "weight", "side", "question", "answer"])
    split = store.current(f"{agent}/tokenized_split")
    sides = split.read_json("examples.json") if split else {}
    answers = [orjson.loads(completion)[0] for completion in frame["completion"]]
    return frame.assign(
        side=frame["example_id"].map(sides),
        question=[message_text(orjson.loads(prompt)[-1]) for prompt in frame["prompt"]],
        answer=[message_text(one) or orjson.dumps(one.get("tool_calls") or []).decode() for one in answers],
    )
