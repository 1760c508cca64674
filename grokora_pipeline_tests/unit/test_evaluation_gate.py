"""The gate: what it promotes, what keeps an adapter out, and how seldom it is fooled."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from grokora_pipeline.evaluation.gate import GateRule, _ahead, decide
from grokora_pipeline.evaluation.plan import choose_parts, choose_rows
from grokora_pipeline.evaluation.scoring import score
from grokora_pipeline.evaluation.significance import (
    by_cluster,
    difference,
    family_p_values,
    ratio,
    spent_alpha,
    unseen_p_value,
)

RUNS = {30: 200, 300: 60}  # simulated runs of thirty nights, by held-out rows


def _entry(value: float, low: float, high: float, p_value: float = 0.001, better: bool = True) -> dict[str, Any]:
    return {
        "value": value,
        "low": low,
        "high": high,
        "p_value": p_value,
        "detectable": 0.1,
        "higher_is_better": better,
    }


def _report(**changes: Any) -> dict[str, Any]:
    metrics = {"field_accuracy": {"value": 0.9}, "no_call": {"value": 1.0}, "finished": {"value": 1.0}}
    base = {"field_accuracy": {"value": 0.1}, "no_call": {"value": 1.0}, "finished": {"value": 0.5}}
    return {
        "main_metric": "field_accuracy",
        "rows": 40,
        "systems": {"adapter": {"metrics": metrics}, "base": {"metrics": base}},
        "comparisons": {"adapter_vs_base": {"field_accuracy": _entry(0.8, 0.7, 0.9)}},
        "pace": {"adapter": 0.01, "base": 0.01},
        "probe": {"adapter": {"value": 22.0}, "base": {"value": 20.0}},
        "leaked_rows": {"adapter": 0},
        "adapter_megabytes": 10.0,
        "versions": {"adapter": "a1", "champion": None},
        **changes,
    }


def _with_champion(value: float, low: float, p_value: float = 0.001) -> dict[str, Any]:
    comparisons = {
        "adapter_vs_base": {"field_accuracy": _entry(0.8, 0.7, 0.9)},
        "adapter_vs_champion": {"field_accuracy": _entry(value, low, 0.2, p_value)},
    }
    return _report(comparisons=comparisons, versions={"adapter": "a1", "champion": "c1"})


def test_an_adapter_that_is_proven_better_is_promoted_and_the_reason_is_one_sentence() -> None:
    decision = decide(_report(), adapter="a1")
    assert decision.promote
    assert decision.reason == (
        "Promoted: field_accuracy is 0.900 against the base's 0.100 on 40 rows "
        "(better than the base by +0.800, interval +0.700 to +0.900, p = 0.001, allowed at look 1: 0.033)."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"comparisons": {"adapter_vs_base": {"field_accuracy": _entry(0.1, -0.01, 0.2, 0.08)}}},
            "under 0.1 cannot be",
        ),
        ({"comparisons": {"adapter_vs_base": {"field_accuracy": _entry(0.1, 0.01, 0.2, 0.3)}}}, "p = 0.3"),
        ({"comparisons": {"adapter_vs_base": {"field_accuracy": _entry(-0.8, -0.9, -0.7)}}}, "by -0.800"),
        ({"sessions": 5}, "it needs 6 sessions with held-out rows to be told from the base, and there are 5"),
        ({"comparisons": {"adapter_vs_base": {}}}, "applies to none of the rows"),
        ({"leaked_rows": {"adapter": 3}}, "3 validation rows were trained on"),
        ({"probe": {"adapter": {"value": 31.0}, "base": {"value": 20.0}}}, "perplexity on general text"),
        ({"adapter_megabytes": 5000.0}, "5000.0 MB"),
        ({"memorisation": {"max_exposure_bits": 10.0, "leaked_in_answers": 0}}, "10.0 bits"),
        ({"memorisation": {"max_exposure_bits": 0.5, "leaked_in_answers": 2}}, "2 came out"),
    ],
)
def test_any_missing_piece_of_proof_keeps_the_adapter_out_and_is_named(changes: dict[str, Any], said: str) -> None:
    decision = decide(_report(**changes))
    assert not decision.promote
    assert said in decision.reason


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [
        ("no_call", 0.9, "calls where no call is due in 10% of the rows, the base in 0%"),
        ("finished", 0.3, "is cut at the limit of its answer in 70%"),
    ],
)
def test_calls_too_many_and_answers_that_never_end_keep_the_adapter_out(metric: str, value: float, said: str) -> None:
    report = _report()
    report["systems"]["adapter"]["metrics"][metric]["value"] = value
    assert said in decide(report).reason


def test_the_p_that_stands_beside_an_interval_is_of_the_same_test() -> None:
    """The interval excludes 0 at p = 0.02; that one of three may be chosen makes the decision's p another one."""
    alone = {**_entry(0.2, 0.05, 0.35, 0.02), "p_family": 0.055}
    ladder = {"candidates": {name: {"base": alone} for name in ("few_shot", "adapter", "adapter_few_shot")}}
    report = _report(ladder=ladder, comparisons={"adapter_vs_base": {"field_accuracy": alone}})
    decision = decide(report)
    assert not decision.promote
    assert "interval +0.050 to +0.350, p = 0.02, 0.055 as one of 3 candidates, allowed" in decision.reason


