"""Which rank is worth its size: trials of several ranks and seeds, summed up, and a recommendation. No torch."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from grokora_pipeline.training.plan import TrainingKnobs

RANKS = (8, 16, 32, 64)
Record = Mapping[str, Any]


def trial_knobs(knobs: TrainingKnobs, rank: int, seed: int) -> dict[str, Any]:
    """What a trial changes: rank and seed, with one alpha and learning rate for all ranks and rsLoRA's scale.

    alpha / sqrt(r) (arXiv 2312.03732) keeps the size of updates alike across ranks; alpha is such that at the agent's
    own rank the scale is the agent's own.
    """
    alpha = knobs.alpha if knobs.rslora else knobs.alpha / math.sqrt(knobs.rank)
    return {"rank": rank, "seed": seed, "rslora": True, "alpha": alpha}


def summarise(trials: Mapping[int, Sequence[Record]]) -> list[dict[str, Any]]:
    """A row a rank, smallest first: means over its seeds, and the loss's standard deviation (None with one seed).

    A record holds validation_loss, adapter_mib, peak_memory_mib, tokens_per_second, trainable_share and metric (None
    if it was not measured).
    """
    rows = []
    for rank, records in sorted(trials.items()):
        if not records:
            continue
        losses = [record["validation_loss"] for record in records]
        metrics = [record["metric"] for record in records if record["metric"] is not None]
        row = {
            "rank": rank,
            "seeds": len(records),
            "validation_loss": fmean(losses),
            "loss_sd": stdev(losses) if len(losses) > 1 else None,
            "metric": fmean(metrics) if metrics else None,
            "adapter_mib": fmean(record["adapter_mib"] for record in records),
            "trainable_share": fmean(record["trainable_share"] for record in records),
            "peak_memory_mib": max(record["peak_memory_mib"] for record in records),
            "tokens_per_second": fmean(record["tokens_per_second"] for record in records),
        }
        rows.append(row)
    return rows


def recommend(rows: Sequence[Record]) -> dict[str, Any]:
    """{rank, noise, reason}: the smallest rank whose loss is within noise of the best one's; None if unknown.

    Noise is two standard errors of a difference of means, from the variance between seeds pooled over all ranks (after
    the one-standard-error rule of Breiman et al., 1984: of equals the simplest).
    """
    spread = [(row["seeds"] - 1, row["loss_sd"] ** 2) for row in rows if row["loss_sd"] is not None]
    if len(rows) < 2 or not spread:
        return {"rank": None, "noise": None, "reason": "No advice yet: it takes two ranks, and two seeds to see noise."}
    variance = sum(freedom * square for freedom, square in spread) / sum(freedom for freedom, _ in spread)
    best = min(rows, key=lambda row: row["validation_loss"])
    noise = {row["rank"]: 2 * math.sqrt(variance * (1 / row["seeds"] + 1 / best["seeds"])) for row in rows}
    fits = [row for row in rows if row["validation_loss"] - best["validation_loss"] <= noise[row["rank"]]]
    chosen = min(fits, key=lambda row: row["rank"])
    rank, limit = chosen["rank"], noise[chosen["rank"]]
    why = "the lowest loss" if chosen is best else f"no worse than rank {best['rank']} beyond noise"
    reason = f"Rank {rank}: loss {chosen['validation_loss']:.4f}, {why} (noise ± {limit:.4f})."
    return {"rank": rank, "noise": limit, "reason": reason}
