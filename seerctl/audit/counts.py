"""Counts by group: one pass over coded columns, from which every rate of the audit follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seerctl.columns import Column

JOINT_CELLS = 1 << 22  # up to here all groupings come from one joint table of counts
_ROWS = 1 << 15

Counts = NDArray[np.int64]
Grouping = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GroupCounts:
    """Counts of G groups over C classes.

    grouping: the columns. groups: G tuples of their values, those with rows only. n: (G,) rows. labelled, predicted,
    correct: (G, C) rows of that label, of that prediction, of both. missing: rows without a value in some column.
    """

    grouping: Grouping
    groups: tuple[tuple[str, ...], ...]
    n: Counts
    labelled: Counts
    predicted: Counts
    correct: Counts
    missing: int

    def rest(self) -> GroupCounts:
        """For each group, the counts of all other groups together."""
        return GroupCounts(
            self.grouping, self.groups, self.n.sum() - self.n, self.labelled.sum(0) - self.labelled,
            self.predicted.sum(0) - self.predicted, self.correct.sum(0) - self.correct, self.missing,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class GroupRows:
    """Which group each of N rows is of: codes (N,) into `groups`, -1 where a column of `grouping` has no value."""

    grouping: Grouping
    groups: tuple[tuple[str, ...], ...]
    codes: NDArray[np.intp]

    def only(self, rows: NDArray[np.bool_]) -> GroupRows:
        """The same groups, with the rows outside the mask `rows` in none of them."""
        return GroupRows(self.grouping, self.groups, np.where(rows, self.codes, -1))


def group_rows(columns: Mapping[str, Column], grouping: Grouping, rows: int) -> GroupRows:
    """The group of each of `rows` rows, for the groups that have any; without columns, all are one group."""
    cell, known = np.zeros(rows, dtype=np.intp), np.ones(rows, dtype=np.bool_)
    coded = [columns[name].coded() for name in grouping]
    for column in coded:
        cell = cell * max(1, len(column.categories or ())) + np.maximum(column.values, 0)
        known &= column.values >= 0
    there, inverse = np.unique(cell[known], return_inverse=True)
    codes = np.full(rows, -1, dtype=np.intp)
    codes[known] = inverse
    levels = [column.categories or () for column in coded]
    places = np.unravel_index(there, tuple(map(len, levels))) if grouping and len(there) else [[]] * len(grouping)
    named = zip(*places, strict=True) if grouping else [()] * len(there)
    return GroupRows(
        grouping,
        tuple(tuple(level[int(code)] for level, code in zip(levels, at, strict=True)) for at in named),
        codes,
    )


def count(
    label: NDArray[np.int32],
    prediction: NDArray[np.int32],
    classes: int,
    columns: Mapping[str, Column],
    groupings: Sequence[Grouping],
) -> dict[Grouping, GroupCounts]:
    """Counts for each of `groupings`; label and prediction are (N,) codes below `classes`, all known."""
    names = list(dict.fromkeys(name for grouping in groupings for name in grouping))
    sizes = [len(columns[name].categories or ()) + 1 for name in names]  # one more for missing values
    if math.prod(sizes) * classes**2 <= JOINT_CELLS:
        codes = [*(columns[name].values for name in names), label, prediction]
        table = tabulate(codes, [*sizes, classes, classes])
        return {grouping: _from_joint(table, names, grouping, columns) for grouping in groupings}
    return {grouping: _one(grouping, columns, label, prediction, classes) for grouping in groupings}


def tabulate(codes: Sequence[NDArray[np.int32]], sizes: Sequence[int]) -> Counts:
    """How often each combination of `codes`, each (N,), occurs: an array of shape `sizes`.

    A missing value (-1) is counted in the last place of its axis. Some rows at a time, so that they stay in the cache.
    """
    table = np.zeros(math.prod(sizes), dtype=np.int64)
    for start in range(0, len(codes[0]), _ROWS):
        cell: NDArray[np.intp] | None = None
        for values, size in zip(codes, sizes, strict=True):
            part = values[start : start + _ROWS]
            if part.min() < 0:
                part = np.where(part < 0, size - 1, part)
            if cell is None:
                cell = part.astype(np.intp)
            else:
                cell *= size
                cell += part
        table += np.bincount(cell, minlength=len(table))  # type: ignore[arg-type]  # codes has at least one array
    return table.reshape(tuple(sizes))


def _from_joint(table: Counts, names: Sequence[str], grouping: Grouping, columns: Mapping[str, Column]) -> GroupCounts:
    axes = [names.index(name) for name in grouping]
    others = tuple(axis for axis in range(len(names)) if axis not in axes)
    marginal = table.sum(axis=others)
    kept = [name for name in names if name in grouping]
    marginal = marginal.transpose(*(kept.index(name) for name in grouping), -2, -1)
    known = marginal[tuple(slice(0, -1) for _ in grouping)]
    missing = int(marginal.sum() - known.sum())
    cells = known.reshape(-1, *known.shape[-2:])
    return _named(
        grouping, columns, cells.sum((1, 2)), cells.sum(2), cells.sum(1), np.diagonal(cells, axis1=1, axis2=2), missing
    )


def _one(
    grouping: Grouping, columns: Mapping[str, Column], label: NDArray[np.int32], prediction: NDArray[np.int32],
    classes: int,
) -> GroupCounts:  # fmt: skip
    """One grouping by itself, without the table over pairs of classes."""
    sizes = [len(columns[name].categories or ()) for name in grouping]
    known = np.logical_and.reduce([columns[name].values >= 0 for name in grouping])
    group = np.zeros(int(known.sum()), dtype=np.intp)
    for name, size in zip(grouping, sizes, strict=True):
        group = group * size + columns[name].values[known]
    said, is_so = prediction[known], label[known]
    groups = math.prod(sizes)

    def by_class(rows: NDArray[np.intp], values: NDArray[np.int32]) -> Counts:
        return np.bincount(rows * classes + values, minlength=groups * classes).reshape(groups, classes)

    right = said == is_so
    return _named(
        grouping, columns, np.bincount(group, minlength=groups), by_class(group, is_so), by_class(group, said),
        by_class(group[right], said[right]), int((~known).sum()),
    )  # fmt: skip


def _named(
    grouping: Grouping, columns: Mapping[str, Column], n: Counts, labelled: Counts, predicted: Counts, correct: Counts,
    missing: int,
) -> GroupCounts:  # fmt: skip
    """Counts of the groups that have rows, with their names."""
    levels = [columns[name].categories or () for name in grouping]
    there = np.flatnonzero(n)
    places = np.unravel_index(there, tuple(map(len, levels))) if len(there) else ()
    groups = tuple(
        tuple(level[int(code)] for level, code in zip(levels, codes, strict=True))
        for codes in zip(*places, strict=True)
    )
    return GroupCounts(grouping, groups, n[there], labelled[there], predicted[there], correct[there], missing)
