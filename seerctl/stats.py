"""Intervals for rates and their differences, and corrections for many comparisons: exact definitions, vectorised.

All functions take arrays (or scalars) of counts and broadcast them; `alpha` is always two-sided: an interval at `alpha`
leaves out alpha/2 on each side.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfc, ndtri

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
