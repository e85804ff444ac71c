"""PCA whitening of features and of regions, learnt on other pictures than it is used on.

Source: H. Jegou, O. Chum, ECCV 2012 (whitening by PCA); G. Tolias et al., arXiv 1511.05879 (R-MAC: each region is
normalised, whitened and normalised again, then summed). The floor of the eigenvalues is that of VISSL, which SEER's
retrieval and copy detection were measured with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seerctl.errors import InputError

FLOOR = 1e-5  # of the largest eigenvalue: no direction is stretched beyond what it says
ROWS = 16384  # rows that are worked on at a time

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """Vectors (N, D) to (N, K): (x - mean) @ axes. mean: (D,). axes: (D, K), scaled to unit variance, float32."""

    mean: Features
    axes: Features

    @classmethod
    def fit(cls, vectors: Features, components: int, floor: float = FLOOR) -> Whitening:
        """Learn the `components` directions of most variance among `vectors` (N, D), and the scale of each.

        Eigenvalues of the covariance below `floor` times the largest count as that. There are at most D components,
        and at most N - 1: the others would hold rounding errors alone.

        Raises:
            InputError: fewer than two vectors, or all alike.
        """
        rows, dim = vectors.shape
        mean = vectors.mean(0, dtype=np.float64)
        covariance = np.zeros((dim, dim))
        for start in range(0, rows, ROWS):
            centred = (vectors[start : start + ROWS] - mean).astype(np.float32)
            covariance += (centred.T @ centred).astype(np.float64)
        values, directions = np.linalg.eigh(covariance / max(rows, 1))
        if rows < 2 or values[-1] <= 1e-12 * max(1.0, float(mean @ mean)):
            raise InputError(f"whitening: {rows} vectors that do not differ", "Learn it on a set of varied pictures")
        kept = slice(-min(components, dim, rows - 1), None)
        scaled = directions[:, kept] / np.sqrt(np.maximum(values[kept], floor * values[-1]))
        return cls(mean.astype(np.float32), np.ascontiguousarray(scaled[:, ::-1], dtype=np.float32))

    @property
    def components(self) -> int:
        """K."""
        return int(self.axes.shape[1])

    def __call__(self, vectors: Features) -> Features:
        return np.asarray((vectors - self.mean) @ self.axes, dtype=np.float32)


def unit(vectors: Features) -> Features:
    """Vectors scaled to length 1 along the last axis; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.finfo(np.float32).tiny), dtype=np.float32)


def region_vectors(features: Features, regions: int) -> Features:
    """(N * regions, D / regions) the regions of `features` (N, D), each scaled to length 1."""
    return unit(features.reshape(len(features) * regions, -1))


def descriptors(features: Features, regions: int = 1, whitening: Whitening | None = None) -> Features:
    """(N, K) one vector of length 1 a picture, from features (N, D) that hold `regions` vectors each.

    Each region: to length 1, whitened, to length 1 again; then summed, and the sum to length 1. Without whitening its
    steps are left out; a picture of one region is normalised, whitened and normalised. Regions of zeros, which fill up
    pictures of a shape that has fewer, add nothing.
    """
    found = []
    for start in range(0, len(features), ROWS // regions or 1):
        block = features[start : start + (ROWS // regions or 1)]
        vectors = region_vectors(block, regions)
        if whitening is not None:
            there = vectors.any(axis=1, keepdims=True) | (regions == 1)
            vectors = unit(whitening(vectors)) * there
        found.append(unit(vectors.reshape(len(block), regions, -1).sum(1)))
    return np.concatenate(found)
