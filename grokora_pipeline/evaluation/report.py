"""The report as a page and as a table. The page holds everything itself; all log text in it is escaped."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import jinja2

from grokora_pipeline.evaluation.metrics import METRICS, call_error, tool_call_match
from grokora_pipeline.evaluation.metrics.tool_calls import ERROR_ORDER
from grokora_pipeline.evaluation.scoring import Prediction, all_right, as_answer, by_system, main_score
from grokora_pipeline.models.messages import calls_of, canonical, json_value

LABELS = {
    "base": "base",
    "instructed": "base + instruction",
    "few_shot": "base + few-shot",
    "retrieved": "base + retrieved examples",
    "adapter": "adapter",
    "adapter_few_shot": "adapter + few-shot",
    "champion": "champion",
}
SHOWN = 10
# What says something about an answer of each type; the figures of all metrics are in report.json.
_ALWAYS = ("finished", "answer_tokens", "perplexity")
_FIELDS = ("action_type", "argument_keys", "typed_text", "coordinates")
_METRICS = {
    "json": ("field_accuracy", "exact_match", "valid_json", "schema_valid", "verdict", *_FIELDS),
    "tool_call": ("tool_call_match", "no_call", "field_accuracy", *_FIELDS),
    "code": ("code_match", "code_parses", "exact_match"),
    "text": ("rougeL", "exact_match", "sacrebleu"),
}
_CUT = 1200  # characters of a text that are shown at once
_COMPARED = 4000  # characters of two texts that are compared word by word
_MOST_ALIKE = 100_000  # pairs of one word's places in two texts
_UNIT_RANGE = 1.0


def environment() -> jinja2.Environment:
    """The package's page templates, escaping everything they are given."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "pages")
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["number"] = number
    return pages


def number(value: float | None) -> str:
    """A figure with three significant digits, at most three of them behind the point if that says enough."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{round(value, 3):g}" if 0.001 <= abs(value) < 1 else f"{value:.3g}"


def metric_names(report: Mapping[str, Any]) -> list[str]:
    """The metrics of a report that say something for the agent's type of answer, the main one first.

    A metric that no system has, or that is 0 for all of them, is left out, unless it is the main one.
    """
    main, systems = report["main_metric"], report["systems"].values()
    entries = {
        name: [system["metrics"][name]["value"] for system in systems if name in system["metrics"]]
        for name in dict.fromkeys((main, *_METRICS[report.get("answer_type", "text")], *_ALWAYS))
    }
    return [name for name, values in entries.items() if values and (name == main or any(values))]


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


def write_html(path: Path, report: Mapping[str, Any], rows: Sequence[Prediction]) -> None:
    """Write the page."""
    metric, systems = report["main_metric"], report["systems"]
    worst, changed = _pairs(rows, metric)
    # the main metric of every system, in the ladder's order, with what an answer costs
    costs = {rung["system"]: rung for rung in (report.get("ladder") or {}).get("rungs", [])}
    scores = _chart([(name, run["metrics"].get(metric)) for name, run in systems.items()])
    ladder = [{**entry, "label": LABELS[entry["label"]], "cost": costs.get(entry["label"])} for entry in scores]
    # the main metric of earlier reports and of this one, oldest first
    past = [entry for entry in report.get("history", []) if entry.get("value") is not None]
    if now := systems["adapter"]["metrics"].get(metric):
        rank = report.get("training", {}).get("knobs", {}).get("rank")
        past.append({**now, "label": "this report", "rank": rank})
    seen = {kind for system in systems.values() for kind in system["errors"]}
    named = [{**entry, "label": f"rank {entry['rank']}"} for entry in past if entry.get("rank")]
    ranks = {entry["rank"]: entry for entry in [*named, *report.get("ranks", [])]}
    page = environment().get_template("report.html.jinja")
    path.write_text(
        page.render(
            report=report,
            labels=LABELS,
            main_chart=ladder,
            wrong=wrong_kinds(rows, metric),
            cut=_CUT,
            figures=[_figure(report, name) for name in metric_names(report)],
            error_kinds=[kind for kind in ("none", *ERROR_ORDER) if kind in seen],
            past=_chart([(entry["label"], entry) for entry in past]) if len(past) > 1 else [],
            ranks=_chart([(ranks[rank]["label"], ranks[rank]) for rank in sorted(ranks)]) if len(ranks) > 1 else [],
            exposure_top=number(math.log2((report.get("memorisation") or {}).get("candidates", 1))),
            curves=_curves(report.get("training", {}).get("history", [])),
            answers=[("Ten worst answers", worst), ("Ten most changed answers", changed)],
        ),
        encoding="utf-8",
        errors="replace",  # a model's JSON may escape half a surrogate pair
    )


def _bar(entry: Mapping[str, Any], top: float) -> dict[str, float]:
    """Value and interval in per cent of the scale's top."""
    return {key: 100 * max(0.0, entry[key]) / top for key in ("value", "low", "high") if key in entry}


def _chart(entries: Sequence[tuple[str, Mapping[str, Any] | None]]) -> list[dict[str, Any]]:
    """Entries to be drawn below each other on one scale, from 0 to 1 or to the highest of them."""
    top = max([_UNIT_RANGE] + [entry.get("high", entry["value"]) for _, entry in entries if entry])
    return [{**entry, "label": label, "bar": _bar(entry, top)} for label, entry in entries if entry]


