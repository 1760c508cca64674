"""From answers to numbers: the rows of `predictions.jsonl` in, the figures of `report.json` out. No model is needed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from grokora_pipeline.evaluation import significance
from grokora_pipeline.evaluation.metrics import METRICS, Metric, call_error, tool_call_match
from grokora_pipeline.evaluation.metrics.answers import Answer
from grokora_pipeline.models.messages import canonical

Prediction = dict[str, Any]  # one line of predictions.jsonl
_ANSWER_FIELDS = {field.name for field in fields(Answer)}
PAIRS = (("adapter", "base"), ("adapter", "few_shot"), ("adapter", "champion"))


def as_answer(row: Prediction) -> Answer:
    """The scoring view of a line of predictions.jsonl."""
    return Answer(**{name: value for name, value in row.items() if name in _ANSWER_FIELDS})


def read_rows(folder: Path, *, fresh: bool = False) -> list[Prediction]:
    """The rows of a report folder's predictions.jsonl that its figures rest on, or those of the final look."""
    rows = [orjson.loads(line) for line in (folder / "predictions.jsonl").read_bytes().splitlines() if line]
    return [row for row in rows if bool(row.get("fresh")) is fresh]


def by_system(rows: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """The rows of each system, all in the order of the first system's turn ids, so that systems are paired."""
    systems: dict[str, dict[str, Prediction]] = {}
    for row in rows:
        systems.setdefault(row["system"], {})[row["turn_id"]] = row
    order = list(next(iter(systems.values()))) if systems else []
    return {name: [answers[turn_id] for turn_id in order] for name, answers in systems.items()}


def score(rows: Sequence[Prediction], *, alpha: float = 0.05, seed: int = 0) -> dict[str, Any]:
    """`systems` and `comparisons` of the report, with intervals clustered by session."""
    systems = by_system(rows)
    clusters = [row["session_id"] for row in next(iter(systems.values()), [])]
    answers = {name: [as_answer(row) for row in group] for name, group in systems.items()}
    scored: dict[str, Any] = {
        name: {
            "metrics": {},
            # how often each kind of tool-call error occurs, `none` for right answers; empty if no call is possible
            "errors": dict(
                Counter(call_error(one) or "none" for one in group if tool_call_match(one) is not None).most_common()
            ),
            **_work(systems[name]),
        }
        for name, group in answers.items()
    }
    comparisons: dict[str, Any] = {
        f"{ours}_vs_{theirs}": {} for ours, theirs in PAIRS if ours in systems and theirs in systems
    }
    for metric in METRICS.values():
        sums = cluster_sums(metric, answers, clusters)
        for name, table in sums.items():
            scored[name]["metrics"][metric.name] = asdict(
                significance.estimate(table, metric.combine, alpha=alpha, seed=seed)
            )
        for ours, theirs in PAIRS:
            if ours in sums and theirs in sums:
                change = asdict(
                    significance.difference(sums[ours], sums[theirs], metric.combine, alpha=alpha, seed=seed)
                )
                comparisons[f"{ours}_vs_{theirs}"][metric.name] = {
                    **change,
                    "higher_is_better": metric.higher_is_better,
                }
    return {"rows": len(clusters), "sessions": len(set(clusters)), "systems": scored, "comparisons": comparisons}


def cluster_sums(
    metric: Metric, answers: Mapping[str, Sequence[Answer]], clusters: Sequence[str]
) -> dict[str, significance.FloatArray]:
    """Each system's [clusters, k] sums over the rows to which the metric applies."""
    tables = {name: table for name, group in answers.items() if (table := metric.table(group)) is not None}
    if not tables:
        return {}
    # a session on whose rows no system has the metric is no evidence, and must not be counted as one
    applies = np.any([table.any(axis=1) for table in tables.values()], axis=0)
    kept = [cluster for cluster, used in zip(clusters, applies, strict=True) if used]
    return {name: significance.by_cluster(table[applies], kept) for name, table in tables.items() if kept}


def _work(rows: Sequence[Prediction]) -> dict[str, Any]:
    seconds = sum(row["seconds"] or 0.0 for row in rows)
    tokens = sum(row["new_tokens"] or 0 for row in rows)
    return {
        "seconds": seconds,
        "new_tokens": tokens,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "cached_rows": sum(bool(row.get("cached")) for row in rows),
        "one_answer": one_answer(rows),
    }


def one_answer(rows: Sequence[Prediction]) -> bool:
    """Whether a system says the same to every row though different answers are expected: it may have a good score by
    the commonest answer, and has not learnt to read the question."""
    answers, expected = ({canonical(row[side]) for row in rows} for side in ("prediction", "reference"))
    return len(answers) == 1 < len(expected)


def main_score(row: Prediction, metric: str) -> float:
    """One row's score on a metric; 0 if the metric does not apply."""
    value = METRICS[metric].value([as_answer(row)])
    return 0.0 if value is None else value


def all_right(score: float, metric: str) -> bool:
    """Whether a row's score is the full one: 1 for most metrics, 100 for BLEU, none for a likelihood or a length."""
    full = METRICS[metric].full
    return full is not None and score >= full - 1e-9
