"""The gate before the champion: an adapter is promoted only where the report proves that it is better.

`decide` is a pure function of a report (`report.json`) and a rule. Its caller, the `champion` asset, acts on it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Report = Mapping[str, Any]


class GateRule(BaseModel):
    """What a promotion takes. Ratios compare with the base model (1.0 = as good), margins are in the metric's unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(default=0.05, gt=0, lt=1, description="Level of the permutation test; 5 % by default.")
    champion_margin: float = Field(default=0.02, ge=0, description="How much worse than the champion it could be.")
    general_perplexity_ratio: float = Field(default=1.5, ge=1, description="On the frozen general-text probe.")
    no_call_margin: float = Field(default=0.05, ge=0, description="Share of rows with a call too many.")
    finished_margin: float = Field(default=0.1, ge=0, description="Share of answers that never end.")
    seconds_per_token_ratio: float = Field(default=3.0, ge=1)
    adapter_megabytes: float = Field(default=1024.0, gt=0)
    exposure_bits: float = Field(default=8.0, gt=0, description="More counts as memorised; by chance, 1 in 256 is.")


class Evidence(BaseModel):
    """One condition of the rule: whether it holds, and the sentence that says so."""

    name: str
    passed: bool
    sentence: str


class Decision(BaseModel):
    """Whether to promote, why in one sentence, every piece of evidence, and the rule and versions it rests on."""

    promote: bool
    reason: str
    evidence: list[Evidence]
    rule: GateRule
    versions: dict[str, Any] = {}


def decide(
    report: Report,
    rule: GateRule | None = None,
    *,
    adapter: str | None = None,
    champion: str | None = None,
    checks: Mapping[str, bool] | None = None,
) -> Decision:
    """Judge a report.

    `adapter` and `champion` are the versions in the store now, where the caller knows them: a report about others
    proves nothing. `checks` are the blocking checks of the adapter's chain by name; one that failed keeps it out.
    """
    rule = rule or GateRule()
    evidence = [*_current(report, adapter, champion), *_evidence(report, rule, checks or {})]
    failed = [item for item in evidence if not item.passed]
    if failed:
        reason = f"Not promoted: {failed[0].sentence}"
    else:
        better = next(item for item in evidence if item.name == "better_than_base")
        reason = f"Promoted: {better.sentence}"
    versions = dict(report.get("versions", {}))
    return Decision(promote=not failed, reason=reason, evidence=evidence, rule=rule, versions=versions)


def _evidence(report: Report, rule: GateRule, checks: Mapping[str, bool]) -> Iterator[Evidence]:
    yield _leaks(report)
    for name, passed in checks.items():
        yield Evidence(
            name=f"check:{name}", passed=passed, sentence=f"the check {name} {'holds' if passed else 'fails'}."
        )
    yield _better_than_base(report, rule)
    if "adapter_vs_champion" in report["comparisons"]:
        yield _against_champion(report, rule)
    yield from _side_metrics(report, rule)


def _current(report: Report, adapter: str | None, champion: str | None) -> Iterator[Evidence]:
    if adapter is None:
        return
    versions = report.get("versions", {})
    if champion == adapter:
        yield Evidence(name="new", passed=False, sentence="this adapter is the champion already.")
    elif adapter != versions.get("adapter"):
        text = f"the report is about adapter {versions.get('adapter')}, not {adapter}; materialize eval_report again."
        yield Evidence(name="same_adapter", passed=False, sentence=text)
    elif champion != versions.get("champion"):
        text = f"the report compares with champion {versions.get('champion')}, not {champion}; materialize it again."
        yield Evidence(name="same_champion", passed=False, sentence=text)


def _leaks(report: Report) -> Evidence:
    leaked = report["leaked_rows"]["adapter"]
    text = "no validation row was trained on." if not leaked else f"{leaked} validation rows were trained on."
    return Evidence(name="no_leak", passed=leaked == 0, sentence=text)


