"""Areas and errors of scores, each with the influence of every row: equal to scikit-learn's where that has them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from seerctl.audit.measured import Sample
from seerctl.stats import Floats, clustered

BINS = 15
Mask = NDArray[np.bool_]


def roc_auc(scores: Floats, positive: Mask) -> Sample | str:
    """The area under the ROC curve of n rows: the chance that a positive row scores above a negative one.

    Ties count a half. The variance is DeLong's: of the structural components of positives and negatives. worth: four
    times the harmonic sum of both counts, what a curve near 1 is worth under a binormal model; without it one
    discordant pair among thousands would look like certainty.

    Source: E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 44 (1988) 837-845; X. Sun, W. Xu, IEEE Signal
    Processing Letters 21 (2014) 1389-1393 (from ranks).
    """
    n, m = len(scores), int(positive.sum())
    few = _one_sided(m, n - m)
    if few:
        return few
    _, tie, size = np.unique(scores, return_inverse=True, return_counts=True)
    ups = np.bincount(tie, weights=positive, minlength=len(size))
    downs = size - ups
    beaten = np.cumsum(downs) - downs / 2.0  # negatives below each tie, half of those in it
    beating = m - np.cumsum(ups) + ups / 2.0
    component = np.where(positive, beaten[tie] / (n - m), beating[tie] / m)
    area = float(component[positive].mean())
    scale = np.where(positive, n / m * math.sqrt(m / (m - 1)), n / (n - m) * math.sqrt((n - m) / (n - m - 1)))
    worth = 4.0 * m * (n - m) / n
    return Sample(
        area, (component - area) * scale, n, worth, min(m, n - m) - 1.0, detail={"positives": m, "negatives": n - m}
    )


def average_precision(scores: Floats, positive: Mask) -> Sample | str:
    """Average precision of n rows: the sum over thresholds of the step in recall times the precision there.

    With T(s) the share of rows that are positive and score at least s, and M(s) the share that score at least s, it is
    E[T(S)/M(S) | positive]; the influence of a row (y, s) is
    (y (T(s)/M(s) - AP + E[Y 1{S <= s}/M(S)]) - E[Y 1{S <= s} T(S)/M(S)^2]) / P(positive).

    worth: twice the positives.
    """
    n, m = len(scores), int(positive.sum())
    few = _one_sided(m, n - m)
    if few:
        return few
    _, tie, size = np.unique(-scores, return_inverse=True, return_counts=True)  # ties from the best to the worst
    ups = np.bincount(tie, weights=positive, minlength=len(size))
    above, hits = np.cumsum(size), np.cumsum(ups)
    precision = hits / above
    area = float((ups * precision).sum() / m)
    below = np.cumsum((ups / above)[::-1])[::-1]
    loss = np.cumsum((ups * precision / above)[::-1])[::-1]
    influence = n / m * (positive * (precision - area + below)[tie] - loss[tie])
    return Sample(area, influence, n, 2.0 * m, m - 1.0, detail={"positives": m, "negatives": n - m})


def _one_sided(positives: int, negatives: int) -> str | None:
    if min(positives, negatives) >= 2:
        return None
    rows = positives + negatives
    if not rows:
        return "no rows"
    if positives == 0:
        return f"none of {rows} rows is of the class"
    if negatives == 0:
        return f"all {rows} rows are of the class"
    return f"a single row of {rows} {'is' if positives == 1 else 'is not'} of the class"


def mean_of(samples: Iterable[Sample], what: str) -> Sample:
    """The unweighted mean of statistics of the same rows, such as one area a class; at least one."""
    count, value, doubt, freedom = 0, 0.0, 0.0, 0.0
    influence: Floats | None = None
    for sample in samples:
        influence = sample.influence if influence is None else influence + sample.influence
        count, value = count + 1, value + sample.value
        doubt, freedom = doubt + 1.0 / sample.worth, freedom + sample.freedom
    assert influence is not None
    return Sample(value / count, influence / count, len(influence), count**2 / doubt, freedom, detail={what: count})


def mean(values: Floats, worth: float = math.inf, *, ceiling: float = 1.0) -> Sample | str:
    """The mean of one number between 0 and `ceiling` a row."""
    if not len(values):
        return "no rows"
    value = float(values.mean())
    return Sample(value, values - value, len(values), worth, ceiling=ceiling)


def balanced_accuracy(label: NDArray[np.int32], right: Mask, classes: Mask) -> Sample | str:
    """The mean over the classes of the mask `classes` (C,) of the share of their rows that are right.

    least: the variance by Agresti's and Coull's rates, (hits + 2)/(n + 4), so that a class of five that are all right
    is not taken for certain.
    """
    rows = np.bincount(label, minlength=len(classes))
    used = classes & (rows > 0)
    if not used.any():
        return "no row of a class that both sides have" if len(label) else "no rows"
    hits = np.bincount(label[right], minlength=len(classes))
    count, rate = int(used.sum()), np.divide(hits, rows, out=np.zeros(len(rows)), where=used)
    value = float(rate[used].mean())
    weight = np.divide(len(label) / count, rows, out=np.zeros(len(rows)), where=used)
    smooth, more = (hits[used] + 2.0) / (rows[used] + 4.0), rows[used] + 4.0
    least = float((smooth * (1.0 - smooth) / more).sum()) / count**2
    influence = weight[label] * (right - rate[label])
    return Sample(value, influence, len(label), least=least, detail={"classes": count})


# ----------------------------------------------------------------------------------------------------- calibration


def width_edges(bins: int) -> Floats:
    """The inner edges of `bins` bins of equal width; a confidence on an edge is of the lower bin."""
    return np.linspace(0.0, 1.0, bins + 1)[1:-1]


def mass_edges(confidence: Floats, bins: int) -> Floats:
    """The inner edges of `bins` bins of (nearly) equal numbers of rows; equal confidences stay together."""
    return np.quantile(confidence, np.linspace(0.0, 1.0, bins + 1)[1:-1])


def calibration_error(
    confidence: Floats, right: Mask, edges: Floats, clusters: NDArray[np.intp] | None = None
) -> Sample | str:
    """Expected calibration error: the sum over the bins of |sum of (confidence - right)| / n.

    A sum of absolute values is too large when there are few rows: with m rows a bin of a perfect model shows about
    0.4/sqrt(m). So a small group looks badly calibrated beside a large one although it is not. `excess` bounds how
    much of the value may be that noise, bin by bin (the mean of a folded normal variable less its centre, the centre
    taken two standard errors nearer to zero), and the lower limit makes allowance for it. detail: bins in use, and what
    a perfectly calibrated model would show on as many rows (`by_chance`).

    Source: C. Guo et al., ICML 2017 (arXiv 1706.04599), equation 3.
    """
    n = len(right)
    if not n:
        return "no rows"
    place, off = np.searchsorted(edges, confidence, side="left"), confidence - right
    count = len(edges) + 1
    bias = np.bincount(place, weights=off, minlength=count) / n
    value = float(np.abs(bias).sum())
    squares = np.bincount(place, weights=off**2, minlength=count) / n
    model = np.bincount(place, weights=confidence * (1.0 - confidence), minlength=count) / n
    variance = np.maximum(squares - bias**2, model) / n  # a bin that happens to be all right is not without noise
    if clusters is not None:
        variance = np.maximum(variance, _clustered_bins(place, off, bias, clusters))
    spread = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = np.maximum(np.abs(np.where(spread > 0, bias / spread, 0.0)) - 2.0, 0.0)
    excess = float((spread * _folded(centre)).sum())
    influence = np.sign(bias)[place] * off - value
    detail = {"bins": int((np.bincount(place, minlength=count) > 0).sum()), "by_chance": _by_chance(model, n)}
    return Sample(
        value, influence, n, excess=min(excess, value), least=float(variance.sum()), score=False, detail=detail
    )


def _by_chance(model: Floats, n: int) -> float:
    return float(np.sqrt(2.0 / math.pi * model / n).sum())


def _folded(x: Floats) -> Floats:
    """E|N(x, 1)| - x for x >= 0."""
    density = np.exp(-(x**2) / 2.0) / math.sqrt(2.0 * math.pi)
    return np.asarray(2.0 * (density - x * ndtr(-x)), dtype=np.float64)


def _clustered_bins(place: NDArray[np.intp], off: Floats, bias: Floats, clusters: NDArray[np.intp]) -> Floats:
    found = np.zeros(len(bias))
    for code in np.unique(place):
        found[code] = clustered(np.where(place == code, off, 0.0) - bias[code], clusters)[0]
    return found


def overconfidence(confidence: Floats, right: Mask) -> Sample | str:
    """Mean confidence less accuracy: above 0 where the model is surer than it should be."""
    if not len(right):
        return "no rows"
    off = confidence - right
    value = float(off.mean())
    least = float((confidence * (1.0 - confidence)).sum()) / len(off) ** 2
    detail = {"confidence": float(confidence.mean()), "accuracy": float(right.mean())}
    return Sample(value, off - value, len(off), floor=-1.0, least=least, score=False, detail=detail)
