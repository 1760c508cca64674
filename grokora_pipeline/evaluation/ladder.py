"""Is an adapter worth it? What an agent can be improved by, from cheap to dear, on the same held-out rows.

A rung is a system of the report. The verdict names the cheapest one that is not worse than the best beyond noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from grokora_pipeline.evaluation.gate import FIXED_PROMPTS, as_good
from grokora_pipeline.evaluation.metrics import METRICS
from grokora_pipeline.evaluation.scoring import Row, as_answer, by_system, cluster_sums
from grokora_pipeline.evaluation.significance import FloatArray, difference, family_p_values

# From cheap to dear: nothing, a few fixed tokens, fixed examples, a search at every call, a training, both.
RUNGS = ("base", "instructed", "few_shot", "retrieved", "adapter", "adapter_few_shot")
_CANDIDATES = (*FIXED_PROMPTS, "adapter")
_ADVICE = {
    "base": "the base model as it is: do not train",
    "instructed": "an instruction in the prompt: do not train",
    "few_shot": "{few_shot} in the prompt: do not train",
    "retrieved": "examples that are looked up for each question: do not train",
    "adapter": "the adapter: training is worth it",
    "adapter_few_shot": "the adapter with examples in its prompt: training is worth it",
}


def ladder(rows: Sequence[Row], metric: str, *, few_shot: int, alpha: float = 0.05, seed: int = 0) -> dict[str, Any]:
    """`ladder` of report.json from the rows of predictions.jsonl.

    `rungs`: quality, seconds, prompt tokens and answer tokens, each of the last three as a mean an answer, and
    `behind_best`, the paired difference of the best rung to this one. `best`, `cheapest`, `verdict`. `candidates`: for
    each rung that can be put in service its difference to the base and to the champion, with `p_family`.
    """
    systems = by_system(rows)
    clusters = [row["session_id"] for row in next(iter(systems.values()))]
    answers = {name: [as_answer(row) for row in group] for name, group in systems.items()}
    measure = METRICS[metric]
    sums = cluster_sums(measure, answers, clusters)
    rungs = [name for name in RUNGS if name in sums]
    if not rungs:
        text = f"{metric} applies to none of the rows, so nothing can be compared."
        return {"verdict": text, "best": None, "cheapest": None, "rungs": [], "candidates": {}}
    sign = 1 if measure.higher_is_better else -1
    quality = {name: float(measure.combine(table.sum(axis=0))) for name, table in sums.items()}
    best = max(rungs, key=lambda name: sign * quality[name])

    def compared(ours: str, theirs: str) -> dict[str, Any]:
        found = difference(sums[ours], sums[theirs], measure.combine, alpha=alpha, seed=seed)
        return {**asdict(found), "higher_is_better": measure.higher_is_better}

    behind = {name: None if name == best else compared(best, name) for name in rungs}
    cheapest = next(name for name in rungs if as_good(behind[name], alpha))
    return {
        "metric": metric,
        "verdict": _verdict(f"{metric} {quality[cheapest]:.3f}", cheapest, best, behind[cheapest], few_shot),
        "best": best,
        "cheapest": cheapest,
        "rungs": [
            {"system": name, "value": quality[name], "behind_best": behind.get(name), **_cost(systems[name])}
            for name in (*rungs, *(["champion"] if "champion" in sums else []))
        ],
        "candidates": _candidates(sums, measure.combine, compared, seed),
    }


def _candidates(sums: Mapping[str, FloatArray], combine: Any, compared: Any, seed: int) -> dict[str, Any]:
    """Each rung that can go into service against the base, the champion and the adapter."""
    names = [name for name in _CANDIDATES if name in sums]
    found: dict[str, Any] = {name: {} for name in names}
    for other in ("base", "champion"):
        if other in sums:
            p_values = family_p_values([sums[name] for name in names], sums[other], combine, seed=seed)
            for name, p_value in zip(names, p_values, strict=True):
                found[name][other] = {**compared(name, other), "p_family": p_value}
    for name in names:
        if name != "adapter" and "adapter" in sums:
            found[name]["adapter_lead"] = compared("adapter", name)
    return found


def _cost(rows: Sequence[Row]) -> dict[str, float]:
    """Means an answer. The seconds are a batch's share of one moment on one machine, so they have no interval."""
    count = max(1, len(rows))
    return {
        "seconds": sum(row["seconds"] or 0.0 for row in rows) / count,
        "prompt_tokens": sum(row.get("prompt_tokens") or 0 for row in rows) / count,
        "answer_tokens": sum(row["new_tokens"] or 0 for row in rows) / count,
    }


def _verdict(figure: str, cheapest: str, best: str, behind: Mapping[str, Any] | None, few_shot: int) -> str:
    number = {1: "one example", 2: "two examples"}.get(few_shot, f"{few_shot} examples")
    text = f"Cheapest that is as good as the best: {_ADVICE[cheapest].format(few_shot=number)} ({figure}"
    if behind is None:
        return f"{text}, the best)." if cheapest == "base" else f"{text}; everything cheaper is worse beyond noise)."
    lead, p_value, unseen = abs(behind["value"]), behind["p_value"], behind["detectable"]
    return (
        f"{text}; the best, {best.replace('_', '-')}, is {lead:.3f} ahead, p = {p_value:.2g}; with these rows "
        f"differences under {unseen:.2g} cannot be seen)."
    )
