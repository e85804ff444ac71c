"""Tables of two columns: shares, and how much the one says about the other; with weights or without."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.counts import Grouping
from seerctl.columns import Column
from seerctl.errors import UsageError

MAX_LEVELS = 1000  # values of one column that is grouped by
MAX_CELLS = 100_000  # of an intersection
_CROSS = " * "

Floats = NDArray[np.float64]


def name_of(grouping: Grouping) -> str:
    """`a*b`, as policies and the command line write it."""
    return "*".join(grouping)


def cross(columns: Mapping[str, Column], grouping: Grouping, where: str) -> Column:
    """The intersection of columns as one: a value for each combination, also those without a row.

    Rows that lack one of the values have none. The value of `a*b` is "x * y".

    Raises:
        UsageError: a column of more than 1000 values, or more than 100,000 combinations.
    """
    parts = [columns[name].coded() for name in grouping]
    sizes = [len(part.categories or ()) for part in parts]
    for name, size in zip(grouping, sizes, strict=True):
        if size > MAX_LEVELS:
            raise UsageError(f"{where}: column '{name}' has {size:,} values, too many to group by",
                             "Group by another column, or make [[bin]]s of it in the policy")  # fmt: skip
    if math.prod(sizes) > MAX_CELLS:
        raise UsageError(f"{where}: {name_of(grouping)} has {math.prod(sizes):,} combinations", "Cross fewer columns")
    if len(parts) == 1:
        return parts[0]
    codes = np.zeros(len(parts[0]), dtype=np.int32)
    for part, size in zip(parts, sizes, strict=True):
        codes = codes * size + part.values.astype(np.int32)
    missing = np.logical_or.reduce([part.missing for part in parts])
    names = itertools.product(*(part.categories or () for part in parts))
    return Column(np.where(missing, -1, codes).astype(np.int32), tuple(_CROSS.join(name) for name in names))


def totals(column: Column, weight: Floats | None = None) -> Floats:
    """(K,) rows of each value, or the sum of their weights."""
    known = column.values >= 0
    counted = column.values[known]
    weights = None if weight is None else weight[known]
    return np.bincount(counted, weights, minlength=len(column.categories or ())).astype(np.float64)


def table_of(group: Column, label: Column, weight: Floats | None = None) -> Floats:
    """(K, R) rows of each group and label, or the sums of their weights; rows that lack one of them are left out."""
    known = (group.values >= 0) & (label.values >= 0)
    rows, columns = len(group.categories or ()), len(label.categories or ())
    cells = group.values[known].astype(np.int64) * columns + label.values[known]
    weights = None if weight is None else weight[known]
    return np.bincount(cells, weights, minlength=rows * columns).reshape(rows, columns).astype(np.float64)


def differences(table: Floats) -> tuple[Floats, Floats]:
    """(K, R) P(label | group) and P(label | any other group); NaN where there is no row to tell.

    Their difference is M4's second-order bias, E[y_r | s_k = 1] - E[y_r | s_k = 0] (arXiv 2403.04547).
    """
    own, rest = table.sum(1, keepdims=True), table.sum() - table.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return table / own, (table.sum(0, keepdims=True) - table) / rest


def cramers_v(table: Floats) -> float:
    """Cramer's V, sqrt(chi^2 / (n (min(K, R) - 1))) over rows and columns that are not empty: 0 none, 1 full.

    NaN with fewer than two of either. Source: H. Cramer, Mathematical Methods of Statistics (1946), section 21.9.
    """
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    smaller = min(table.shape) - 1
    if smaller < 1:
        return math.nan
    n = table.sum()
    expected = np.outer(table.sum(1), table.sum(0)) / n
    return float(np.sqrt(((table - expected) ** 2 / expected).sum() / (n * smaller)))


def mutual_information(table: Floats) -> float:
    """sum p(k, r) log2(p(k, r) / (p(k) p(r))) in bits, of the rows as they are; NaN without a row."""
    n = table.sum()
    if n <= 0:
        return math.nan
    p = table / n
    product = np.outer(p.sum(1), p.sum(0))
    there = p > 0
    return float(max((p[there] * np.log2(p[there] / product[there])).sum(), 0.0))


def joint_codes(codes: Sequence[NDArray[np.int32]], sizes: Sequence[int]) -> NDArray[np.int64]:
    """(N,) one number for each combination of codes (-1 for missing counts as one more); equal rows have equal ones."""
    joint = np.zeros(len(codes[0]), dtype=np.int64)
    distinct = 1
    for values, size in zip(codes, sizes, strict=True):
        if distinct * (size + 1) >= 1 << 62:
            found, joint = np.unique(joint, return_inverse=True)
            distinct = len(found)
        joint = joint * (size + 1)
        joint += values
        joint += 1
        distinct *= size + 1
    return joint
