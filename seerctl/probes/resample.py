"""Bootstrap intervals for scores that are no plain rates: means of precisions, errors, correlations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from seerctl.probes.report import ALPHA
from seerctl.stats import Interval

Floats = NDArray[np.float64]
DRAWS = 1000
BLOCK = 1 << 22  # numbers of a block of draws


def row_weights(rows: int, draws: int = DRAWS, seed: int = 0, strata: NDArray[np.int64] | None = None) -> Floats:
    """(draws, rows) how often each row is in each bootstrap sample; with `strata` (rows,) each stratum keeps its size.

    Source: B. Efron, Annals of Statistics 7 (1979) 1-26.
    """
    generator = np.random.default_rng(seed)
    found = np.empty((draws, rows), dtype=np.float64)
    groups = [np.arange(rows)] if strata is None else [np.flatnonzero(strata == code) for code in np.unique(strata)]
    for members in groups:
        size = len(members)
        found[:, members] = generator.multinomial(size, np.full(size, 1.0 / size), draws)
    return found


def percentile(value: float, drawn: NDArray[np.floating], alpha: float = ALPHA) -> Interval:
    """The percentile interval of the `drawn` values around `value`; draws where it was undefined are left out."""
    there = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(there):
        return Interval(*(np.asarray(np.nan) for _ in range(3)))
    low, high = np.quantile(there, [alpha / 2, 1 - alpha / 2])
    return Interval(np.asarray(value), np.asarray(min(low, value)), np.asarray(max(high, value)))


def bootstrap(
    statistic: Callable[[Floats], Floats],
    rows: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    strata: NDArray[np.int64] | None = None,
) -> tuple[Floats, Floats]:
    """A statistic of weighted rows and its value in `draws` bootstrap samples.

    statistic: weights (B, rows) -> (B,) or (B, K). Returns its value at equal weights, () or (K,), and (draws,) or
    (draws, K).
    """
    value = statistic(np.ones((1, rows)))[0]
    drawn = []
    step = max(1, BLOCK // max(rows, 1))
    for number, first in enumerate(range(0, draws, step)):
        weights = row_weights(rows, min(step, draws - first), seed + 7919 * number, strata)
        drawn.append(statistic(weights))
    return value, np.concatenate(drawn)
