"""Intervals for rates and their differences, and corrections for many comparisons: exact definitions, vectorised.

The functions on rates take arrays (or scalars) of counts and broadcast them; `alpha` is always two-sided: an interval
at `alpha` leaves out alpha/2 on each side. Numbers that are no plain rates (areas, errors, means over clusters) come as
an `Estimate`: a value and its variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, erfc, ndtri, stdtrit

Floats = NDArray[np.float64]
Correction = Literal["holm", "bonferroni", "none"]


class Interval(NamedTuple):
    """An estimate and its confidence limits: float64 arrays of one shape."""

    value: Floats
    low: Floats
    high: Floats


def z_quantile(alpha: ArrayLike) -> Floats:
    """The standard normal quantile at 1 - alpha/2 (1.959964 for 0.05)."""
    return np.asarray(-ndtri(np.asarray(alpha, dtype=np.float64) / 2.0), dtype=np.float64)


def two_sided_p(z: ArrayLike) -> Floats:
    """The two-sided level whose normal quantile is `z`: the inverse of `z_quantile`."""
    return np.asarray(erfc(np.asarray(z, dtype=np.float64) / np.sqrt(2.0)), dtype=np.float64)


def wilson(events: ArrayLike, trials: ArrayLike, alpha: ArrayLike = 0.05) -> Interval:
    """Wilson's score interval of a rate `events / trials`.

    centre = (p + z^2/2n) / (1 + z^2/n), half = z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n). With no event the low limit
    is exactly 0 and the high one z^2/(n + z^2): "0 of 62" still allows 5.8 %. With no trial the value is NaN and the
    limits are 0 and 1.

    Source: E. B. Wilson, JASA 22 (1927) 209-212.
    """
    return wilson_z(events, trials, z_quantile(alpha))


def wilson_z(events: ArrayLike, trials: ArrayLike, z: ArrayLike) -> Interval:
    """`wilson` at the normal quantile `z`."""
    x, n, z = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (events, trials, z)))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = x / n
        scale = 1.0 + z * z / n
        centre = (p + z * z / (2.0 * n)) / scale
        half = z * np.sqrt(p * (1.0 - p) / n + z * z / (4.0 * n * n)) / scale
    low = np.where(x <= 0, 0.0, np.clip(centre - half, 0.0, 1.0))
    high = np.where(x >= n, 1.0, np.clip(centre + half, 0.0, 1.0))
    return Interval(p, np.where(n > 0, low, 0.0), np.where(n > 0, high, 1.0))


def newcombe(
    events: ArrayLike, trials: ArrayLike, other_events: ArrayLike, other_trials: ArrayLike, alpha: ArrayLike = 0.05
) -> Interval:
    """Newcombe's hybrid score interval (his method 10) of the difference p1 - p2 of two independent rates.

    low = d - sqrt((p1 - l1)^2 + (u2 - p2)^2), high = d + sqrt((u1 - p1)^2 + (p2 - l2)^2), with l and u from `wilson`.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 873-890.
    """
    return newcombe_z(events, trials, other_events, other_trials, z_quantile(alpha))


def newcombe_z(
    events: ArrayLike, trials: ArrayLike, other_events: ArrayLike, other_trials: ArrayLike, z: ArrayLike
) -> Interval:
    """`newcombe` at the normal quantile `z`."""
    one, two = wilson_z(events, trials, z), wilson_z(other_events, other_trials, z)
    gap = one.value - two.value
    low = gap - np.hypot(one.value - one.low, two.high - two.value)
    high = gap + np.hypot(one.high - one.value, two.value - two.low)
    return Interval(gap, np.maximum(low, -1.0), np.minimum(high, 1.0))


def newcombe_paired(
    both: ArrayLike, first: ArrayLike, second: ArrayLike, neither: ArrayLike, alpha: ArrayLike = 0.05
) -> Interval:
    """Newcombe's interval (his method 10) of the difference p1 - p2 of two rates over the same rows.

    The arguments count rows with the event under both, under the first alone, the second alone, and neither; the limits
    are those of `newcombe` with the correlation phi of the fourfold table taken off: low = d - sqrt(a^2 - 2 phi a b +
    b^2), a = p1 - l1, b = u2 - p2. Where phi is positive its numerator is corrected for continuity.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650.
    """
    a, b, c, d = (np.asarray(count, dtype=np.float64) for count in (both, first, second, neither))
    n = a + b + c + d
    one, two = wilson(a + b, n, alpha), wilson(a + c, n, alpha)
    cross = a * d - b * c
    with np.errstate(divide="ignore", invalid="ignore"):
        phi = np.where(cross > 0, np.maximum(cross - n / 2.0, 0.0), cross)
        phi = np.nan_to_num(phi / np.sqrt((a + b) * (c + d) * (a + c) * (b + d)), posinf=0.0, neginf=0.0)
    gap = one.value - two.value

    def half(x: Floats, y: Floats) -> Floats:
        return np.asarray(np.sqrt(np.maximum(x * x - 2.0 * phi * x * y + y * y, 0.0)))

    low = gap - half(one.value - one.low, two.high - two.value)
    high = gap + half(one.high - one.value, two.value - two.low)
    return Interval(gap, np.maximum(low, -1.0), np.minimum(high, 1.0))


def mcnemar(first: int, second: int) -> float:
    """The exact two-sided p-value of McNemar's test: of the rows that only one of two models got right, half each?

    Source: Q. McNemar, Psychometrika 12 (1947) 153-157, with the binomial distribution of the discordant rows.
    """
    rows = first + second
    return 1.0 if not rows else min(1.0, 2.0 * float(bdtr(min(first, second), rows, 0.5)))


def macro(events: ArrayLike, trials: ArrayLike, alpha: ArrayLike = 0.05) -> Interval:
    """The unweighted mean over the last axis of independent rates, with limits from their Wilson intervals.

    The method of variance estimates recovery: the limits' distances from the mean are the root of the summed squares of
    the single distances, over the number of rates. Rates without a trial are left out of the mean.

    Source: G. Y. Zou, A. Donner, Statistics in Medicine 27 (2008) 1693-1702 (Newcombe's interval is its case of two).
    """
    return macro_z(events, trials, z_quantile(alpha))


def macro_z(events: ArrayLike, trials: ArrayLike, z: ArrayLike) -> Interval:
    """`macro` at the normal quantile `z` (broadcast against all axes but the last)."""
    n = np.asarray(trials, dtype=np.float64)
    rate = wilson_z(events, n, np.asarray(z, dtype=np.float64)[..., None])
    there = n > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        count = there.sum(-1)
        value = np.where(there, rate.value, 0.0).sum(-1) / count
        below = np.sqrt((np.where(there, rate.value - rate.low, 0.0) ** 2).sum(-1)) / count
        above = np.sqrt((np.where(there, rate.high - rate.value, 0.0) ** 2).sum(-1)) / count
    low, high = np.clip(value - below, 0.0, 1.0), np.clip(value + above, 0.0, 1.0)
    return Interval(value, np.where(count > 0, low, 0.0), np.where(count > 0, high, 1.0))


def macro_gap_z(
    events: ArrayLike, trials: ArrayLike, other_events: ArrayLike, other_trials: ArrayLike, z: ArrayLike
) -> Interval:
    """The difference of two `macro` means at the normal quantile `z`; only rates with trials on both sides count."""
    n1, n2 = np.broadcast_arrays(np.asarray(trials, dtype=np.float64), np.asarray(other_trials, dtype=np.float64))
    both = (n1 > 0) & (n2 > 0)
    one, two = macro_z(events, np.where(both, n1, 0.0), z), macro_z(other_events, np.where(both, n2, 0.0), z)
    gap = one.value - two.value
    low = gap - np.hypot(one.value - one.low, two.high - two.value)
    high = gap + np.hypot(one.high - one.value, two.value - two.low)
    return Interval(gap, np.maximum(low, -1.0), np.minimum(high, 1.0))


def adjust(p: ArrayLike, correction: Correction) -> Floats:
    """P-values `(M,)` adjusted for M comparisons: reject at level a where the adjusted value is <= a.

    bonferroni: min(1, M p). holm: step-down, the running maximum over the sorted values of min(1, (M - i) p_(i)), i
    from 0; it bounds the chance of any false rejection as Bonferroni does and never rejects less.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    values = np.asarray(p, dtype=np.float64)
    count = values.size
    if correction == "none":
        return values.copy()
    if correction == "bonferroni":
        return np.minimum(1.0, count * values)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((count - np.arange(count)) * values[order]))
    return adjusted


