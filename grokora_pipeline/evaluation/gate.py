"""The gate before the champion: an adapter or a fixed prompt is promoted only if the report proves that it is better.

`decide` is a pure function of a report (`report.json`), a rule, and how many adapters were judged on these rows before.
Its caller, the `champion` asset, acts on it. Nothing that depends on how busy the machine was decides: size is counted
in megabytes, answers that never end are counted, and the measured pace is only shown.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from grokora_pipeline.evaluation.significance import sessions_needed, spent_alpha

Report = Mapping[str, Any]
FIXED_PROMPTS = ("instructed", "few_shot")  # systems of a report that can be put in service without an adapter


class GateRule(BaseModel):
    """What a promotion takes. Ratios compare with the base model (1.0 = as good), margins are in the metric's unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(default=0.05, gt=0, lt=1, description="Chance of a false promotion, over all looks together.")
    general_perplexity_ratio: float = Field(default=1.5, ge=1, description="On the frozen general-text probe.")
    no_call_margin: float = Field(default=0.05, ge=0, description="Share of rows with a call too many.")
    finished_margin: float = Field(default=0.1, ge=0, description="Share of answers that never end.")
    adapter_megabytes: float = Field(default=1024.0, gt=0)
    exposure_bits: float = Field(default=8.0, gt=0, description="More counts as memorised; by chance, 1 in 256 is.")


class Evidence(BaseModel):
    """One condition of the rule: whether it holds, and the sentence that says so."""

    name: str
    passed: bool
    sentence: str


class Decision(BaseModel):
    """Whether to promote, why in one sentence, every piece of evidence, and the rule and versions it rests on.

    `system` is what is promoted: the adapter, or the fixed prompt of that name in the report.
    """

    promote: bool
    system: str = "adapter"
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
    look: int = 1,
) -> Decision:
    """Judge a report.

    `adapter` and `champion` are the versions in the store now, if the caller knows them: a report about others proves
    nothing. `checks` are the blocking checks of the adapter's chain by name; one that failed keeps it out. `look` says
    that this is the n-th adapter judged for this agent: every look spends a part of alpha, so that thirty nights
    together promote a worthless adapter no more often than one night may.

    A fixed prompt that is proven, too, is promoted in the adapter's place if the adapter is not better than it beyond
    noise, or is kept out: it costs no training and changes with the next line of text.
    """
    rule = rule or GateRule()
    evidence = [*_current(report, adapter, champion), *_evidence(report, rule, checks or {}, look)]
    failed = [item for item in evidence if not item.passed]
    if prompt := _proven_prompt(report, rule, champion, checks or {}, look, adapter_proven=not failed):
        return prompt
    if failed:
        reason = f"Not promoted: {failed[0].sentence}"
    else:
        better = next(item for item in evidence if item.name == "better_than_base")
        reason = f"Promoted: {better.sentence}"
    versions = dict(report.get("versions", {}))
    return Decision(promote=not failed, reason=reason, evidence=evidence, rule=rule, versions=versions)


def _evidence(report: Report, rule: GateRule, checks: Mapping[str, bool], look: int) -> Iterator[Evidence]:
    leaked = report["leaked_rows"]["adapter"]
    text = "no validation row was trained on." if not leaked else f"{leaked} validation rows were trained on."
    yield Evidence(name="no_leak", passed=leaked == 0, sentence=text)
    yield from _checked(checks)
    yield _better(report, rule, look, "base")
    if "adapter_vs_champion" in report["comparisons"]:
        yield _better(report, rule, look, "champion")
    yield from _side_metrics(report, rule)


def _checked(checks: Mapping[str, bool]) -> Iterator[Evidence]:
    for name, passed in checks.items():
        text = f"the check {name} {'holds' if passed else 'fails'}."
        yield Evidence(name=f"check:{name}", passed=passed, sentence=text)


def _proven_prompt(
    report: Report,
    rule: GateRule,
    champion: str | None,
    checks: Mapping[str, bool],
    look: int,
    *,
    adapter_proven: bool,
) -> Decision | None:
    """The decision for the cheapest fixed prompt that all evidence speaks for; None if there is no such prompt."""
    versions = report.get("versions", {})
    if champion != versions.get("champion") or champion in report.get("prompts", {}).values():
        return None
    for system, comparisons in (report.get("ladder") or {}).get("candidates", {}).items():
        if system not in FIXED_PROMPTS:
            continue
        others = [other for other in ("base", "champion") if other in comparisons]
        evidence = [*_checked(checks), *(_better(report, rule, look, other, system) for other in others)]
        evidence += _margins(report, rule, system)
        lead = comparisons.get("adapter_lead")
        if adapter_proven and lead:
            text = f"the adapter is {lead['value']:+.3f} from it (interval {lead['low']:+.3f} to {lead['high']:+.3f}, "
            text += f"p = {lead['p_value']:.2g}; differences under {lead['detectable']:.2g} cannot be seen)."
            evidence.append(Evidence(name="as_good_as_adapter", passed=as_good(lead, rule.alpha), sentence=text))
        if all(item.passed for item in evidence):
            better = next(item for item in evidence if item.name == "better_than_base")
            beside = f" The prompt takes no training, and {evidence[-1].sentence}" if adapter_proven and lead else ""
            reason = f"Promoted, a prompt instead of an adapter ({system.replace('_', '-')}): {better.sentence}{beside}"
            return Decision(
                promote=True, system=system, reason=reason, evidence=evidence, rule=rule, versions=dict(versions)
            )
    return None


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


