"""Intervals and p-values for paired systems on the same rows, with sessions as clusters.

Turns of one session are not independent, so a session is what is resampled and whose sign is flipped. All functions
take tables of sufficient statistics [rows, k] and a metric's `combine` ([..., k] → [...]), so they serve means,
perplexity and BLEU alike. Everything is seeded. A difference's interval and p-value always come from one method, so
that the interval at level 1 - alpha excludes 0 exactly if p <= alpha.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, comb, log, log2, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Combine = Callable[[FloatArray], FloatArray]
RESAMPLES = 10_000  # of a bootstrap
FLIPS = 100_000  # of signs: the smallest p-value is 1e-5, which the 30th look at an agent still needs
_NORMAL = NormalDist()


def ratio(sums: FloatArray) -> FloatArray:
    """[..., 2] sums of (numerator, weight) → [...] their quotient; 0 if the weight is 0."""
    weight = sums[..., 1]
    quotient: FloatArray = np.divide(sums[..., 0], weight, out=np.zeros_like(weight), where=weight > 0)
    return quotient


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its two-sided interval at level 1 - alpha."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A minus B: estimate, interval, two-sided p-value, and the smallest true difference that a test at this alpha
    would see with 80 % power."""

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
    # counts instead of drawn rows: a replicate of any metric is then one matrix product
    return np.random.default_rng(seed).multinomial(clusters, uniform, size=resamples).astype(np.float64)


@lru_cache(maxsize=2)
def _flips(clusters: int, flips: int, seed: int) -> NDArray[np.float32]:
    """[flips, clusters] of +1 and -1; all 2^clusters sign vectors if these are fewer."""
    if 2**clusters <= flips:
        codes = np.arange(2**clusters)[:, None]
        bits = (codes >> np.arange(clusters)) & 1
    else:
        bits = np.random.default_rng(seed + 1).integers(0, 2, size=(flips, clusters), dtype=np.int8)
    return (2 * bits - 1).astype(np.float32)