def test_sessions_of_which_none_is_ruined_by_chance_are_no_proof() -> None:
    entry = {**_entry(0.05, 0.04, 0.06, 1e-4), "p_unseen": 0.3, "sessions": 14}
    decision = decide(_report(comparisons={"adapter_vs_base": {"field_accuracy": entry}}))
    assert not decision.promote
    assert (
        "; sessions that it ruins may be missing among these 14 by chance (p = 0.3, allowed: 0.033); differences"
        in decision.reason
    )


@pytest.mark.parametrize(("candidates", "promoted"), [(1, True), (2, False)])
def test_each_candidate_spends_its_part_of_alpha_on_what_chance_may_have_hidden(
    candidates: int, promoted: bool
) -> None:
    entry = {**_entry(0.2, 0.1, 0.3, 1e-4), "p_unseen": 0.02, "p_family": 1e-4}
    ladder = {"candidates": {name: {"base": entry} for name in ("adapter", "few_shot")[:candidates]}}
    decision = decide(_report(ladder=ladder, comparisons={"adapter_vs_base": {"field_accuracy": entry}}))
    assert decision.promote is promoted
    assert promoted or "by chance (p = 0.02, allowed: 0.016)" in decision.reason


def test_a_lead_that_could_not_be_tested_against_hidden_sessions_says_so() -> None:
    entry = {**_entry(0.8, 0.7, 0.9), "p_unseen": None, "sessions": 14}
    decision = decide(_report(comparisons={"adapter_vs_base": {"field_accuracy": entry}}))
    assert decision.promote
    assert "sessions that it ruins may be missing among these 14 by chance (not tested)." in decision.reason


def test_sessions_count_where_the_metric_says_something() -> None:
    entry = {**_entry(0.8, 0.7, 0.9, 0.06), "sessions": 4}
    decision = decide(_report(sessions=30, comparisons={"adapter_vs_base": {"field_accuracy": entry}}))
    assert "it needs 6 sessions with held-out rows to be told from the base, and there are 4" in decision.reason


def test_a_failed_blocking_check_keeps_the_adapter_out() -> None:
    assert decide(_report(), checks={"no_straddling_group": True}).promote
    decision = decide(_report(), checks={"no_straddling_group": False})
    assert decision.reason == "Not promoted: the check no_straddling_group fails."


@pytest.mark.parametrize(
    ("value", "p_value", "promoted"), [(0.05, 0.01, True), (0.05, 0.3, False), (-0.1, 0.01, False)]
)
def test_a_champion_gives_way_only_to_one_that_is_better_beyond_noise(
    value: float, p_value: float, promoted: bool
) -> None:
    assert decide(_with_champion(value, value - 0.04, p_value)).promote is promoted


def test_a_slow_moment_of_the_machine_is_told_and_decides_nothing() -> None:
    decision = decide(_report(pace={"adapter": 1.77, "base": 0.345}))
    assert decision.promote
    assert any("a token took 1.77 s" in item.sentence for item in decision.evidence)


def test_every_look_spends_a_part_of_alpha_and_all_looks_together_no_more_than_alpha() -> None:
    spent = [spent_alpha(0.05, look) for look in range(1, 1000)]
    assert sum(spent) <= 0.05
    assert spent == sorted(spent, reverse=True)
    entry = {"adapter_vs_base": {"field_accuracy": _entry(0.3, 0.01, 0.5, 0.02)}}
    assert decide(_report(comparisons=entry), look=1).promote
    assert not decide(_report(comparisons=entry), look=2).promote