def _better(report: Report, rule: GateRule, look: int, other: str, system: str = "adapter") -> Evidence:
    """Whether a system is better than the base or the champion on the main metric, beyond noise.

    The interval and the p-value of a comparison come from one method, so p <= alpha says what the interval at
    1 - alpha says; if a prompt could be promoted as well, p counts that the luckier of them is looked at. A champion
    gives way to a better one only: "not worse by much", thirty times in a row, is much worse.
    """
    metric, name = report["main_metric"], f"better_than_{other}"
    candidates = (report.get("ladder") or {}).get("candidates", {})
    entry = candidates.get(system, {}).get(other)
    if system == "adapter":
        shown = report["comparisons"][f"adapter_vs_{other}"].get(metric)
        entry = {**shown, "p_family": (entry or {}).get("p_family", shown["p_value"])} if shown else None
    if entry is None:
        return Evidence(name=name, passed=False, sentence=f"{metric} applies to none of the rows.")
    allowed, p_value = spent_alpha(rule.alpha, look), entry["p_family"]
    needed, sessions = sessions_needed(allowed), report.get("sessions")
    if sessions is not None and sessions < needed:
        text = f"it needs {needed} sessions with held-out rows to be told from the {other}, and there are {sessions}."
        return Evidence(name=name, passed=False, sentence=text)
    value, low, high = entry["value"], entry["low"], entry["high"]
    if not entry["higher_is_better"]:
        value, low, high = -value, -high, -low
    passed = value > 0 and p_value <= allowed
    ours, theirs = (report["systems"].get(one, {}).get("metrics", {}).get(metric) for one in (system, other))
    figures = f" {ours['value']:.3f} against the {other}'s {theirs['value']:.3f}" if ours and theirs else ""
    text = (
        f"{metric} is{figures} on {report['rows']} rows (better than the {other} by {value:+.3f}, "
        f"interval {low:+.3f} to {high:+.3f}, p = {p_value:.2g}, allowed at look {look}: {allowed:.2g})"
    )
    tail = "." if passed else f"; differences under {entry['detectable']:.2g} cannot be seen with these rows."
    return Evidence(name=name, passed=passed, sentence=text + tail)


def _side_metrics(report: Report, rule: GateRule) -> Iterator[Evidence]:
    probe = report.get("probe") or {}
    if "adapter" in probe and "base" in probe:
        ours, base, allowed = probe["adapter"]["value"], probe["base"]["value"], rule.general_perplexity_ratio
        text = f"perplexity on general text is {ours:.3g} against the base's {base:.3g} (allowed: x {allowed:g})."
        yield Evidence(name="general_perplexity", passed=ours <= base * allowed, sentence=text)
    if pace := report.get("pace"):  # of one moment on one machine: shown, and never a reason
        text = f"a token took {pace['adapter']:.3g} s, the base's {pace['base']:.3g} s, when this was measured."
        yield Evidence(name="pace", passed=True, sentence=text)
    yield from _margins(report, rule, "adapter")
    size = report.get("adapter_megabytes")
    if size is not None:
        text = f"the adapter has {size:.1f} MB (allowed: {rule.adapter_megabytes:g})."
        yield Evidence(name="adapter_size", passed=size <= rule.adapter_megabytes, sentence=text)
    if memory := report.get("memorisation"):
        yield _memorised(memory, rule)


def _margins(report: Report, rule: GateRule, system: str) -> Iterator[Evidence]:
    """What must not become much worse than it is with the base."""
    ours, base = (report["systems"][name]["metrics"] for name in (system, "base"))
    for name, does, margin in (
        ("no_call", "calls where no call is due", rule.no_call_margin),
        ("finished", "is cut at the limit of its answer", rule.finished_margin),
    ):
        if name in ours and name in base:
            share, bases = (1 - metrics[name]["value"] for metrics in (ours, base))
            text = f"it {does} in {share:.0%} of the rows, the base in {bases:.0%} (allowed: {margin:.0%} more)."
            yield Evidence(name=name, passed=share - bases <= margin, sentence=text)


def _memorised(memory: Mapping[str, Any], rule: GateRule) -> Evidence:
    worst = memory["max_exposure_bits"]
    leaked = memory["leaked_in_answers"]
    text = (
        f"canaries: exposure at most {worst:.1f} bits (allowed: {rule.exposure_bits:g}), {leaked} came out in answers."
    )
    return Evidence(name="memorisation", passed=worst <= rule.exposure_bits and not leaked, sentence=text)


def as_good(behind: Mapping[str, Any] | None, alpha: float) -> bool:
    """Whether a rung with this difference to another one is not worse than it beyond noise; None is no difference."""
    if behind is None:
        return True
    lead = behind["value"] if behind["higher_is_better"] else -behind["value"]
    return bool(lead <= 0 or behind["p_value"] > alpha)
