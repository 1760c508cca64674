"""Intervals and p-values for paired systems on the same rows, with sessions as clusters.

Turns of one session are not independent, so a session is what is resampled and what is swapped. All functions take
tables of sufficient statistics [rows, k] and a metric's `combine` ([..., k] → [...]), so they serve means, perplexity
and BLEU alike. Everything is seeded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Combine = Callable[[FloatArray], FloatArray]
RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its two-sided interval at level 1 - alpha."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A minus B: estimate, interval, two-sided permutation p-value, and the smallest true difference that a test at
    this alpha would see with 80 % power."""

    value: float
    low: float
    high: float
    p_value: float
    detectable: float


def by_cluster(table: FloatArray, clusters: Sequence[str]) -> FloatArray:
    """[rows, k] statistics and each row's cluster → [clusters, k] sums."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((int(index.max()) + 1, table.shape[1]))
    np.add.at(sums, index, table)
    return sums


@lru_cache(maxsize=8)
def _weights(clusters: int, resamples: int, seed: int) -> FloatArray:
    """[resamples, clusters] how often each cluster is drawn, with replacement (Efron & Tibshirani 1993, ch. 6)."""
    uniform = np.full(clusters, 1 / clusters)
    return np.random.default_rng(seed).multinomial(clusters, uniform, size=resamples).astype(np.float64)


@lru_cache(maxsize=8)
def _swaps(clusters: int, resamples: int, seed: int) -> FloatArray:
    """[resamples, clusters] of 0 and 1: which clusters change sides; all 2^clusters of them where these are fewer."""
    if 2**clusters <= resamples:
        codes = np.arange(2**clusters)[:, None]
        return ((codes >> np.arange(clusters)) & 1).astype(np.float64)
    return np.random.default_rng(seed + 1).integers(0, 2, size=(resamples, clusters)).astype(np.float64)


def estimate(
    sums: FloatArray, combine: Combine, *, alpha: float = 0.05, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The value of [clusters, k] sums with its percentile bootstrap interval."""
    replicates = combine(_weights(len(sums), resamples, seed) @ sums)
    low, high = np.quantile(replicates, [alpha / 2, 1 - alpha / 2])
    return Estimate(float(combine(sums.sum(axis=0))), float(low), float(high))


def difference(
    ours: FloatArray,
    theirs: FloatArray,
    combine: Combine,
    *,
    alpha: float = 0.05,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The paired difference of two systems' [clusters, k] sums over the same clusters in the same order."""
    weights = _weights(len(ours), resamples, seed)
    replicates = combine(weights @ ours) - combine(weights @ theirs)
    low, high = np.quantile(replicates, [alpha / 2, 1 - alpha / 2])
    return Difference(
        value=float(combine(ours.sum(axis=0)) - combine(theirs.sum(axis=0))),
        low=float(low),
        high=float(high),
        p_value=permutation_p(ours, theirs, combine, resamples=resamples, seed=seed),
        detectable=detectable(float(replicates.std()), len(ours), alpha=alpha),
    )


def permutation_p(
    ours: FloatArray, theirs: FloatArray, combine: Combine, *, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Two-sided p-value of the paired permutation test that swaps the systems' names within whole clusters.

    Exact where all swaps are counted; otherwise (1 + hits) / (1 + resamples), which is valid at any number of resamples
    (Phipson & Smyth 2010).
    """
    swaps = _swaps(len(ours), resamples, seed)
    moved = swaps @ (theirs - ours)
    differences = np.abs(combine(ours.sum(axis=0) + moved) - combine(theirs.sum(axis=0) - moved))
    observed = abs(float(combine(ours.sum(axis=0)) - combine(theirs.sum(axis=0))))
    hits = int((differences >= observed - 1e-12).sum())
    exact = 2 ** len(ours) <= resamples
    return hits / len(swaps) if exact else (hits + 1) / (len(swaps) + 1)


def detectable(standard_error: float, clusters: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The minimum detectable effect (z at 1 - alpha/2 + z at power) x standard error (Bloom 1995).

    Where no cluster differs the standard error says nothing; then the rule of three's 3 / clusters stands in.
    """
    if standard_error == 0:
        return 3 / clusters
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * standard_error


def pass_hat_k(successes: Sequence[int], trials: int, k: int) -> float:
    """pass^k: the chance that all of k tries at a task succeed, C(c, k) / C(n, k) averaged over tasks with c of n
    successes (tau-bench, Yao et al. 2024). Raises ValueError where k > trials."""
    if not 0 < k <= trials:
        raise ValueError(f"pass^{k} needs at least {k} trials, there are {trials}")
    return sum(comb(count, k) / comb(trials, k) for count in successes) / max(1, len(successes))