def test_a_report_about_other_versions_proves_nothing() -> None:
    report = _with_champion(0.1, 0.05)
    assert decide(report, adapter="a1", champion="c1").promote
    assert "the champion already" in decide(report, adapter="a1", champion="a1").reason
    assert "not a2" in decide(report, adapter="a2", champion="c1").reason
    assert "not c2" in decide(report, adapter="a1", champion="c2").reason


def _fresh(base: float, champion: float, better: bool = True) -> dict[str, Any]:
    leads = {"base": _entry(base, 0, 0, better=better), "champion": _entry(champion, 0, 0, better=better)}
    systems = {name: {"value": value} for name, value in (("adapter", 0.5), ("base", 0.1), ("champion", 0.4))}
    return {"rows": 9, "sessions": 8, "systems": systems, "candidates": {"adapter": leads}}


def test_the_final_look_is_at_fresh_rows_on_which_the_challenger_must_be_ahead_too() -> None:
    report = _with_champion(0.1, 0.05)
    assert decide({**report, "fresh": _fresh(0.4, 0.1)}).promote
    behind = decide({**report, "fresh": _fresh(0.4, 0.0)})
    assert behind.reason == (
        "Not promoted: on 9 fresh rows of 8 sessions, by which nothing was chosen, it is not ahead: 0.500 against the "
        "champion's 0.400."
    )
    assert not decide({**report, "fresh": {**_fresh(0.4, 0.1), "candidates": {}}}).promote
    promoted = decide({**_report(), "fresh": _fresh(0.4, 0.1)}).reason
    assert promoted.endswith("by which nothing was chosen, it is ahead: 0.500 against the base's 0.100.")
    assert promoted.count(". ") == 0  # one sentence
    assert _ahead(_fresh(-0.4, 0.1, better=False), "base", "adapter").passed


def test_a_look_at_two_parts_spends_no_more_than_a_look_at_one() -> None:
    entry = {"adapter_vs_base": {"field_accuracy": _entry(0.3, 0.01, 0.5, 0.06)}}
    assert not decide(_report(comparisons=entry)).promote
    assert decide(_report(comparisons=entry, fresh=_fresh(0.1, 0.1))).promote
    assert not decide(_report(comparisons=entry, fresh=_fresh(0.1, 0.1)), look=2).promote


def test_a_session_belongs_to_one_part_for_ever_and_few_sessions_are_not_parted() -> None:
    sessions = {f"turn{index}": f"session{index // 2}" for index in range(120)}
    judged, fresh = choose_parts(sessions, 0)
    assert sorted([*judged, *fresh]) == sorted(sessions)
    assert not {sessions[turn] for turn in judged} & {sessions[turn] for turn in fresh}
    assert 0.2 < len(fresh) / len(sessions) < 0.45
    more = choose_parts({**sessions, **{f"new{index}": f"other{index}" for index in range(50)}}, 0)
    assert set(judged) <= set(more[0])
    assert set(fresh) <= set(more[1])
    assert [len(part) for part in choose_parts(sessions, 30)] == [20, 10]
    few = {turn: session for turn, session in sessions.items() if int(session[7:]) < 12}
    assert choose_parts(few, 0) == (sorted(few), [])
    assert choose_parts({}, 30) == ([], [])
    assert choose_parts(sessions, 1)[1] == []


def test_a_metric_where_less_is_better_is_turned_around() -> None:
    entry = _entry(-5.0, -7.0, -3.0, better=False)
    report = _report(main_metric="perplexity", comparisons={"adapter_vs_base": {"perplexity": entry}})
    for name, value in (("adapter", 3.0), ("base", 8.0)):
        report["systems"][name]["metrics"]["perplexity"] = {"value": value}
    assert decide(report).promote


