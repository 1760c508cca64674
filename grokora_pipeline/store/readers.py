"""What is in a store, as DataFrames, tables and folders: for notebooks and for a person's own assets.

    from grokora_pipeline.store import Store, readers
    store = Store("data/store")
    readers.load(store, "actor/task_dataset").groupby("status").size()

Nothing here writes, and every function reads the current version.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import BASE, Registry

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_TABLES = {"session_logs", "task_dataset", "eval_report"}  # links whose artifact is a table; of others it is a folder


def load(store: Store, key: str, kind: Any = None) -> Any:
    """The current artifact of a store key, such as `actor/eval_report`, in the form that suits it.

    `session_logs`, `task_dataset` and `eval_report` are a pandas DataFrame, or a pyarrow.Table or datasets.Dataset if
    `kind` is that class; `champion` is its record, everything else its folder, as is anything for `kind` Path.
    GrokoraError if there is none yet, or if it cannot be had in that form.
    """
    agent, _, link = key.rpartition("/")
    if link == "champion":  # who is in service, or `base` if nobody ever was promoted
        return Registry(store).record(agent) or {"version": BASE}
    name = f"{getattr(kind, '__module__', '').partition('.')[0]}.{getattr(kind, '__name__', '')}"
    if kind is Path or (link not in _TABLES and name not in {"pyarrow.Table", "datasets.Dataset", "pandas.DataFrame"}):
        return store.require(key).path
    if link not in _TABLES:
        raise GrokoraError(f"{key} is a folder, not a {name}; annotate the input as pathlib.Path.")
    if name == "pyarrow.Table":
        return table(store, key)
    if name == "datasets.Dataset":
        from datasets import Dataset

        return Dataset(table(store, key))
    frame: pd.DataFrame = table(store, key).to_pandas()
    if link == "eval_report":
        frame.attrs["report"] = store.require(key).read_json("report.json")
    return frame


def table(store: Store, key: str) -> "pa.Table":
    """The rows of `session_logs` (turns), `A/task_dataset` (examples) or `A/eval_report` (predictions).

    The fields of an example's `meta` are columns of their own beside prompt, completion and tools, which are JSON.
    """
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, link = store.require(key).path, key.rpartition("/")[2]
    if link == "session_logs":
        files = sorted((path / "turns").glob("*.parquet"))
        return pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")
    if link == "task_dataset":
        rows = [orjson.loads(line) for line in (path / "examples.jsonl").read_bytes().splitlines()]
        text = ("prompt", "completion", "tools")
        return pa.Table.from_pylist(
            [
                {**row["meta"], **{name: orjson.dumps(row[name]).decode() if row.get(name) else None for name in text}}
                for row in rows
            ]
        )
    rows = [orjson.loads(line) for line in (path / "predictions.jsonl").read_bytes().splitlines()]
    flat = [
        {name: orjson.dumps(value).decode() if isinstance(value, dict | list) else value for name, value in row.items()}
        for row in rows
    ]
    return pa.Table.from_pylist(flat)
