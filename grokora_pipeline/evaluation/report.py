"""The report as a page and as a table. The page holds everything itself; all log text in it is escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from grokora_pipeline.evaluation.metrics.answers import canonical
from grokora_pipeline.evaluation.scoring import Row, by_system, main_score

LABELS = {"base": "base", "few_shot": "base + few-shot", "adapter": "adapter", "champion": "champion"}
SHOWN = 10
_UNIT_RANGE = 1.0


def environment() -> jinja2.Environment:
    """The package's page templates, escaping everything they are given."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "pages")
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters["number"] = number
    return made


def number(value: float | None) -> str:
    """A figure with three significant digits, without an exponent where one is not needed."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def metric_names(report: Mapping[str, Any]) -> list[str]:
    """The metrics of a report, the main one first."""
    names = {name: None for system in report["systems"].values() for name in system["metrics"]}
    main = report["main_metric"]
    return [name for name in (main, *(name for name in names if name != main)) if name in names]


def markdown_table(report: Mapping[str, Any]) -> str:
    """Systems side by side: a line a metric, intervals in brackets, then the difference to the base."""
    systems = list(report["systems"])
    lines = [
        "| metric | " + " | ".join(LABELS.get(name, name) for name in systems) + " | adapter - base | p |",
        "|---" * (len(systems) + 3) + "|",
    ]
    for metric in metric_names(report):
        cells = [_cell(report["systems"][name]["metrics"].get(metric)) for name in systems]
        change = report["comparisons"].get("adapter_vs_base", {}).get(metric)
        p_value = number(change["p_value"]) if change else "–"
        lines.append(f"| {metric} | " + " | ".join([*cells, _cell(change), p_value]) + " |")
    return "\n".join(lines)


def _cell(entry: Mapping[str, Any] | None) -> str:
    return "–" if entry is None else f"{number(entry['value'])} [{number(entry['low'])}, {number(entry['high'])}]"


def write_html(path: Path, report: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write the page."""
    worst, changed = _pairs(rows, report["main_metric"])
    page = environment().get_template("report.html.jinja")
    path.write_text(
        page.render(
            report=report,
            labels=LABELS,
            figures=[_figure(report, name) for name in metric_names(report)],
            past=_past(report),
            curves=_curves(report.get("training", {}).get("history", [])),
            answers=[("Worst answers", worst), ("Most changed answers", changed)],
        ),
        encoding="utf-8",
    )


def _figure(report: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A metric's line: values, the difference to the base, and bars in per cent of the widest value."""
    entries = {name: system["metrics"].get(metric) for name, system in report["systems"].items()}
    top = max([_UNIT_RANGE] + [entry["high"] for entry in entries.values() if entry])
    bars = {
        name: {key: 100 * entry[key] / top for key in ("value", "low", "high")}
        for name, entry in entries.items()
        if entry
    }
    change = report["comparisons"].get("adapter_vs_base", {}).get(metric)
    return {"metric": metric, "entries": entries, "bars": bars, "change": change}


def _past(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The main metric of earlier reports and of this one, to be drawn as bars."""
    now = report["systems"]["adapter"]["metrics"].get(report["main_metric"])
    earlier = [entry for entry in report.get("history", []) if entry.get("value") is not None]
    return [*earlier, {"label": "this report", "value": now["value"]}] if earlier and now else []


def _curves(history: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Loss curves as SVG polylines in a box of 100 x 40."""
    series = {name: [(row["step"], row[name]) for row in history if name in row] for name in ("loss", "eval_loss")}
    points = [point for line in series.values() for point in line]
    if len(points) < 2:
        return []
    last = max(step for step, _ in points) or 1
    low, high = min(value for _, value in points), max(value for _, value in points)
    scale = 38 / (high - low or 1.0)

    def draw(line: list[tuple[int, float]]) -> str:
        return " ".join(f"{100 * step / last:.2f},{39 - (value - low) * scale:.2f}" for step, value in line)

    names = {"loss": "training", "eval_loss": "validation"}
    return [
        {"name": names[name], "points": draw(line), "first": number(line[0][1]), "last": number(line[-1][1])}
        for name, line in series.items()
        if line
    ]


def _pairs(rows: Sequence[Row], metric: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(worst, most changed) rows by the main metric, each with the expected answer and both systems' answers."""
    systems = by_system(rows)
    pairs = [_pair(base, ours, metric) for base, ours in zip(systems["base"], systems["adapter"], strict=True)]
    worst = sorted((pair for pair in pairs if pair["ours"] < 1), key=lambda pair: pair["ours"])
    changed = sorted((pair for pair in pairs if pair["change"]), key=lambda pair: -abs(pair["change"]))
    return worst[:SHOWN], changed[:SHOWN]


def _pair(base: Row, ours: Row, metric: str) -> dict[str, Any]:
    before, after = main_score(base, metric), main_score(ours, metric)
    return {
        "turn_id": ours["turn_id"],
        "question": "\n".join(str(message.get("content")) for message in ours["question"]),
        "expected": canonical(ours["reference"]),
        "base": base["text"],
        "adapter": ours["text"],
        "ours": after,
        "theirs": before,
        "change": after - before,
    }
