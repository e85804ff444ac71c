"""Invariance pairs: pictures of one object that differ in an attribute alone are to get one label and one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.measured import Rows, Sample
from seerctl.columns import Column
from seerctl.errors import InputError
from seerctl.features.store import FeatureFile
from seerctl.stats import Floats

NEIGHBOURS = 10
_BLOCK = 1 << 24  # similarities held at once


@dataclass(frozen=True, slots=True, eq=False)
class Families:
    """Which object a row shows, and in which variant: codes (N,), -1 where unknown. names: of the variants."""

    object: NDArray[np.intp]
    variant: NDArray[np.intp]
    names: tuple[str, ...]

    @classmethod
    def of(cls, objects: Column, variants: Column) -> Families:
        """From the columns of the objects' names and of the attribute."""
        attribute = variants.coded()
        return cls(
            objects.coded().values.astype(np.intp), attribute.values.astype(np.intp), attribute.categories or ()
        )  # fmt: skip

    def among(self, rows: Rows) -> list[Rows]:
        """The rows of each object that come in two variants or more, object by object."""
        known = rows[(self.object[rows] >= 0) & (self.variant[rows] >= 0)]
        known = known[np.argsort(self.object[known], kind="stable")]
        groups = np.split(known, np.flatnonzero(np.diff(self.object[known])) + 1)
        return [group for group in groups if len(group) > 1 and np.ptp(self.variant[group]) > 0]

    def pairs(self, group: Rows) -> NDArray[np.bool_]:
        """(n, n) True above the diagonal where two rows of one object differ in their variant."""
        variant = self.variant[group]
        return np.triu(variant[:, None] != variant[None, :], 1)


def equal_predictions(families: Families, predicted: NDArray[np.int32], rows: Rows) -> Sample | str:
    """The share of pairs with equal predictions, over all objects among `rows`.

    Objects, not pairs, are independent: the variance is that of a ratio of sums over objects.
    """
    equal, total = [], []
    for group in families.among(rows):
        pairs, own = families.pairs(group), predicted[group]
        equal.append(int((pairs & (own[:, None] == own[None, :])).sum()))
        total.append(int(pairs.sum()))
    return _ratio(np.array(equal, dtype=np.float64), np.array(total, dtype=np.float64))


def common_neighbours(families: Families, neighbours: NDArray[np.intp], rows: Rows) -> Sample | str:
    """The mean share of k nearest neighbours that two pictures of an object have in common.

    neighbours: (N, k) rows, as `nearest` finds them.
    """
    common, total = [], []
    for group in families.among(rows):
        pairs = families.pairs(group)
        _, place = np.unique(neighbours[group], return_inverse=True)
        place = place.reshape(len(group), -1)
        marks = np.zeros((len(group), int(place.max()) + 1), dtype=np.int64)
        np.put_along_axis(marks, place, 1, axis=1)
        common.append(float((marks @ marks.T)[pairs].sum()) / neighbours.shape[1])
        total.append(float(pairs.sum()))
    return _ratio(np.array(common), np.array(total))


def _ratio(part: Floats, whole: Floats) -> Sample | str:
    if not len(whole):
        return "no object in two variants"
    value = float(part.sum() / whole.sum())
    pairs = int(whole.sum())
    return Sample(value, (part - value * whole) / whole.mean(), len(whole), detail={"pairs": pairs})


def shares(families: Families, predicted: NDArray[np.int32]) -> list[tuple[str, str, int, float]]:
    """For each two variants: their names, the pairs there are, and the share with equal predictions."""
    count = len(families.names)
    equal, total = np.zeros((2, count, count), dtype=np.int64)
    for group in families.among(np.arange(len(predicted))):
        first, second = np.nonzero(families.pairs(group))
        one, two = np.sort([families.variant[group[first]], families.variant[group[second]]], axis=0)
        np.add.at(total, (one, two), 1)
        np.add.at(equal, (one, two), predicted[group[first]] == predicted[group[second]])
    return [
        (families.names[one], families.names[two], int(total[one, two]), float(equal[one, two] / total[one, two]))
        for one, two in zip(*np.nonzero(total), strict=True)
    ]


def nearest(path: Path, keys: NDArray[np.object_], families: Families, k: int) -> NDArray[np.intp]:
    """(N, k) the rows whose features are most similar by cosine, other pictures of the same object left out.

    keys: (N,) the rows' keys; the feature file may hold more rows, and has to hold these.

    Raises:
        InputError: features of corrupted pictures, a key without features, features that are not finite, or no k rows
            to choose from.
    """
    with FeatureFile.open(path) as file:
        if file.header.corruption:
            raise InputError(f"{path}: features of pictures corrupted by {file.header.corruption}", "Give clean ones")
        place = {key.decode("ascii", "replace"): row for row, key in enumerate(file.keys)}
        rows = np.array([place.get(key, -1) for key in keys], dtype=np.intp)
        if (rows < 0).any():
            raise InputError(
                f"{path}: no features of {int((rows < 0).sum()):,} of the {len(rows):,} predicted rows",
                "Give the features that the clean predictions were made from",
            )
        features = file.features()[rows]
    if not np.isfinite(features).all():
        raise InputError(f"{path}: features that are not finite")
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    found = np.empty((len(rows), k), dtype=np.intp)
    step = max(1, _BLOCK // len(rows))
    for first in range(0, len(rows), step):
        block = slice(first, first + step)
        similar = features[block] @ features.T
        own = families.object[block]
        similar[(own[:, None] == families.object) & (own[:, None] >= 0)] = -np.inf
        similar[np.arange(len(own)), np.arange(len(own)) + first] = -np.inf
        if np.isfinite(similar).sum(1).min() < k:
            raise InputError(f"{path}: fewer than {k} pictures of other objects to be neighbours", "Take a smaller 'k'")
        found[block] = np.argpartition(similar, -k, axis=1)[:, -k:]
    return found
