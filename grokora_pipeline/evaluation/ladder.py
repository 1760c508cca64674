"""Is an adapter worth it? What an agent can be improved by, from cheap to dear, on the same held-out rows.

A rung is a system of the report. The verdict names the cheapest one that is not worse than the best beyond noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from grokora_pipeline.evaluation.gate import CANDIDATES, WITH_PROMPT, as_good
from grokora_pipeline.evaluation.metrics import METRICS, Metric
from grokora_pipeline.evaluation.plan import FRESH_SESSIONS
from grokora_pipeline.evaluation.scoring import Prediction, as_answer, by_system, cluster_sums, one_answer
from grokora_pipeline.evaluation.significance import (
    FloatArray,
    difference,
    estimate,
    family_p_values,
    sessions_needed,
    unseen_p_value,
)

# From cheap to dear: nothing, a few fixed tokens, fixed examples, a search at every call, a training, both.
RUNGS = ("base", "instructed", "few_shot", "retrieved", "adapter", "adapter_few_shot")
_UNDECIDED = 0.2  # a lead with a p-value between alpha and this is no evidence for "do not train" either
_ADVICE = {
    "base": "the base model as it is: do not train",
    "instructed": "an instruction in the prompt: do not train",
    "few_shot": "{few_shot} in the prompt: do not train",
    "retrieved": "examples that are looked up for each question: do not train",
    "adapter": "the adapter: training is worth it",
    "adapter_few_shot": "the adapter with examples in its prompt: training is worth it",
}


Sums = dict[str, FloatArray]


def ladder(
    rows: Sequence[Prediction], metric: str, *, few_shot: int, alpha: float = 0.05, seed: int = 0
) -> dict[str, Any]:
    """`ladder` of report.json from the judged rows of predictions.jsonl.

    `rungs`: quality, seconds, prompt tokens and answer tokens, each of the last three as a mean an answer, and
    `behind_best`, the paired difference of the best rung to this one. `best`, `cheapest`, `verdict`. `candidates`: for
    each rung that can be put in service its difference to the base and to the champion, with `p_family`, and the lead
    of every dearer one over it.
    """
    measure, sums = METRICS[metric], _sums(rows, metric)
    rungs = [name for name in RUNGS if name in sums]
    if not rungs:
        text = f"{metric} applies to none of the rows, so nothing can be compared."
        return {"verdict": text, "best": None, "cheapest": None, "rungs": [], "candidates": {}}
    sign = 1 if measure.higher_is_better else -1
    quality = {name: float(measure.combine(table.sum(axis=0))) for name, table in sums.items()}
    best = max(rungs, key=lambda name: sign * quality[name])
    # each rung's distance to the best alone: all pairs would be a family of tests of their own
    behind = {name: None if name == best else _compared(sums[best], sums[name], measure, alpha, seed) for name in rungs}
    cheapest = next(name for name in rungs if as_good(behind[name], alpha))
    verdict = _verdict(f"{metric} {quality[cheapest]:.3f}", cheapest, best, behind[cheapest], few_shot)
    systems = by_system(rows)
    if one_answer(systems[cheapest]):
        verdict += f" Mind that it gives one and the same answer to all {len(systems[cheapest])} rows."
    sessions, needed = len(sums[best]), sessions_needed(alpha)
    if not any(quality[name] for name in rungs) and measure.higher_is_better:
        verdict = f"Nothing of it works yet: {metric} is 0 for every rung."
    if sessions < needed:  # no test could find a rung worse, and "do not train" would be said for want of rows
        verdict = f"Nothing can be told apart on {sessions} sessions: it needs {needed} with held-out rows."
    return {
        "metric": metric,
        "verdict": verdict,
        "best": best,
        "cheapest": cheapest if sessions >= needed else None,
        "rungs": [
            {"system": name, "value": quality[name], "behind_best": behind.get(name), **_cost(systems[name])}
            for name in (*rungs, *(["champion"] if "champion" in sums else []))
        ],
        "candidates": _candidates(sums, measure, alpha, seed),
    }


def fresh_look(rows: Sequence[Prediction], metric: str, *, alpha: float = 0.05, seed: int = 0) -> dict[str, Any] | None:
    """`fresh` of report.json from the fresh rows: each system's score by which it was not chosen, with its interval,
    and `candidates` as in the ladder. None if there is no fresh part, or the metric applies to too little of it."""
    measure, sums = METRICS[metric], _sums(rows, metric)
    if "adapter" not in sums or len(sums["adapter"]) < FRESH_SESSIONS:
        return None
    scores = {name: asdict(estimate(table, measure.combine, alpha=alpha, seed=seed)) for name, table in sums.items()}
    return {
        "metric": metric,
        "rows": len({row["turn_id"] for row in rows}),
        "sessions": len(sums["adapter"]),
        "systems": scores,
        "candidates": _candidates(sums, measure, alpha, seed),
    }


def _sums(rows: Sequence[Prediction], metric: str) -> Sums:
    systems = by_system(rows)
    clusters = [row["session_id"] for row in next(iter(systems.values()), [])]
    answers = {name: [as_answer(row) for row in group] for name, group in systems.items()}
    return cluster_sums(METRICS[metric], answers, clusters)


def _compared(ours: FloatArray, theirs: FloatArray, measure: Metric, alpha: float, seed: int) -> dict[str, Any]:
    apart = difference(ours, theirs, measure.combine, alpha=alpha, seed=seed)
    # sessions: those on whose rows the metric says something
    return {**asdict(apart), "higher_is_better": measure.higher_is_better, "sessions": len(ours)}


def _candidates(sums: Sums, measure: Metric, alpha: float, seed: int) -> dict[str, Any]:
    """Each rung that can go into service against the base, the champion, and every dearer one of them."""
    names = [name for name in CANDIDATES if name in sums]
    candidates: dict[str, Any] = {name: {} for name in names}
    for other in ("base", "champion"):
        if other in sums:
            p_values = family_p_values([sums[name] for name in names], sums[other], measure.combine, seed=seed)
            for name, p_value in zip(names, p_values, strict=True):
                apart = _compared(sums[name], sums[other], measure, alpha, seed)
                unseen = None  # BLEU is neither a mean nor, as perplexity, the exponential of one
                if sums[name].shape[1] == 2:
                    pair = (sums[name], sums[other]) if measure.higher_is_better else (sums[other], sums[name])
                    unseen = unseen_p_value(*pair, seed=seed)
                candidates[name][other] = {**apart, "p_family": p_value, "p_unseen": unseen}
    for index, name in enumerate(names):
        for dearer in ("adapter", WITH_PROMPT):
            if dearer in names[index + 1 :]:
                candidates[name][f"{dearer}_lead"] = _compared(sums[dearer], sums[name], measure, alpha, seed)
    return candidates


def _cost(rows: Sequence[Prediction]) -> dict[str, float]:
    """Mean seconds, prompt tokens and answer tokens of an answer.

    The seconds are a batch's share of one moment on one machine, so they have no interval.
    """
    count = max(1, len(rows))
    return {
        "seconds": sum(row["seconds"] or 0.0 for row in rows) / count,
        "prompt_tokens": sum(row.get("prompt_tokens") or 0 for row in rows) / count,
        "answer_tokens": sum(row["new_tokens"] or 0 for row in rows) / count,
    }


def _verdict(figure: str, cheapest: str, best: str, behind: Mapping[str, Any] | None, few_shot: int) -> str:
    number = {1: "one example", 2: "two examples"}.get(few_shot, f"{few_shot} examples")
    advice = _ADVICE[cheapest].format(few_shot=number)
    if behind is not None and behind["p_value"] < _UNDECIDED and behind["value"]:
        advice = advice.replace("do not train", "that training is worth it is not proven, and more sessions would tell")
    text = f"Cheapest that is as good as the best: {advice} ({figure}"
    if behind is None:
        return f"{text}, the best)." if cheapest == "base" else f"{text}; everything cheaper is worse beyond noise)."
    lead, p_value, unseen = abs(behind["value"]), behind["p_value"], behind["detectable"]
    return (
        f"{text}; the best, {best.replace('_', '-')}, is {lead:.3f} ahead, p = {p_value:.2g}; with these rows "
        f"differences under {unseen:.2g} cannot be seen)."
    )
