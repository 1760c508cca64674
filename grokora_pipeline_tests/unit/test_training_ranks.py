"""Rank trials: what is changed between them, and advice that takes noise into account."""

from typing import Any

import pytest

from grokora_pipeline.training.plan import TrainingKnobs, resolve_knobs
from grokora_pipeline.training.ranks import recommend, summarise, trial_knobs


def records(*losses: float, metric: float | None = None) -> list[dict[str, Any]]:
    figures = {"adapter_mib": 1.0, "peak_memory_mib": 100.0, "tokens_per_second": 50.0, "trainable_share": 0.01}
    return [{"validation_loss": loss, "metric": metric, **figures} for loss in losses]


def advised(trials: dict[int, list[dict[str, Any]]]) -> int | None:
    rank: int | None = recommend(summarise(trials))["rank"]
    return rank


def test_the_smallest_rank_within_noise_is_advised() -> None:
    assert advised({8: records(0.50, 0.52), 16: records(0.49, 0.51), 64: records(0.48, 0.50)}) == 8


def test_a_rank_that_is_worse_beyond_noise_is_not() -> None:
    assert advised({8: records(0.60, 0.601), 16: records(0.50, 0.501), 64: records(0.50, 0.499)}) == 16


def test_a_rank_tried_once_is_judged_by_the_noise_of_the_others() -> None:
    assert advised({8: records(0.60), 16: records(0.50, 0.501)}) == 16
    assert advised({8: records(0.51), 16: records(0.50, 0.52)}) == 8


@pytest.mark.parametrize("trials", [{8: records(0.5, 0.6)}, {8: records(0.5), 16: records(0.4)}])
def test_there_is_no_advice_without_two_ranks_and_two_seeds(trials: dict[int, list[dict[str, Any]]]) -> None:
    found = recommend(summarise(trials))
    assert found["rank"] is None
    assert "two seeds" in found["reason"]


def test_a_row_holds_means_over_the_seeds_and_says_what_was_not_measured() -> None:
    (row,) = summarise({8: [*records(0.4, metric=0.5), *records(0.6, metric=None)]})
    assert (row["rank"], row["seeds"], row["metric"]) == (8, 2, 0.5)
    assert row["validation_loss"] == pytest.approx(0.5)
    assert row["loss_sd"] == pytest.approx(0.2 / 2**0.5)


@pytest.mark.parametrize("rslora", [True, False])
def test_a_trial_at_the_agents_own_rank_has_the_agents_own_scale(*, rslora: bool) -> None:
    own = resolve_knobs("best", {"rank": 32, "rslora": rslora})
    tried = resolve_knobs("best", trial_knobs(own, 32, 5))

    def scale(knobs: TrainingKnobs) -> float:
        return knobs.alpha / (knobs.rank**0.5 if knobs.rslora else knobs.rank)

    assert scale(tried) == pytest.approx(scale(own))
    assert (tried.seed, tried.rslora) == (5, True)
    assert {trial_knobs(own, rank, 5)["alpha"] for rank in (8, 64)} == {tried.alpha}