# ------------------------------------------------------------------------------------------------ means of scores

VARIED = 10  # scores that must be neither 0 nor 1 before the spread of a few is believed


def bootstrap_mean(values: ArrayLike, alpha: float = 0.05, *, replicates: int = 2000, seed: int = 0) -> Interval:
    """The mean of scores between 0 and 1, one a query, with the percentiles of its replicates over queries drawn anew.

    With fewer than ten scores between 0 and 1 the replicates hold no tail ("8 of 8 perfect" has none at all): then the
    limits are Wilson's of as many answers, where those are wider. NaN with limits 0 and 1 for no score.

    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    scores = np.asarray(values, dtype=np.float64)
    n = len(scores)
    if not n:
        return Interval(np.array(math.nan), np.array(0.0), np.array(1.0))
    generator, means = np.random.default_rng(seed), np.empty(replicates)
    step = max(1, (1 << 22) // n)
    for start in range(0, replicates, step):
        drawn = generator.integers(0, n, (min(step, replicates - start), n))
        means[start : start + len(drawn)] = scores[drawn].mean(1)
    value = scores.mean()
    low, high = np.quantile(means, [alpha / 2.0, 1.0 - alpha / 2.0])
    if int(((scores > 0.0) & (scores < 1.0)).sum()) < VARIED:
        plain = wilson(value * n, n, alpha)
        low, high = np.minimum(low, plain.low), np.maximum(high, plain.high)
    return Interval(np.asarray(value), np.minimum(low, value), np.maximum(high, value))


def median_interval(values: ArrayLike, alpha: float = 0.05) -> Interval:
    """The median of numbers (N,) with exact limits, which are two of the numbers; infinite where N is too small.

    The l-th smallest and largest, with l the largest that a binomial(N, 1/2) stays below with at most alpha/2.

    Source: W. J. Conover, Practical Nonparametric Statistics (1999), section 3.2.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    place = int(np.searchsorted(bdtr(np.arange(n + 1), n, 0.5), alpha / 2.0, side="right"))
    low, high = (ordered[place - 1], ordered[n - place]) if place else (-math.inf, math.inf)
    return Interval(np.asarray(np.median(ordered) if n else math.nan), np.asarray(low), np.asarray(high))