def wrong_kinds(rows: Sequence[Prediction], metric: str) -> list[tuple[str, int]]:
    """What the adapter still gets wrong on the main metric: kinds of mistakes, and how many rows have each."""
    kinds: Counter[str] = Counter()
    for row in by_system(rows).get("adapter", []):
        if not all_right(main_score(row, metric), metric):
            kinds.update(set(_mistakes(row)))
    return kinds.most_common(SHOWN)


def _mistakes(row: Prediction) -> list[str]:
    """The kinds of mistakes in one wrong answer; of a JSON answer by field, else as one word."""
    answer = as_answer(row)
    if not row.get("finished", True):
        return ["never ends"]
    if tool_call_match(answer) is not None:
        called = ", ".join(call.name for call in calls_of(answer.reference)) or "no call"
        return [f"{(call_error(answer) or 'right call, other text').replace('_', ' ')} where {called} is due"]
    expected, actual = json_value(answer.reference), json_value(answer.prediction)
    if not isinstance(expected, dict):
        return ["nothing of it is right" if not main_score(row, "rougeL") else "other words"]
    if not isinstance(actual, dict):
        return ["is no JSON object"]
    missing = [f"lacks {name}" for name in expected if name not in actual]
    added = [f"adds {name}"[:80] for name in actual if name not in expected]
    other = [f"another {name}" for name in expected if name in actual and actual[name] != expected[name]]
    return [*missing, *added, *other]


def word_diff(expected: str, answer: str) -> list[tuple[str, str]]:
    """How to get from the expected text to the answer: runs of text that are `same`, `missing` or `added`.

    Of a long text the beginning alone, and of what repeats itself so often that every place is like every other one
    (endless answers do) the places are found by difflib's short cut: in full it takes minutes for such a text.
    """
    old, new = (re.findall(r"\w+|\s+|[^\w\s]", text[:_COMPARED]) for text in (expected, answer))
    often = max(Counter(new).values(), default=0) * max(Counter(old).values(), default=0) > _MOST_ALIKE
    runs: list[tuple[str, str]] = []
    for kind, start, end, first, last in SequenceMatcher(None, old, new, autojunk=often).get_opcodes():
        if kind == "equal":
            runs.append(("same", "".join(old[start:end])))
            continue
        both = (("missing", "".join(old[start:end])), ("added", "".join(new[first:last])))
        runs += [(name, text) for name, text in both if text]
    return runs


def _figure(report: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A metric's line: values, the difference to the base, and bars on one scale."""
    entries = {name: system["metrics"].get(metric) for name, system in report["systems"].items()}
    top = max([_UNIT_RANGE] + [entry["high"] for entry in entries.values() if entry])
    bars = {name: _bar(entry, top) for name, entry in entries.items() if entry}
    change = report["comparisons"].get("adapter_vs_base", {}).get(metric)
    return {"metric": metric, "entries": entries, "bars": bars, "change": change}


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Loss curves as SVG polylines in a box of 100 x 40, and the scales of its sides; no lines for too few points."""
    series = {name: [(row["step"], row[name]) for row in history if name in row] for name in ("loss", "eval_loss")}
    points = [point for line in series.values() for point in line]
    if len(points) < 2:
        return {"lines": []}
    last = max(step for step, _ in points) or 1
    low, high = min(value for _, value in points), max(value for _, value in points)
    scale = 38 / (high - low or 1.0)

    def draw(line: list[tuple[int, float]]) -> str:
        """The points of an SVG polyline, in a box of 100 x 40."""
        corners = line if len(line) > 1 else line * 2  # a single point is drawn as a dot
        return " ".join(f"{100 * step / last:.2f},{39 - (value - low) * scale:.2f}" for step, value in corners)

    names = {"loss": "training", "eval_loss": "validation"}
    lines = [
        {"name": names[name], "points": draw(line), "first": number(line[0][1]), "last": number(line[-1][1])}
        for name, line in series.items()
        if line
    ]
    return {"lines": lines, "low": low, "high": high, "steps": last}


def _pairs(rows: Sequence[Prediction], metric: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(worst, most changed) rows by the main metric, each with the expected answer and both systems' answers."""
    systems, sign = by_system(rows), 1 if METRICS[metric].higher_is_better else -1
    scored = [
        (main_score(base, metric), main_score(ours, metric), base, ours)
        for base, ours in zip(systems["base"], systems["adapter"], strict=True)
    ]
    worst = sorted((one for one in scored if not all_right(one[1], metric)), key=lambda one: sign * one[1])
    changed = sorted((one for one in scored if one[0] != one[1]), key=lambda one: -abs(one[1] - one[0]))
    return [_pair(*one) for one in worst[:SHOWN]], [_pair(*one) for one in changed[:SHOWN]]


def _pair(before: float, after: float, base: Prediction, ours: Prediction) -> dict[str, Any]:
    return {
        "turn_id": ours["turn_id"],
        "question": "\n".join(map(canonical, ours["question"])),
        "expected": canonical(ours["reference"]),
        "base": base["text"],
        "adapter": ours["text"],
        "diff": word_diff(canonical(ours["reference"]), canonical(ours["prediction"])),
        "ours": after,
        "theirs": before,
    }
