"""Small pictures for asset metadata: PNG in Markdown, since that is what the Dagster UI shows without a file server."""

import base64
import io
import math
from typing import Any

import dagster as dg


def training_curves(training: dict[str, Any]) -> dg.MetadataValue[Any]:
    """Loss and learning rate over the optimiser steps of a `training.json`."""
    from matplotlib.figure import Figure

    history = training["history"]
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    losses, rates = figure.subplots(1, 2)
    losses.plot(*_series(history, "loss"), label="training")
    losses.plot(*_series(history, "eval_loss"), "o-", label="validation")
    losses.set(xlabel="step", ylabel="loss (nats a token)")
    losses.legend(frameon=False)
    rates.plot(*_series(history, "learning_rate"))
    rates.set(xlabel="step", ylabel="learning rate")
    return picture(figure, "loss and learning rate")


def length_histogram(counts: dict[str, int], max_length: int) -> dg.MetadataValue[Any]:
    """How many examples are how long: `counts` maps a bucket's upper end (tokens, or `more`) to its examples."""
    from matplotlib.figure import Figure

    buckets = sorted(counts, key=lambda top: int(top) if top.isdigit() else math.inf)
    figure = Figure(figsize=(5, 2.4), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(buckets, [counts[bucket] for bucket in buckets])
    axes.bar_label(bars)
    axes.set(xlabel=f"tokens, up to (trained on: at most {max_length})", ylabel="examples")
    return picture(figure, "examples by length in tokens")


def _series(history: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    rows = [(row["step"], row[name]) for row in history if name in row]
    return [step for step, _ in rows], [value for _, value in rows]


def intervals(scores: dict[str, dict[str, Any]], title: str) -> dg.MetadataValue[Any]:
    """A score of every system, its `value` with the interval from `low` to `high`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.6 + 0.4 * len(scores)), layout="constrained")
    axes = figure.subplots()
    for row, score in enumerate(scores.values()):
        errors = [[max(0.0, score["value"] - score["low"])], [max(0.0, score["high"] - score["value"])]]  # rounding
        axes.errorbar(score["value"], row, xerr=errors, fmt="o", capsize=4, color="#3566c4")
    axes.set_yticks(range(len(scores)), [name.replace("_", "-") for name in scores])
    axes.set(xlabel=title, ylim=(len(scores) - 0.5, -0.5))
    return picture(figure, f"{title} with intervals")


def rank_curves(rows: list[dict[str, Any]], metric: str) -> dg.MetadataValue[Any]:
    """Validation loss (two standard deviations between seeds), main metric and adapter size of every rank tried."""
    from matplotlib.figure import Figure

    ranks = [str(row["rank"]) for row in rows]
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    loss, score, size = figure.subplots(1, 3)
    spread = [2 * (row["loss_sd"] or 0) for row in rows]
    loss.errorbar(ranks, [row["validation_loss"] for row in rows], yerr=spread, fmt="o", capsize=4)
    score.plot(ranks, [math.nan if row["metric"] is None else row["metric"] for row in rows], "o-")
    size.bar(ranks, [row["adapter_mib"] for row in rows])
    for axes, name in ((loss, "validation loss (nats a token)"), (score, metric), (size, "adapter, MiB")):
        axes.set(xlabel="rank", title=name)
    return picture(figure, "loss, metric and size by rank")


def picture(figure: Any, title: str) -> dg.MetadataValue[Any]:
    """A matplotlib figure as Markdown metadata with the PNG inside."""
    buffer = io.BytesIO()  # 80 dpi: the picture is part of an event in Dagster's database
    figure.savefig(buffer, format="png", dpi=80)
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")