def _oriented(report: Report, comparison: str) -> tuple[float, float, float, float]:
    """(difference, low, high, p) of the main metric, turned so that more is better."""
    entry = report["comparisons"][comparison][report["main_metric"]]
    value, low, high = entry["value"], entry["low"], entry["high"]
    if not entry["higher_is_better"]:
        value, low, high = -value, -high, -low
    return value, low, high, entry["p_value"]


def _better_than_base(report: Report, rule: GateRule) -> Evidence:
    metric = report["main_metric"]
    if metric not in report["comparisons"]["adapter_vs_base"]:
        return Evidence(name="better_than_base", passed=False, sentence=f"{metric} applies to none of the rows.")
    value, low, high, p_value = _oriented(report, "adapter_vs_base")
    ours, base = (report["systems"][name]["metrics"][metric]["value"] for name in ("adapter", "base"))
    passed = low > 0 and p_value <= rule.alpha
    text = (
        f"{metric} is {ours:.3f} against the base's {base:.3f} on {report['rows']} rows "
        f"(better by {value:+.3f}, interval {low:+.3f} to {high:+.3f}, p = {p_value:.2g})"
    )
    detectable = report["comparisons"]["adapter_vs_base"][metric]["detectable"]
    tail = "." if passed else f"; differences under {detectable:.2g} cannot be seen with these rows."
    return Evidence(name="better_than_base", passed=passed, sentence=text + tail)


def _against_champion(report: Report, rule: GateRule) -> Evidence:
    value, low, _, _ = _oriented(report, "adapter_vs_champion")
    passed = value > 0 and low > -rule.champion_margin
    verdict = "better than" if value > 0 else "no better than"
    text = (
        f"it is {verdict} the champion by {value:+.3f} on {report['main_metric']}, and could be worse by "
        f"{max(0.0, -low):.3f} (allowed: {rule.champion_margin:g})."
    )
    return Evidence(name="against_champion", passed=passed, sentence=text)


def _side_metrics(report: Report, rule: GateRule) -> Iterator[Evidence]:
    probe = report.get("probe") or {}
    if "adapter" in probe and "base" in probe:
        yield _ratio(
            "general_perplexity",
            "perplexity on general text",
            probe["adapter"]["value"],
            probe["base"]["value"],
            rule.general_perplexity_ratio,
        )
    ours, base = (report["systems"][name]["metrics"] for name in ("adapter", "base"))
    if pace := report.get("pace"):
        yield _ratio("seconds_per_token", "time per token", pace["adapter"], pace["base"], rule.seconds_per_token_ratio)
    for name, does, margin in (
        ("no_call", "calls where no call is due", rule.no_call_margin),
        ("finished", "is cut at the limit of its answer", rule.finished_margin),
    ):
        if name in ours and name in base:
            share, bases = (1 - metrics[name]["value"] for metrics in (ours, base))
            text = f"it {does} in {share:.0%} of the rows, the base in {bases:.0%} (allowed: {margin:.0%} more)."
            yield Evidence(name=name, passed=share - bases <= margin, sentence=text)
    size = report.get("adapter_megabytes")
    if size is not None:
        text = f"the adapter has {size:.1f} MB (allowed: {rule.adapter_megabytes:g})."
        yield Evidence(name="adapter_size", passed=size <= rule.adapter_megabytes, sentence=text)
    if memory := report.get("memorisation"):
        yield _memorised(memory, rule)


def _ratio(name: str, what: str, ours: float, base: float, allowed: float) -> Evidence:
    text = f"{what} is {ours:.3g} against the base's {base:.3g} (allowed: x {allowed:g})."
    return Evidence(name=name, passed=ours <= base * allowed, sentence=text)


def _memorised(memory: Mapping[str, Any], rule: GateRule) -> Evidence:
    worst = memory["max_exposure_bits"]
    leaked = memory["leaked_in_answers"]
    text = (
        f"canaries: exposure at most {worst:.1f} bits (allowed: {rule.exposure_bits:g}), {leaked} came out in answers."
    )
    return Evidence(name="memorisation", passed=worst <= rule.exposure_bits and not leaked, sentence=text)