def mean_difference(before: ArrayLike, after: ArrayLike) -> Estimate:
    """The mean of `after` less `before` (N,), each between 0 and 1 and of the same rows.

    Its variance is at least that of Agresti and Min, so that rows which never changed leave a doubt.
    """
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    variance, _ = clustered(change - change.mean(), None)
    return Estimate(
        float(change.mean()), max(variance, least_of_differences(change)), float(len(change)), floor=-1.0, score=False
    )


def least_of_differences(change: Floats) -> float:
    """The least variance of the mean of paired differences (N,) between -1 and 1: half a row each way is added.

    Source: A. Agresti, Y. Min, Statistics in Medicine 24 (2005) 729-740.
    """
    n, value, squares = len(change), float(change.mean()), float(change @ change)
    return (squares + 1.0 - n * n * value * value / (n + 2.0)) / (n + 2.0) ** 2


# --------------------------------------------------------------------------- numbers that are not rates of counts


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number between `floor` and `ceiling`, and how surely it is known.

    variance: of its estimate. worth: the effective sample size that it cannot exceed, whatever the variance says (a
    variance of 0 from 40 rows is no certainty). freedom: the variance's degrees of freedom (clusters less one).
    excess: by how much noise alone may have raised the value (errors that are sums of absolute values). score: whether
    the limits are Wilson's at the effective sample size p(1 - p)/variance, as surveys with clusters do, or the plain
    normal ones.

    Source: E. L. Korn, B. I. Graubard, Survey Methodology 24 (1998) 193-201 (effective sample sizes); for an
    unclustered rate, variance p(1 - p)/n and worth n, the limits are exactly `wilson`'s.
    """

    value: float
    variance: float
    worth: float = math.inf
    freedom: float = math.inf
    floor: float = 0.0
    ceiling: float = 1.0
    excess: float = 0.0
    score: bool = True

    def limits(self, alpha: float) -> tuple[float, float]:
        """Confidence limits at the two-sided level `alpha`; they move outwards as it falls."""
        quantile = min(t_quantile(alpha, self.freedom), 1e9)  # beyond any doubt; its square is still a float
        if not self.score:
            half = quantile * math.sqrt(self.variance)
            return max(self.floor, self.value - self.excess - half), min(self.ceiling, self.value + half)
        span = self.ceiling - self.floor
        share = min(1.0, max(0.0, (self.value - self.floor) / span))
        spread = share * (1.0 - share) * span * span
        size = min(self.worth, spread / self.variance) if self.variance > 0 else self.worth
        if math.isinf(size):
            return self.value, self.value
        interval = wilson_z(share * size, size, quantile)
        low, high = self.floor + span * float(interval.low), self.floor + span * float(interval.high)
        return min(low, self.value), max(high, self.value)


def t_quantile(alpha: float, freedom: float = math.inf) -> float:
    """Student's t quantile at 1 - alpha/2, the normal one at infinite `freedom`."""
    quantile = float(z_quantile(alpha))
    if math.isinf(freedom):
        return quantile
    heavy = -float(stdtrit(max(freedom, 1.0), alpha / 2.0))
    return max(heavy, quantile) if math.isfinite(heavy) else math.inf


