"""How well a clustering agrees with labels: from the table of both, with intervals by the bootstrap.

Sources: A. Strehl, J. Ghosh, JMLR 3 (2002) 583-617 (normalised mutual information); N. X. Vinh et al., JMLR 11 (2010)
2837-2854 (adjusted for chance); L. Hubert, P. Arabie, Journal of Classification 2 (1985) 193-218 (adjusted Rand index).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import expected_mutual_information

from seerctl.stats import Estimate, Floats, Interval

REPLICATES = 500
MEASURES = ("nmi", "ami", "ari", "purity")
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The cells of a contingency table that are not empty: counts (M,), the cluster and the label (M,) of each.

    Cells are sorted by cluster. clusters, labels: how many there are.
    """

    counts: Floats
    cluster: Codes
    label: Codes
    clusters: int
    labels: int

    @classmethod
    def of(cls, clusters: Codes, labels: Codes) -> Table:
        """From the codes (N,) of both; those that do not occur are left out."""
        names, cluster = np.unique(clusters, return_inverse=True)
        kinds, label = np.unique(labels, return_inverse=True)
        cells, counts = np.unique(cluster * len(kinds) + label, return_counts=True)
        return cls(counts.astype(np.float64), cells // len(kinds), cells % len(kinds), len(names), len(kinds))

    def _sums(self, counts: Floats, place: Codes, size: int) -> Floats:
        """(R, size) sums of counts (R, M) by cluster or label."""
        shape = (len(place), size)
        table = sparse.csr_matrix((np.ones(len(place)), (np.arange(len(place)), place)), shape=shape)
        return np.asarray((table.T @ counts.T).T, dtype=np.float64)

    def expected(self) -> float:
        """The mutual information that clusters and labels of these sizes have by chance."""
        cells = (self.counts, (self.cluster, self.label))
        whole = sparse.csr_matrix(cells, shape=(self.clusters, self.labels)).astype(np.int64)
        return float(expected_mutual_information(whole, int(self.counts.sum())))

    def measures(self, counts: Floats, expected: float) -> dict[str, Floats]:
        """`MEASURES` (R,) of each row of cell counts (R, M). expected: chance's mutual information."""
        n = counts.sum(1)
        a, b = self._sums(counts, self.cluster, self.clusters), self._sums(counts, self.label, self.labels)
        joint, one, two = (_entropy(part, n) for part in (counts, a, b))
        shared, mean = one + two - joint, (one + two) / 2.0
        starts = np.searchsorted(self.cluster, np.arange(self.clusters))
        pairs, first, second, every = (_pairs(part) for part in (counts, a, b, n[:, None]))
        chance = first * second / every
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "nmi": np.where(mean > 0, shared / mean, 1.0),
                "ami": np.where(np.abs(mean - expected) > 1e-12, (shared - expected) / (mean - expected), 1.0),
                "ari": np.where(first + second > 2 * chance, (pairs - chance) / ((first + second) / 2 - chance), 1.0),
                "purity": np.maximum.reduceat(counts, starts, axis=1).sum(1) / n,
            }


def agreement(table: Table, alpha: float = 0.05, *, replicates: int = REPLICATES, seed: int = 0) -> dict[str, Interval]:
    """Each of `MEASURES` with normal limits: their variance is that over samples drawn anew, of the same clusters.

    Percentiles of the replicates are not used: information of drawn samples is too high, the more the fewer they are.
    """
    n, expected = int(table.counts.sum()), table.expected()
    values = table.measures(table.counts[None], expected)
    generator, found = np.random.default_rng(seed), []
    step = max(1, (1 << 22) // len(table.counts))
    for start in range(0, replicates, step):
        drawn = generator.multinomial(n, table.counts / n, size=min(step, replicates - start))
        found.append(table.measures(drawn.astype(np.float64), expected))
    intervals = {}
    for name in MEASURES:
        spread = np.concatenate([part[name] for part in found])
        floor = -1.0 if name in ("ami", "ari") else 0.0
        value = float(values[name][0])
        estimate = Estimate(value, max(float(spread.var(ddof=1)), 1.0 / (n * n)), floor=floor, score=False)
        intervals[name] = Interval(*(np.asarray(number) for number in (value, *estimate.limits(alpha))))
    return intervals


def matched(clusters: Codes, labels: Codes) -> int:
    """How many rows agree under the best one-to-one matching of clusters to labels (Hungarian method)."""
    table = Table.of(clusters, labels)
    dense = np.zeros((table.clusters, table.labels))
    dense[table.cluster, table.label] = table.counts
    rows, columns = linear_sum_assignment(dense, maximize=True)
    return int(dense[rows, columns].sum())


def _entropy(counts: Floats, n: Floats) -> Floats:
    """(R,) in nats, of counts (R, M) that sum to n (R,)."""
    share = counts / n[:, None]
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.asarray(-(share * logs).sum(1))


def _pairs(counts: Floats) -> Floats:
    return np.asarray((counts * (counts - 1.0) / 2.0).sum(1))
