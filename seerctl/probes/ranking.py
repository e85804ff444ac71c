"""Where the relevant rows of an index stand in a query's ranking, and what mark that ranking gets.

The rule is that of the Oxford and Paris evaluation as revisited: rows that are junk for a query are taken out of its
ranking, the average precision is the area under the precision-recall curve by trapezoids, and precision at k is taken
at the last relevant row's rank where that comes before k.

Source: F. Radenovic et al., CVPR 2018 (arXiv 1803.11285), section 3.1; J. Philbin et al., CVPR 2007 (the trapezoids).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUERY_CELLS = 1 << 24  # similarities held at once

Rows = NDArray[np.intp]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What one query should find: index rows that are relevant, and rows that do not count either way."""

    relevant: Rows
    junk: Rows


def similarities(
    queries: NDArray[np.float32], index: NDArray[np.float32], progress: Callable[[int], None] | None = None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(q, (N,) dot products with the rows of `index`) for each query in order."""
    step = max(1, QUERY_CELLS // len(index))
    for start in range(0, len(queries), step):
        block = queries[start : start + step] @ index.T
        for place, row in enumerate(block):
            yield start + place, row
        if progress is not None:
            progress(len(block))


def ranks(similarity: NDArray[np.floating], wanted: Wanted) -> Rows:
    """(P,) the places, from 0, of the relevant rows in the ranking without junk, in rising order.

    similarity: (N,) of the whole index. Equal similarities are ranked in the order of rows.
    """
    ordered = np.sort(similarity)  # values alone: several times faster than an argsort
    marked = np.concatenate([wanted.relevant, wanted.junk])
    value = similarity[marked]
    above = len(ordered) - np.searchsorted(ordered, value, side="right")
    ties = len(ordered) - np.searchsorted(ordered, value, side="left") - above > 1
    for place in np.flatnonzero(ties):
        above[place] += int((similarity[: marked[place]] == value[place]).sum())
    relevant, junk = above[: len(wanted.relevant)], np.sort(above[len(wanted.relevant) :])
    return np.sort(relevant - np.searchsorted(junk, relevant))


def average_precision(places: Rows) -> float:
    """The area under the precision-recall curve through relevant rows at `places` (P,), by trapezoids; NaN for none.

    With j relevant rows before the one at place r: mean of j/r (1 where r is 0) and (j + 1)/(r + 1), over all P.
    """
    if not len(places):
        return float("nan")
    before = np.arange(len(places), dtype=np.float64)
    left = np.divide(before, places, out=np.ones(len(places)), where=places > 0)
    right = (before + 1.0) / (places + 1.0)
    return float(((left + right) / 2.0).mean())


def precision_at(places: Rows, ks: Sequence[int]) -> Floats:
    """(K,) the share of relevant rows among the first k, or among those up to the last relevant one if it comes before.

    NaN without relevant rows.
    """
    if not len(places):
        return np.full(len(ks), np.nan)
    depth = np.minimum(np.asarray(ks), places[-1] + 1)
    found: Floats = np.searchsorted(places, depth) / depth
    return found


def recall_at(places: Rows, ks: Sequence[int]) -> Floats:
    """(K,) 1 where any relevant row is among the first k, else 0 (the Recall@K of metric learning); NaN without any."""
    if not len(places):
        return np.full(len(ks), np.nan)
    return np.asarray(places[0] < np.asarray(ks), dtype=np.float64)
