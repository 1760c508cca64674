"""The gate: what it promotes, what keeps an adapter out, and how seldom it is fooled."""

from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from grokora_pipeline.evaluation.gate import GateRule, decide
from grokora_pipeline.evaluation.plan import choose_rows
from grokora_pipeline.evaluation.scoring import score
from grokora_pipeline.evaluation.significance import by_cluster, difference, ratio, spent_alpha


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


def _nights(draw: np.random.Generator, chances: list[np.ndarray], clusters: list[str]) -> tuple[int, bool]:
    """Thirty nights, an adapter each, all judged on the same rows: (promotions, whether the last champion is worse).

    `chances` are the true chances of each row to be right, of the base and then of every night's adapter.
    """
    answers = [draw.random(chance.size) < chance for chance in chances]
    tables = [by_cluster(np.stack([right, np.ones(right.size)], 1), clusters) for right in answers]
    champion, promotions = 0, 0
    for night in range(1, len(tables)):
        comparisons = {}
        for name, other in {"base": 0, "champion": champion}.items():
            found = difference(tables[night], tables[other], ratio)
            if name == "base" or champion:
                comparisons[f"adapter_vs_{name}"] = {"field_accuracy": _entry(*astuple(found)[:4])}
        if decide(_report(comparisons=comparisons), look=night).promote:
            champion, promotions = night, promotions + 1
    return promotions, bool(chances[champion].mean() < chances[0].mean() - 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [24, 200])
def test_thirty_nights_of_adapters_that_are_no_better_promote_one_in_at_most_five_runs_of_a_hundred(rows: int) -> None:
    draw = np.random.default_rng(30)
    clusters = [str(index // 2) for index in range(rows)]
    runs = [_nights(draw, [draw.beta(0.6, 0.6, size=rows)] * 31, clusters) for _ in range(60 if rows == 24 else 20)]
    assert sum(promotions > 0 for promotions, _ in runs) / len(runs) <= 0.05


@pytest.mark.slow
def test_thirty_nights_of_slightly_worse_adapters_seldom_end_on_one_that_is_worse_than_its_champion() -> None:
    draw = np.random.default_rng(31)
    clusters, ended_worse, runs = [str(index) for index in range(40)], 0, 40
    for _ in range(runs):
        chance = draw.beta(2, 2, size=40)
        good, worse = np.clip(chance + 0.35, 0, 1), np.clip(chance + 0.30, 0, 1)
        answers = [draw.random(40) < each for each in [good, *[worse] * 29]]
        tables = [by_cluster(np.stack([right, np.ones(40)], 1), clusters) for right in answers]
        champion = 0
        for night in range(1, 30):
            found = difference(tables[night], tables[champion], ratio)
            comparisons = {
                "adapter_vs_base": {"field_accuracy": _entry(0.8, 0.7, 0.9, 0.0)},
                "adapter_vs_champion": {"field_accuracy": _entry(*astuple(found)[:4])},
            }
            if decide(_report(comparisons=comparisons), look=night + 1).promote:
                champion = night
        ended_worse += champion > 0
    assert ended_worse / runs <= 0.05


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
