"""The gate before the champion: an adapter, a fixed prompt, or both are promoted only if the report proves them better.

`decide` is a pure function of a report (`report.json`), a rule, and how many adapters were judged on these rows before.
A report has two parts of held-out sessions: by the judged part systems are compared, trials of ranks and all else that
somebody tunes; the fresh part has a single use, the final look of this gate at who is ahead.
Its caller, the `champion` asset, acts on it. Nothing that depends on how busy the machine was decides: size is counted
in megabytes, answers that never end are counted, and the measured pace is only shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from grokora_pipeline.evaluation.significance import sessions_needed, spent_alpha

Report = Mapping[str, Any]
FIXED_PROMPTS = ("instructed", "few_shot")  # systems of a report that can be put in service without an adapter
WITH_PROMPT = "adapter_few_shot"  # the adapter with a fixed prompt before its questions
CANDIDATES = (*FIXED_PROMPTS, "adapter", WITH_PROMPT)  # all that can be put in service, from cheap to dear


class GateRule(BaseModel):
    """What a promotion takes. Ratios compare with the base model (1.0 = as good), margins are in the metric's unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(default=0.05, gt=0, lt=1, description="Chance of a false promotion, over all looks together.")
    general_perplexity_ratio: float = Field(default=1.5, ge=1, description="On the frozen general-text probe.")
    no_call_margin: float = Field(default=0.05, ge=0, description="Share of rows with a call too many.")
    finished_margin: float = Field(default=0.1, ge=0, description="Share of answers that never end.")
    adapter_megabytes: float = Field(default=1024.0, gt=0)
    exposure_bits: float = Field(default=8.0, gt=0, description="More counts as memorised; by chance, 1 in 256 is.")


class Condition(BaseModel):
    """One condition of the rule: whether it holds, and the sentence that says so."""

    name: str
    passed: bool
    sentence: str


