"""Coordinates in which linear models are fitted quickly: standardised features in their principal axes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 65536  # at most, of a piece
PIECE = 1 << 20  # logits of a piece of rows
SMALL = 20_000_000  # multiplications of one evaluation
RANK = 1e-12  # of the largest variance: smaller ones are rounding


@dataclass(frozen=True, slots=True)
class Scaler:
    """Features to zero mean and unit variance; a constant feature is only centred. mean, scale: (D,)."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Scaler:
        """Mean and standard deviation (of the population) of the rows of `features` (n, D)."""
        mean, deviation = features.double().mean(0), features.double().std(0, correction=0)
        deviation[deviation <= 1e-12 * mean.abs() + 1e-30] = 1.0
        return cls(mean, deviation)

    def __call__(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.scale).to(features.dtype)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Principal axes of features: axes (D, R), one a column, and the mean square along each, (R,).

    With fewer rows than dimensions R is their rank: weights outside the span of the rows would only add to a penalty.
    """

    axes: Tensor
    variance: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Rotation:
        """Axes of the rows of `features` (n, D)."""
        n, dim = features.shape
        if n < dim:
            _, singular, right = torch.linalg.svd(features.double(), full_matrices=False)
            keep = singular**2 > RANK * singular.max() ** 2
            keep[0] = True  # of features that are all zero too
            return cls(right[keep].T.contiguous(), singular[keep] ** 2 / n)
        gram = torch.zeros(dim, dim, dtype=torch.float64, device=features.device)
        for piece in pieces(n, 1):
            rows = features[piece]
            gram += (rows.T @ rows).double()
        variance, axes = torch.linalg.eigh(gram / n)
        return cls(axes, variance.clamp_min(0.0))

    def __call__(self, features: Tensor) -> Tensor:
        return features @ self.axes.to(features.dtype)


def pieces(rows: int, width: int) -> Iterator[slice]:
    """Consecutive slices of `rows`, so short that `width` numbers for each row fit into a cache or two."""
    step = min(ROWS, max(1024, PIECE // max(width, 1)))
    for first in range(0, rows, step):
        yield slice(first, first + step)


@contextlib.contextmanager
def few_threads(work: int) -> Iterator[None]:
    """One thread for `work` too small to share: on a busy machine its barriers would cost ten times the work."""
    before = torch.get_num_threads()
    if work < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