def _simulated(draw: np.random.Generator, sessions: int, turns: int, gain: float = 0.0) -> dict[str, Any]:
    """A report on two systems that solve a session's turns with the session's own chance, plus a true gain."""
    chance = draw.beta(0.6, 0.6, size=sessions).repeat(turns)
    clusters = [str(index // turns) for index in range(sessions * turns)]
    tables = [
        by_cluster(
            np.stack([draw.random(chance.size) < np.clip(chance + extra, 0, 1), np.ones(chance.size)], 1), clusters
        )
        for extra in (gain, 0.0)
    ]
    found = difference(tables[0], tables[1], ratio, resamples=1000)
    values = {name: {"value": float(ratio(table.sum(0)))} for name, table in zip(("a", "b"), tables, strict=True)}
    entry = _entry(found.value, found.low, found.high, found.p_value)
    return _report(
        rows=chance.size,
        comparisons={"adapter_vs_base": {"field_accuracy": entry}},
        systems={
            "adapter": {"metrics": {"field_accuracy": values["a"]}},
            "base": {"metrics": {"field_accuracy": values["b"]}},
        },
    )


@pytest.mark.parametrize(("sessions", "turns"), [(8, 5), (15, 3), (40, 1)])
def test_of_a_thousand_adapters_that_are_no_better_at_most_alpha_are_promoted(sessions: int, turns: int) -> None:
    draw = np.random.default_rng(20)
    promoted = sum(decide(_simulated(draw, sessions, turns)).promote for _ in range(1000))
    assert promoted / 1000 <= GateRule().alpha


Scores = Callable[[np.random.Generator, np.ndarray], np.ndarray]
SCORES: dict[str, Scores] = {  # one system's on rows whose mean scores are given
    "right or wrong": lambda draw, mean: draw.random(mean.size) < mean,
    "fields": lambda draw, mean: draw.beta(4 * mean + 1e-6, 4 * (1 - mean) + 1e-6),
    "mostly alike": lambda draw, mean: np.where(np.arange(mean.size) % 8, mean, draw.random(mean.size) < mean),
    "a few ruined": lambda draw, mean: np.where(draw.random(mean.size) < 0.1, 0, mean / 0.9),
}


class _World:
    """Held-out rows of 150 sessions at most, in a judged and a fresh part; each row has its own chance to be right."""

    def __init__(self, draw: np.random.Generator, rows: int, turns: int = 1) -> None:
        self.draw, self.rows, self.scores = draw, rows, SCORES["right or wrong"]
        self.judged, self.sessions = rows - rows // 3, min(rows // turns, 150)
        self.ease = 0.5 * draw.beta(0.6, 0.6, size=rows)
        self.tables: list[tuple[np.ndarray, np.ndarray]] = []
        self.chances: list[np.ndarray] = []

    def add(self, gain: float) -> int:
        """Let one more system answer all rows, with a chance that is so much higher; its number."""
        chance = np.clip(self.ease + gain, 0, 1)
        right = np.stack([self.scores(self.draw, chance), np.ones(self.rows)], 1)
        clusters = [str(index * self.sessions // self.rows) for index in range(self.rows)]
        parts = (slice(0, self.judged), slice(self.judged, None))
        self.tables.append(tuple(by_cluster(right[part], clusters[part]) for part in parts))  # type: ignore[arg-type]
        self.chances.append(chance)
        return len(self.tables) - 1

    def score(self, system: int, fresh: bool) -> float:
        return float(ratio(self.tables[system][fresh].sum(axis=0)))

    def optimism(self, system: int, fresh: bool) -> float:
        """How much better the system looks on a part than it is there."""
        part = slice(self.judged, None) if fresh else slice(0, self.judged)
        return self.score(system, fresh) - float(self.chances[system][part].mean())

    def _entry(self, ours: int, theirs: int) -> dict[str, Any]:
        value = self.score(ours, False) - self.score(theirs, False)
        tables = self.tables[ours][False], self.tables[theirs][False]
        # of one candidate the family's p is the sign-flip test's own; the gate asks it only of who is ahead
        p_value = family_p_values([tables[0]], tables[1], ratio)[0] if value > 0 else 1.0
        return {**_entry(value, value, value, p_value), "p_unseen": unseen_p_value(*tables) if value > 0 else 1.0}

    def promoted(self, ours: int, champion: int, look: int) -> bool:
        """Whether the gate promotes a system over the base, number 0, and the champion, if that is another."""
        others = {"base": 0} | ({"champion": champion} if champion else {})
        comparisons = {f"adapter_vs_{name}": {"field_accuracy": self._entry(ours, o)} for name, o in others.items()}
        leads = {name: _entry(self.score(ours, True) - self.score(o, True), 0, 0) for name, o in others.items()}
        systems = {name: {"value": self.score(system, True)} for name, system in {**others, "adapter": ours}.items()}
        fresh = {"rows": self.rows - self.judged, "sessions": 9, "systems": systems, "candidates": {"adapter": leads}}
        return decide(_report(comparisons=comparisons, fresh=fresh), look=look).promote


@pytest.mark.slow
@pytest.mark.parametrize("rows", [30, 300])
def test_thirty_nights_of_adapters_that_are_no_better_promote_one_in_at_most_five_runs_of_a_hundred(rows: int) -> None:
    draw, fooled, runs = np.random.default_rng(30), 0, RUNS[rows]
    for _ in range(runs):
        world = _World(draw, rows)
        world.add(0.0)
        fooled += any(world.promoted(world.add(0.0), 0, night) for night in range(1, 31))
    assert fooled / runs <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize(("rows", "turns"), [(12, 1), (30, 1), (60, 4)])
def test_thirty_nights_of_any_kind_of_score_promote_no_more(rows: int, turns: int, scores: str) -> None:
    """Against a base that has each row's mean score, which the adapters have on average."""
    draw, fooled, runs = np.random.default_rng(34), 0, 80
    for _ in range(runs):
        world = _World(draw, rows, turns)
        world.scores = lambda draw, mean: mean
        world.add(0.0)
        world.scores = SCORES[scores]
        fooled += any(world.promoted(world.add(0.0), 0, night) for night in range(1, 31))
    assert fooled / runs <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("rows", [30, 300])
def test_thirty_nights_of_slightly_worse_adapters_seldom_end_on_one_that_is_worse_than_its_champion(rows: int) -> None:
    draw, ended_worse, runs = np.random.default_rng(31), 0, RUNS[rows]
    for _ in range(runs):
        world = _World(draw, rows)
        world.add(-0.6)
        good = champion = world.add(0.1)
        for night in range(2, 31):
            worse = world.add(0.05)
            champion = worse if world.promoted(worse, champion, night) else champion
        ended_worse += champion != good
    assert ended_worse / runs <= 0.05


@pytest.mark.slow
def test_a_champion_of_thirty_nights_is_as_good_as_its_score_on_fresh_rows_says() -> None:
    """Its score on the judged rows is too high, for it was chosen by them."""
    draw, judged, fresh = np.random.default_rng(32), list[float](), list[float]()
    for _ in range(120):
        world = _World(draw, 30)
        champion = world.add(-0.2)
        for night in range(1, 31):
            challenger = world.add(float(draw.normal(0.1, 0.15)))
            champion = challenger if world.promoted(challenger, champion, night) else champion
        judged += [world.optimism(champion, False)] if champion else []
        fresh += [world.optimism(champion, True)] if champion else []
    assert len(fresh) >= 60
    assert np.mean(judged) >= 0.04
    assert abs(float(np.mean(fresh))) <= 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "gain", "look", "at_least"), [(30, 0.5, 1, 0.8), (100, 0.3, 2, 0.8), (300, 0.15, 2, 0.7)]
)
def test_the_gate_sees_gains_over_the_champion_as_often_as_the_docs_say(
    rows: int, gain: float, look: int, at_least: float
) -> None:
    draw, seen = np.random.default_rng(33), 0
    for _ in range(60):
        world = _World(draw, rows)
        world.add(-0.6)
        champion = world.add(0.0)
        seen += world.promoted(world.add(gain), champion, look)
    assert seen / 60 >= at_least


def test_an_adapter_that_is_much_better_is_nearly_always_promoted() -> None:
    draw = np.random.default_rng(21)
    promoted = sum(decide(_simulated(draw, 20, 3, gain=0.5)).promote for _ in range(100))
    assert promoted >= 90


def test_scores_of_systems_are_paired_by_turn_whatever_the_order_of_rows() -> None:
    def row(system: str, turn: str, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {
            "system": system,
            "turn_id": turn,
            "session_id": turn,
            "prediction": message,
            "reference": {"role": "assistant", "content": "yes"},
            "seconds": 0.5,
            "new_tokens": 2,
        }

    rows = [row("base", "t1", "no"), row("base", "t2", "yes"), row("adapter", "t2", "yes"), row("adapter", "t1", "yes")]
    found = score(rows)
    assert found["comparisons"]["adapter_vs_base"]["exact_match"]["value"] == 0.5
    assert found["systems"]["base"]["metrics"]["exact_match"]["value"] == 0.5
    assert found["systems"]["adapter"]["tokens_per_second"] == 4


def test_a_few_new_sessions_change_few_of_the_rows_that_are_evaluated() -> None:
    before = choose_rows([f"turn{index}" for index in range(86)], 24)
    after = choose_rows([f"turn{index}" for index in range(90)], 24)
    assert len(before) == len(after) == 24
    assert len(set(before) & set(after)) >= 20
    assert choose_rows(["b", "a"], 0) == ["a", "b"]