def gap_limits(one: Estimate, other: Estimate, alpha: float, spread: float = 1.0) -> tuple[float, float]:
    """Limits of the difference `one - other`, from the limits of both (method of variance estimates recovery).

    spread: by how much the difference varies more or less than that of independent numbers (see `shared_spread`).

    Source: G. Y. Zou, A. Donner, Statistics in Medicine 27 (2008) 1693-1702; of two rates it is Newcombe's interval.
    """
    (low1, high1), (low2, high2) = one.limits(alpha), other.limits(alpha)
    gap = one.value - other.value
    low = gap - spread * math.hypot(one.value - low1, high2 - other.value)
    high = gap + spread * math.hypot(high1 - one.value, other.value - low2)
    most = max(one.ceiling - other.floor, other.ceiling - one.floor)
    return max(low, -most), min(high, most)


def clustered(influence: Floats, clusters: NDArray[np.intp] | None) -> tuple[float, int]:
    """The variance of a statistic from its rows' influences, and the number of independent units behind it.

    influence: (n,) what each row adds to n times the statistic, of mean 0 (Hampel's influence function). clusters: (n,)
    codes of units whose rows may resemble each other; None: every row is one. The variance is the sum of squared
    totals of the units over n^2, times G/(G - 1) with G clusters (infinite for one).

    Source: D. A. Binder, International Statistical Review 51 (1983) 279-292 (linearisation); for the area under the ROC
    curve and single rows it is DeLong's.
    """
    n = len(influence)
    if clusters is None:
        return float(influence @ influence) / n**2, n
    codes, place = np.unique(clusters, return_inverse=True)
    totals = np.bincount(place, weights=influence)
    units = len(codes)
    if units < 2:
        return math.inf, units
    return float(totals @ totals) / n**2 * units / (units - 1), units


def shared_spread(
    one: Floats, one_clusters: NDArray[np.intp], other: Floats, other_clusters: NDArray[np.intp]
) -> float:
    """The standard error of the difference of two statistics over that of independent ones, where clusters are shared.

    one, other: the influences of the rows of both (see `clustered`). A household on both sides moves both alike, so
    that the difference is surer; 1 where no cluster is shared. With C shared ones it is at least sqrt(8/(C + 8)): pairs
    that never differed leave a doubt of about 4/C.
    """
    shared = len(np.intersect1d(one_clusters, other_clusters))
    if not shared:
        return 1.0
    size = int(max(one_clusters.max(), other_clusters.max())) + 1
    a = np.bincount(one_clusters, weights=one, minlength=size) / len(one)
    b = np.bincount(other_clusters, weights=other, minlength=size) / len(other)
    apart = float(a @ a + b @ b)
    least = 8.0 / (shared + 8.0)
    return math.sqrt(max(least, float((a - b) @ (a - b)) / apart)) if apart > 0 else 1.0
