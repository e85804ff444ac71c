"""Average precision of ranked rows, by three rules, for many bootstrap samples at once.

area: the sum over the positives of the precision at each, ties taken together: scikit-learn's. voc: the area under the
largest precision at any recall as high, PASCAL's rule from 2010 on, and what VISSL reports of its SVMs. voc11: the mean
of that at recall 0, 0.1, ..., 1, PASCAL's rule up to 2009.

Source: M. Everingham et al., IJCV 88 (2010) 303-338, section 4.2, and the development kit of VOC 2010.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rule = Literal["area", "voc", "voc11"]


def average_precision(
    scores: NDArray[np.floating], truth: NDArray[np.integer], weights: Floats | None = None, rule: Rule = "area"
) -> Floats:
    """(B,) the average precision of one class in B weighted samples of rows; NaN where no positive is left.

    scores: (n,). truth: (n,) 1 positive, 0 negative, -1 ignored. weights: (B, n), one sample of equal weights if None.
    """
    known = truth >= 0
    order = np.flatnonzero(known)[np.argsort(-scores[known], kind="stable")]
    mass = np.ones((1, len(order))) if weights is None else weights[:, order]
    if not len(order):
        return np.full(len(mass), np.nan)
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # of each group of equal scores
    found = np.cumsum(mass * truth[order], axis=1)[:, last]
    taken = np.cumsum(mass, axis=1)[:, last]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(taken > 0, found / taken, 0.0)
        recall = found / found[:, -1:]
    if rule != "area":
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    if rule == "voc11":
        levels = np.linspace(0, 1, 11) - 1e-12  # a recall of 0.3 may be 0.29999...
        value = np.mean([np.where(recall >= level, precision, 0.0).max(1) for level in levels], axis=0)
    else:
        value = (np.diff(recall, axis=1, prepend=0.0) * precision).sum(1)
    return np.asarray(np.where(found[:, -1] > 0, value, np.nan))


def class_precisions(
    scores: NDArray[np.floating], truth: NDArray[np.integer], weights: Floats | None = None, rule: Rule = "area"
) -> Floats:
    """(B, C) `average_precision` of each class. scores, truth: (n, C). weights: (B, n)."""
    columns = [average_precision(scores[:, c], truth[:, c], weights, rule) for c in range(scores.shape[1])]
    return np.stack(columns, axis=1)