def estimate(
    sums: FloatArray, combine: Combine, *, alpha: float = 0.05, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The value of [clusters, k] sums with its interval: Wilson's for shares, else the percentile bootstrap's.

    A bootstrap of a share near 0 or 1 draws almost only equal rows, and its interval covers far too seldom.
    """
    if combine is ratio and (sums[:, 0] >= 0).all() and (sums[:, 0] <= sums[:, 1]).all() and sums[:, 1].sum() > 0:
        return _share_estimate(sums, alpha)
    replicates = combine(_weights(len(sums), resamples, seed) @ sums)
    low, high = np.quantile(replicates, [alpha / 2, 1 - alpha / 2])
    return Estimate(float(combine(sums.sum(axis=0))), float(low), float(high))


def _share_estimate(sums: FloatArray, alpha: float) -> Estimate:
    """Wilson's interval at the effective number of rows, p (1 - p) / (cluster-robust variance), adjusted for the
    clusters' degrees of freedom (Korn & Graubard 1998)."""
    from scipy.special import stdtrit  # Student's quantile; here, since the definitions load this module

    clusters, weight = len(sums), float(sums[:, 1].sum())
    share = float(sums[:, 0].sum() / weight)
    residuals = sums[:, 0] - share * sums[:, 1]
    variance = clusters / max(1, clusters - 1) * float((residuals**2).sum()) / weight**2
    # rows that are all right or all wrong show no variance: then only the clusters count as independent
    rows = min(weight, share * (1 - share) / variance) if variance > 1e-12 else float(clusters)
    z = _NORMAL.inv_cdf(1 - alpha / 2)
    rows *= (z / float(stdtrit(clusters - 1, 1 - alpha / 2))) ** 2 if clusters > 1 else 0.1
    centre = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    # exactly 0 and 1 at the ends, where rounding would leave an interval that begins at 3e-17
    low, high = (0.0 if share <= 0 else max(0.0, centre - half)), (1.0 if share >= 1 else min(1.0, centre + half))
    return Estimate(share, low, high)


def difference(
    ours: FloatArray,
    theirs: FloatArray,
    combine: Combine,
    *,
    alpha: float = 0.05,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The paired difference of two systems' [clusters, k] sums over the same clusters in the same order.

    A mean over the same rows gets the sign-flip test of whole clusters and the interval that inverts it; any other
    metric gets a bootstrap's interval and the p-value of the same replicates.
    """
    value = float(combine(ours.sum(axis=0)) - combine(theirs.sum(axis=0)))
    if combine is ratio and np.array_equal(ours[:, 1], theirs[:, 1]):
        differences, weights = ours[:, 0] - theirs[:, 0], ours[:, 1]
        low, high, p_value = _flipped(differences, weights, alpha, seed)
        residuals = differences - value * weights
        clusters = len(weights)
        error = sqrt(clusters / max(1, clusters - 1) * float((residuals**2).sum())) / max(1e-12, float(weights.sum()))
    else:
        drawn = _weights(len(ours), resamples, seed)
        replicates = combine(drawn @ ours) - combine(drawn @ theirs)
        low, high = (float(bound) for bound in np.quantile(replicates, [alpha / 2, 1 - alpha / 2]))
        tail = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
        # a bootstrap of three clusters that agree never sees another sign; no test of n clusters goes below 2 / 2^n
        p_value = min(1.0, max(2 * (tail + 1) / (len(replicates) + 1), 2 / 2 ** min(len(ours), 60)))
        error = float(replicates.std())
        if error <= 1e-9 * abs(value):  # every cluster shows the same: the rule of three, as in `_flipped`
            error, slack = 0.0, abs(value) * min(1.0, log(1 / alpha) / len(ours))
            low, high = value - slack, value + slack
        if p_value > alpha:
            low, high = min(low, 0.0), max(high, 0.0)
    return Difference(value, low, high, p_value, detectable(error, len(ours), alpha=alpha))


def _flipped(differences: FloatArray, weights: FloatArray, alpha: float, seed: int) -> tuple[float, float, float]:
    """(low, high, p) of a mean paired difference, from flipping the signs of whole clusters.

    Under the hypothesis that the true difference is d, differences - d x weights are symmetric around 0. The interval
    holds every d that is not rejected at alpha. If so few clusters can reject nothing, it ends at the largest
    difference that a cluster could show. Exact if all flips are counted; otherwise p = (1 + hits) / (1 + flips), which
    is valid at any number of flips (Phipson & Smyth 2010).
    """
    if not differences.any():
        return 0.0, 0.0, 1.0
    flips = _flips(len(differences), FLIPS, seed)
    flipped, shift = flips @ differences.astype(np.float32), flips @ weights.astype(np.float32)
    total, weight = float(differences.sum()), float(weights.sum())
    sampled = 2 ** len(differences) > FLIPS

    def p_value(true: float) -> float:
        """The share of sign flips whose sum is at least as far from the true difference as the observed one."""
        # sums in float32 differ in their last digits by the order of addition: equal flips must count as equal
        hits = int((np.abs(flipped - true * shift) >= abs(total - true * weight) - 1e-4).sum())
        return (hits + 1) / (len(flips) + 1) if sampled else hits / len(flips)

    used = weights > 0  # a session in which the metric applies to no row shows no difference
    most = max(1.0, float(np.abs(differences[used] / weights[used]).max()))
    bounds = []
    for end in (-most, most):
        inside, outside = total / weight, end
        for _ in range(0 if p_value(outside) > alpha else 22):  # to 1e-6 of a share
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if p_value(middle) > alpha else (inside, middle)
        bounds.append(outside)
    low, high = bounds
    if np.ptp(differences[used] / weights[used]) < 1e-9 and p_value(0.0) <= alpha:
        # every cluster shows the same difference: the rule of three says what could have been missed
        slack = min(log(1 / alpha) / len(differences), abs(total / weight))
        low, high = max(-most, total / weight - slack), min(most, total / weight + slack)
    return low, high, p_value(0.0)


def family_p_values(ours: Sequence[FloatArray], theirs: FloatArray, combine: Combine, *, seed: int = 0) -> list[float]:
    """p-values of several systems against one other, of which any may be chosen: the chance that the luckiest of them
    looks so good if none is better.

    For means the max-T procedure of Westfall & Young (1993) over the sign flips of `difference`: all systems are
    flipped together, so that it costs a system that leads the others next to nothing. For other metrics Bonferroni.
    """
    if combine is not ratio or not all(np.array_equal(table[:, 1], theirs[:, 1]) for table in ours):
        p_values = [difference(table, theirs, combine, seed=seed).p_value for table in ours]
        return [min(1.0, len(ours) * value) for value in p_values]
    differences = np.stack([table[:, 0] - theirs[:, 0] for table in ours], axis=1)
    flips = _flips(len(theirs), FLIPS, seed)
    highest = np.abs(flips @ differences.astype(np.float32)).max(axis=1)
    sampled = 2 ** len(theirs) > FLIPS
    hits = [int((highest >= abs(float(total)) - 1e-4).sum()) for total in differences.sum(axis=0)]
    return [(count + sampled) / (len(flips) + sampled) for count in hits]


@lru_cache(maxsize=2)
def _exponentials(clusters: int, draws: int, seed: int) -> NDArray[np.float32]:
    """[draws, clusters] of the unit exponential: divided by their sum, the rows are uniform Dirichlet weights."""
    return np.random.default_rng(seed + 2).standard_exponential((draws, clusters), dtype=np.float32)


def unseen_p_value(ours: FloatArray, theirs: FloatArray, *, seed: int = 0) -> float:
    """The one-sided p of a mean's lead over another on the same rows, however its differences are distributed.

    Sign flips take them for symmetric. A system that is a little better in most sessions and ruins a few may be no
    better, though none of fourteen sessions shows it. So one session more is imagined, the largest and as bad as one
    can be, and all are weighted at random (Gaffke 2005; Phan, Thomas & Learned-Miller, ICML 2021). It has the size of
    the largest since a system may ruin just the long ones. If every session shows all of the scale or nothing, and
    all have one size, this is the sign test. Of a scale without an end, such as nats a token, the worst
    is 1, or what a session shows if that is more. Raises ValueError if the rows are not the same.
    """
    if not np.array_equal(ours[:, 1], theirs[:, 1]):
        raise ValueError("the systems have other rows")
    used = theirs[:, 1] > 0
    differences, weights = (ours[:, 0] - theirs[:, 0])[used], theirs[used, 1]
    scale = max(1.0, float(np.abs(differences / weights).max()))
    drawn = _exponentials(len(weights) + 1, FLIPS, seed)
    worst = np.append(differences, -scale * weights.max()).astype(np.float32)
    return (int((drawn @ worst <= 0).sum()) + 1) / (FLIPS + 1)


def sessions_needed(alpha: float) -> int:
    """How many clusters a two-sided sign-flip test needs before any result can have p <= alpha: 2 / 2^n <= alpha."""
    return ceil(log2(2 / alpha))


def spent_alpha(alpha: float, look: int) -> float:
    """What of alpha the n-th look (1, 2, …) at the same held-out rows may spend; the sum over all looks is alpha.

    Alpha spending (Lan & DeMets 1983) without a horizon: 65 % for the first look, since most agents are judged once,
    and 35 % / ((n - 1) n) for each one after it.
    """
    return alpha * (0.65 if look <= 1 else 0.35 / ((look - 1) * look))


def detectable(standard_error: float, clusters: int, *, alpha: float = 0.05) -> float:
    """The minimum detectable effect at 80 % power, (z at 1 - alpha/2 + z at 0.8) x standard error (Bloom 1995).

    If no cluster differs, the standard error says nothing; then the rule of three's 3 / clusters stands in.
    """
    if standard_error == 0:
        return 3 / clusters
    return (_NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(0.8)) * standard_error


def pass_hat_k(successes: Sequence[int], trials: int, k: int) -> float:
    """pass^k: the chance that all of k tries at a task succeed, C(c, k) / C(n, k) averaged over tasks with c of n
    successes (tau-bench, Yao et al. 2024). Raises ValueError if k > trials."""
    if not 0 < k <= trials:
        raise ValueError(f"pass^{k} needs at least {k} trials, there are {trials}")
    return sum(comb(count, k) / comb(trials, k) for count in successes) / max(1, len(successes))