class Decision(BaseModel):
    """Whether to promote, why in one sentence, every piece of evidence, and the rule and versions it rests on.

    `system` is what is promoted: the adapter, the fixed prompt of that name in the report, or both together.
    """

    promote: bool
    system: str = "adapter"
    reason: str
    evidence: list[Condition]
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

    Of the systems for which all evidence speaks, the cheapest is promoted to which no dearer one of them is superior
    beyond noise: a fixed prompt costs no training, and an adapter alone no tokens of a prompt.
    """
    rule = rule or GateRule()
    candidates = (report.get("ladder") or {}).get("candidates", {})
    versions, prompts = dict(report.get("versions", {})), report.get("prompts", {})
    proofs = {
        system: list(
            _evidence(report, rule, system, adapter=adapter, champion=champion, checks=checks or {}, look=look)
        )
        for system in CANDIDATES
        # a prompt that is in service already is no challenger to itself
        if system == "adapter" or (system in candidates and prompts.get(system) not in (None, champion))
    }
    proven = [system for system, evidence in proofs.items() if all(item.passed for item in evidence)]
    for index, system in enumerate(proven):
        leads = {other: candidates.get(system, {}).get(f"{other}_lead") for other in proven[index + 1 :]}
        if all(as_good(lead, rule.alpha) for lead in leads.values()):
            beside = [
                Condition(
                    name=f"as_good_as_{other}",
                    passed=True,
                    sentence=f"the {other.replace('_', '-')} is {lead['value']:+z.3f} from it (interval "
                    f"{lead['low']:+z.3f} to {lead['high']:+z.3f}, p = {lead['p_value']:.2g}; differences under "
                    f"{lead['detectable']:.2g} cannot be seen).",
                )
                for other, lead in leads.items()
                if lead
            ]
            reason = _reason(system, proofs[system], beside)
            evidence = [*proofs[system], *beside]
            return Decision(promote=True, system=system, reason=reason, evidence=evidence, rule=rule, versions=versions)
    failed = next(item for item in proofs["adapter"] if not item.passed)
    reason = f"Not promoted: {failed.sentence}"
    return Decision(promote=False, reason=reason, evidence=proofs["adapter"], rule=rule, versions=versions)


def _reason(system: str, evidence: Sequence[Condition], beside: Sequence[Condition]) -> str:
    sentences = {item.name: item.sentence for item in evidence}
    figures = sentences["better_than_base"]
    if fresh := sentences.get("ahead_of_base_on_fresh_rows"):
        figures = f"{figures[:-1]}; {fresh}"
    if constant := sentences.get("one_answer"):
        figures += f" Mind that {constant}"
    if system == "adapter":
        return f"Promoted: {figures}"
    label = system.replace("_", "-")
    if system == WITH_PROMPT:
        return f"Promoted, the adapter with a prompt before it ({label}): {figures}"
    also = f" The prompt takes no training, and {beside[0].sentence}" if beside else ""
    return f"Promoted, a prompt instead of an adapter ({label}): {figures}{also}"


def _evidence(
    report: Report,
    rule: GateRule,
    system: str,
    *,
    adapter: str | None,
    champion: str | None,
    checks: Mapping[str, bool],
    look: int,
) -> Iterator[Condition]:
    yield from _current(report, adapter, champion)
    trained = system not in FIXED_PROMPTS
    if trained:
        leaked = report["leaked_rows"]["adapter"]
        text = "no validation row was trained on." if not leaked else f"{leaked} validation rows were trained on."
        yield Condition(name="no_leak", passed=leaked == 0, sentence=text)
    for name, passed in checks.items():
        text = f"the check {name} {'holds' if passed else 'fails'}."
        yield Condition(name=f"check:{name}", passed=passed, sentence=text)
    others = ["base", *(["champion"] if "adapter_vs_champion" in report["comparisons"] else [])]
    yield from (_better(report, rule, look, other, system) for other in others)
    if report.get("fresh"):
        yield from (_ahead(report["fresh"], other, system) for other in others)
    if trained:
        yield from _of_weights(report, rule)
    yield from _margins(report, rule, system)
    if report["systems"][system].get("one_answer"):  # its score is what it is: said, and never a reason
        text = f"it gives one and the same answer to all {report['rows']} rows."
        yield Condition(name="one_answer", passed=True, sentence=text)
    if trained and (memory := report.get("memorisation")):
        worst, leaked, allowed = memory["max_exposure_bits"], memory["leaked_in_answers"], rule.exposure_bits
        text = f"canaries: exposure at most {worst:.1f} bits (allowed: {allowed:g}), {leaked} came out in answers."
        yield Condition(name="memorisation", passed=worst <= allowed and not leaked, sentence=text)


def _current(report: Report, adapter: str | None, champion: str | None) -> Iterator[Condition]:
    if adapter is None:
        return
    versions = report.get("versions", {})
    if champion == adapter:
        yield Condition(name="new", passed=False, sentence="this adapter is the champion already.")
    elif adapter != versions.get("adapter"):
        text = f"the report is about adapter {versions.get('adapter')}, not {adapter}; materialize eval_report again."
        yield Condition(name="same_adapter", passed=False, sentence=text)
    elif champion != versions.get("champion"):
        text = f"the report compares with champion {versions.get('champion')}, not {champion}; materialize it again."
        yield Condition(name="same_champion", passed=False, sentence=text)


def _better(report: Report, rule: GateRule, look: int, other: str, system: str = "adapter") -> Condition:
    """Whether a system is better than the base or the champion on the main metric, beyond noise.

    The interval and the p-value of a comparison come from one method, so p <= alpha says what the interval at
    1 - alpha says; if a prompt could be promoted as well, p counts that the luckier of them is looked at. Both take
    differences for symmetric, so a mean's lead must also hold if they are not (`unseen_p_value`); of a metric that is
    no mean, such as BLEU, the sentence says that this is not tested. A champion gives way to a better one only: "not
    worse by much", thirty times in a row, is much worse.
    """
    metric, name = report["main_metric"], f"better_than_{other}"
    candidates = (report.get("ladder") or {}).get("candidates", {})
    entry = candidates.get(system, {}).get(other)
    if system == "adapter":
        shown = report["comparisons"][f"adapter_vs_{other}"].get(metric)
        # reports of before the ladder have no p that counts the other candidates
        entry = {"p_family": shown["p_value"], **(entry or {}), **shown} if shown else None
    if entry is None:
        return Condition(name=name, passed=False, sentence=f"{metric} applies to none of the rows.")
    # A system that is no better is ahead on the fresh rows at most every second time, independently of these rows, so
    # the look spends no more of alpha if these rows are asked half as much.
    spent = spent_alpha(rule.alpha, look)
    allowed = spent * (2 if report.get("fresh") else 1)
    p_value = entry["p_family"]
    # those on whose rows the metric says something, if the report tells them
    known = [count for count in (entry.get("sessions"), report.get("sessions")) if count is not None]
    needed, sessions = sessions_needed(allowed), min(known, default=None)
    if sessions is not None and sessions < needed:
        text = f"it needs {needed} sessions with held-out rows to be told from the {other}, and there are {sessions}."
        return Condition(name=name, passed=False, sentence=text)
    value, low, high = entry["value"], entry["low"], entry["high"]
    if not entry["higher_is_better"]:
        value, low, high = -value, -high, -low
    tried = max(1, sum(other in against for against in candidates.values()))
    # Bonferroni: any of the candidates may be promoted. Being ahead on the fresh rows as well, which halves the chance
    # of each, pays for two of them.
    p_unseen, allowed_unseen = entry.get("p_unseen"), min(spent, allowed / tried)
    proven = value > 0 and p_value <= allowed
    passed = proven and (p_unseen is None or p_unseen <= allowed_unseen)
    ours, theirs = (report["systems"].get(one, {}).get("metrics", {}).get(metric) for one in (system, other))
    figures = f" {ours['value']:.3f} against the {other}'s {theirs['value']:.3f}" if ours and theirs else ""
    # the interval is that of the difference alone, so its own p stands beside it
    family = f", {p_value:.2g} as one of {tried} candidates" if f"{p_value:.2g}" != f"{entry['p_value']:.2g}" else ""
    text = (
        f"{metric} is{figures} on {report['rows']} rows (better than the {other} by {value:+z.3f}, "
        f"interval {low:+z.3f} to {high:+z.3f}, p = {entry['p_value']:.2g}{family}, "
        f"allowed at look {look}: {allowed:.2g})"
    )
    if proven and "p_unseen" in entry and (p_unseen is None or not passed):  # reports of before have none
        figures = "not tested" if p_unseen is None else f"p = {p_unseen:.2g}, allowed: {allowed_unseen:.2g}"
        text += f"; sessions that it ruins may be missing among these {sessions} by chance ({figures})"
    tail = "." if passed else f"; differences under {entry['detectable']:.2g} cannot be seen with these rows."
    return Condition(name=name, passed=passed, sentence=text + tail)


def _ahead(fresh: Mapping[str, Any], other: str, system: str) -> Condition:
    """Whether a system is ahead of the base or the champion on rows by which neither was chosen."""
    name, entry = f"ahead_of_{other}_on_fresh_rows", fresh["candidates"].get(system, {}).get(other)
    if entry is None:
        text = f"it was not compared with the {other} on fresh rows; materialize eval_report again."
        return Condition(name=name, passed=False, sentence=text)
    ahead = (entry["value"] if entry["higher_is_better"] else -entry["value"]) > 0
    ours, theirs = (fresh["systems"][one]["value"] for one in (system, other))
    text = (
        f"on {fresh['rows']} fresh rows of {fresh['sessions']} sessions, by which nothing was chosen, it is "
        f"{'ahead' if ahead else 'not ahead'}: {ours:.3f} against the {other}'s {theirs:.3f}."
    )
    return Condition(name=name, passed=ahead, sentence=text)


def _of_weights(report: Report, rule: GateRule) -> Iterator[Condition]:
    """What the adapter's weights cost: general language unlearnt, seconds a token, megabytes."""
    probe = report.get("probe") or {}
    if "adapter" in probe and "base" in probe:
        ours, base, allowed = probe["adapter"]["value"], probe["base"]["value"], rule.general_perplexity_ratio
        text = f"perplexity on general text is {ours:.3g} against the base's {base:.3g} (allowed: x {allowed:g})."
        yield Condition(name="general_perplexity", passed=ours <= base * allowed, sentence=text)
    if pace := report.get("pace"):  # of one moment on one machine: shown, and never a reason
        text = f"a token took {pace['adapter']:.3g} s, the base's {pace['base']:.3g} s, when this was measured."
        yield Condition(name="pace", passed=True, sentence=text)
    size = report.get("adapter_megabytes")
    if size is not None:
        text = f"the adapter has {size:.1f} MB (allowed: {rule.adapter_megabytes:g})."
        yield Condition(name="adapter_size", passed=size <= rule.adapter_megabytes, sentence=text)


def _margins(report: Report, rule: GateRule, system: str) -> Iterator[Condition]:
    """What must not become much worse than it is with the base."""
    ours, base = (report["systems"][name]["metrics"] for name in (system, "base"))
    for name, does, margin in (
        ("no_call", "calls where no call is due", rule.no_call_margin),
        ("finished", "is cut at the limit of its answer", rule.finished_margin),
    ):
        if name in ours and name in base:
            share, bases = (1 - metrics[name]["value"] for metrics in (ours, base))
            text = f"it {does} in {share:.0%} of the rows, the base in {bases:.0%} (allowed: {margin:.0%} more)."
            yield Condition(name=name, passed=share - bases <= margin, sentence=text)


def as_good(behind: Mapping[str, Any] | None, alpha: float) -> bool:
    """Whether a rung with this difference to another one is not worse than it beyond noise; None is no difference."""
    if behind is None:
        return True
    lead = behind["value"] if behind["higher_is_better"] else -behind["value"]
    return bool(lead <= 0 or behind["p_value"] > alpha)
