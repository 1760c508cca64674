"""Intervals, p-values and pass^k against what is known about them."""

from collections.abc import Callable, Sequence
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokora_pipeline.evaluation.significance import (
    by_cluster,
    detectable,
    difference,
    estimate,
    pass_hat_k,
    ratio,
    sessions_needed,
    unseen_p_value,
)


def _rows(scores: Sequence[float]) -> np.ndarray:
    return np.array([(score, 1.0) for score in scores])


def test_rows_of_a_session_are_summed_into_one_cluster() -> None:
    sums = by_cluster(_rows([1, 0, 1, 1]), ["b", "a", "b", "a"])
    assert sums.tolist() == [[1, 2], [2, 2]]


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    scores = np.random.default_rng(1).binomial(1, 0.3, 400).astype(float)
    found = estimate(_rows(list(scores)), ratio)
    half = 1.96 * scores.std() / 20
    assert found.value == pytest.approx(scores.mean())
    assert found.low == pytest.approx(scores.mean() - half, abs=0.006)
    assert found.high == pytest.approx(scores.mean() + half, abs=0.006)


def test_turns_of_one_session_do_not_count_as_independent() -> None:
    scores = [float(index // 10 % 2) for index in range(100)]  # ten sessions of ten equal turns
    apart = estimate(by_cluster(_rows(scores), [str(index) for index in range(100)]), ratio)
    together = estimate(by_cluster(_rows(scores), [str(index // 10) for index in range(100)]), ratio)
    assert together.high - together.low > 2.5 * (apart.high - apart.low)


def test_the_same_seed_gives_the_same_figures() -> None:
    ours, theirs = _rows([1, 1, 0, 1, 1, 0]), _rows([0, 1, 0, 0, 1, 0])
    assert difference(ours, theirs, ratio, seed=3) == difference(ours, theirs, ratio, seed=3)


def test_the_permutation_p_of_few_clusters_is_exact() -> None:
    ours, theirs = _rows([1] * 6), _rows([0] * 6)
    assert difference(ours, theirs, ratio).p_value == pytest.approx(2 / 2**6)
    assert difference(ours, ours, ratio).p_value == 1


def test_the_permutation_p_agrees_with_the_sign_test() -> None:
    wins, losses = 12, 3
    ours, theirs = _rows([1] * wins + [0] * losses + [1] * 10), _rows([0] * wins + [1] * losses + [1] * 10)
    exact = 2 * sum(comb(15, k) for k in range(losses + 1)) / 2**15
    assert difference(ours, theirs, ratio).p_value == pytest.approx(exact, abs=0.01)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=14), st.sampled_from([0.01, 0.05, 0.2])
)
def test_interval_and_p_value_never_contradict_each_other(pairs: list[tuple[float, float]], alpha: float) -> None:
    ours, theirs = _rows([a for a, _ in pairs]), _rows([b for _, b in pairs])
    found = difference(ours, theirs, ratio, alpha=alpha)
    assert found.low <= found.value + 1e-6
    assert found.value <= found.high + 1e-6
    if found.low > 1e-6 or found.high < -1e-6:
        assert found.p_value <= alpha
    if found.p_value <= alpha:
        assert found.low >= -1e-6 or found.high <= 1e-6


@pytest.mark.parametrize(("clusters", "turns", "share"), [(12, 2, 0.95), (24, 1, 0.9), (12, 2, 0.05), (40, 3, 0.5)])
def test_the_interval_of_a_share_covers_it_as_often_as_it_says(clusters: int, turns: int, share: float) -> None:
    draw = np.random.default_rng(3)
    concentration = 4.0  # turns of one session are alike
    covered = 0
    for _ in range(400):
        chance = draw.beta(share * concentration, (1 - share) * concentration, size=clusters).repeat(turns)
        rows = _rows(list((draw.random(chance.size) < chance).astype(float)))
        found = estimate(by_cluster(rows, [str(index // turns) for index in range(chance.size)]), ratio)
        covered += found.low <= share <= found.high
    assert covered / 400 >= 0.92


def test_shares_of_nothing_and_of_all_end_at_0_and_1() -> None:
    nothing, everything = (estimate(_rows([value] * 18), ratio) for value in (0.0, 1.0))
    assert (nothing.low, everything.high) == (0.0, 1.0)
    assert 0.1 < nothing.high < 0.35


def test_the_sessions_that_a_test_needs_are_those_of_its_smallest_p_value() -> None:
    assert sessions_needed(0.05) == 6
    five = difference(_rows([1] * 5), _rows([0] * 5), ratio)
    six = difference(_rows([1] * 6), _rows([0] * 6), ratio)
    assert five.p_value > 0.05 >= six.p_value
    assert five.low < 0 < six.low


def test_equal_systems_differ_by_nothing_and_the_rule_of_three_says_what_could_be_missed() -> None:
    rows = _rows([1.0] * 30)
    found = difference(rows, rows, ratio)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert found.detectable == pytest.approx(0.1)


def test_more_rows_see_smaller_effects() -> None:
    assert detectable(0.1, 10) == pytest.approx((1.959964 + 0.841621) * 0.1)
    assert detectable(0.05, 40) < detectable(0.1, 10)


def test_pass_hat_k_counts_tasks_that_always_succeed() -> None:
    assert pass_hat_k([3, 3, 0, 1], 3, 1) == pytest.approx(7 / 12)
    assert pass_hat_k([3, 3, 0, 1], 3, 3) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="needs at least 4 trials"):
        pass_hat_k([3], 3, 4)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_pass_hat_k_never_rises_with_k(successes: list[int]) -> None:
    values = [pass_hat_k(successes, 4, k) for k in range(1, 5)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(("wins", "losses", "ties"), [(6, 0, 0), (9, 2, 5), (5, 5, 3)])
def test_where_sessions_are_won_or_lost_the_p_of_any_distribution_is_the_sign_tests(
    wins: int, losses: int, ties: int
) -> None:
    ours, theirs = _rows([1] * wins + [0] * losses + [1] * ties), _rows([0] * wins + [1] * losses + [1] * ties)
    exact = sum(comb(wins + losses, k) for k in range(losses + 1)) / 2 ** (wins + losses)
    assert unseen_p_value(ours, theirs) == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_a_system_that_gains_a_little_and_ruins_a_few_is_no_better_by_any_distribution(share: float) -> None:
    draw, flips, unseen = np.random.default_rng(4), 0, 0
    for _ in range(200):
        gain = np.where(draw.random(14) < share, -0.9, 0.9 * share / (1 - share))  # 0 on average
        ours, theirs = _rows(list(0.9 + gain)), _rows([0.9] * 14)
        flips += ours[:, 0].sum() > theirs[:, 0].sum() and difference(ours, theirs, ratio).p_value <= 0.05
        unseen += unseen_p_value(ours, theirs) <= 0.025
    assert unseen / 200 <= 0.05
    assert flips / 200 > 0.1 or share > 0.2  # which is why sign flips alone do not decide


def test_a_system_that_ruins_only_the_longest_sessions_is_no_better_though_none_of_them_is_seen() -> None:
    """So the imagined session is as large as the largest: one of their mean size lets pass all that are ahead."""
    draw, passed, ahead = np.random.default_rng(6), 0, 0
    population = draw.geometric(0.35, 20_000)
    longest = population >= np.quantile(population, 0.95)
    gain = 0.9 * population[longest].sum() / population[~longest].sum()  # 0 on average over turns
    for _ in range(200):
        turns = draw.geometric(0.35, 20)
        apart = np.where(turns >= population[longest].min(), -0.9, gain) * turns
        ours, theirs = np.stack([apart, turns], 1), np.stack([0.0 * turns, turns], 1)
        ahead += apart.sum() > 0 and difference(ours, theirs, ratio).p_value <= 0.05
        passed += unseen_p_value(ours, theirs) <= 0.025
    assert ahead / 200 > 0.2
    assert passed / 200 <= 0.05


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=25))
def test_swapping_the_systems_mirrors_the_difference(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = _rows([float(a) for a, _ in pairs]), _rows([float(b) for _, b in pairs])
    there, back = difference(ours, theirs, ratio, resamples=500), difference(theirs, ours, ratio, resamples=500)
    assert there.value == pytest.approx(-back.value)
    assert there.low == pytest.approx(-back.high)
    assert there.p_value == pytest.approx(back.p_value)


@pytest.mark.parametrize("combine", [ratio, lambda sums: np.exp(ratio(sums))])
@pytest.mark.parametrize("clusters", [1, 3, 20])
def test_clusters_that_all_show_the_same_leave_some_doubt(
    combine: Callable[[np.ndarray], np.ndarray], clusters: int
) -> None:
    found = difference(_rows([0.9] * clusters), _rows([0.2] * clusters), combine)
    assert found.low < found.value < found.high
    assert found.p_value >= min(1.0, 2 / 2**clusters)
    assert (found.p_value <= 0.05) == (found.low > 0)
    assert found.detectable == pytest.approx(3 / clusters)
