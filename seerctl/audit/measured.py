"""From rows to findings: a number for each group, its difference to the rest, and how surely both are known.

A metric here is a function of rows that also says how much each row adds to it (its influence): the variance of any
smooth number follows from that in one pass, with and without clusters, and no draw is random. Limits are Wilson's at
the effective sample size, the gap's limits come from those of both sides (see `stats`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.counts import GroupRows
from seerctl.audit.suite import Finding
from seerctl.columns import Column
from seerctl.errors import UsageError, did_you_mean
from seerctl.stats import Estimate, Floats, clustered, gap_limits, shared_spread

if TYPE_CHECKING:
    from seerctl.audit.policy import SuiteCheck

Rows = NDArray[np.intp]
OPTIONS = ("cls", "k", "at", "labels", "household", "columns", "shares", "sample")
_IN_A_POLICY = {"cls": "positive"}


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A number measured on some rows.

    influence: (n,) what each row (or unit) adds to n times the number, of mean 0. n: the rows or units it rests on.
    worth, floor, ceiling, excess, score: as in `stats.Estimate`. freedom: of its variance without clusters. least: a
    variance that it has at least. detail: counts for the report.
    """

    value: float
    influence: Floats
    n: int
    worth: float = math.inf
    freedom: float = math.inf
    floor: float = 0.0
    ceiling: float = 1.0
    excess: float = 0.0
    least: float = 0.0
    score: bool = True
    detail: Mapping[str, Any] = field(default_factory=dict)

    def estimate(self, clusters: NDArray[np.intp] | None) -> Estimate:
        """The number with its variance; `clusters` (n,) are codes of units whose rows may resemble each other."""
        variance, units = clustered(self.influence, clusters)
        worth = self.worth
        if variance == 0.0:  # all alike: as many rows or clusters as there are say so, no more
            worth = min(worth, float(units))
        freedom = self.freedom if clusters is None else min(self.freedom, units - 1.0)
        return Estimate(
            self.value, max(variance, self.least), worth, freedom, self.floor, self.ceiling, self.excess, self.score
        )


# What is measured on some rows; the second rows are those it will be compared with, None where it stands alone. Text:
# why it cannot be measured.
Statistic = Callable[[Rows, Rows | None], Sample | str]


def findings(
    check: SuiteCheck,
    rows: GroupRows,
    statistic: Statistic,
    *,
    cls: str | None = None,
    clusters: NDArray[np.intp] | None = None,
    unit: str = "rows",
) -> list[Finding]:
    """One finding for each group: its number, or (against "rest") its difference to that of all other groups.

    rows: the group of each row. clusters: (N,) codes of households or people. unit: what `n` counts, in messages.
    """
    return [_finding(check, rows, group, statistic, cls, clusters, unit) for group in range(len(rows.groups))]


def _finding(
    check: SuiteCheck, rows: GroupRows, group: int, statistic: Statistic, cls: str | None,
    clusters: NDArray[np.intp] | None, unit: str,
) -> Finding:  # fmt: skip
    inside = np.flatnonzero(rows.codes == group)
    rest = np.flatnonzero((rows.codes >= 0) & (rows.codes != group)) if check.against == "rest" else None
    named = dict(zip(rows.grouping, rows.groups[group], strict=True))
    own = statistic(inside, rest)
    if isinstance(own, str):
        return Finding(check.id, check.metric, math.nan, len(inside), named, cls, reason=own)
    evidence: dict[str, Any] = {"value": own.value, unit: own.n, **own.detail}
    if clusters is not None:
        evidence["clusters"] = len(np.unique(clusters[inside]))
    make = functools.partial(Finding, check.id, check.metric, n=own.n, group=named, cls=cls, evidence=evidence)
    few = _too_few(own, check.min_n, unit, None if clusters is None else clusters[inside])
    if rest is None:
        if few:
            return make(value=own.value, reason=few)
        return make(value=own.value, interval=own.estimate(None if clusters is None else clusters[inside]).limits)
    other = statistic(rest, inside)
    if isinstance(other, str):
        return make(value=math.nan, reason=f"the rest: {other}" if len(rest) else "no other group to compare with")
    evidence["rest"] = {"value": other.value, unit: other.n, **other.detail}
    gap = own.value - other.value
    few = few or _too_few(other, check.min_n, f"{unit} in the rest", None if clusters is None else clusters[rest])
    if few:
        return make(value=gap, reason=few)
    return make(value=gap, interval=_gap_interval(own, other, clusters, inside, rest))


def _too_few(sample: Sample, needed: int, unit: str, clusters: NDArray[np.intp] | None) -> str | None:
    if sample.n < needed:
        return f"{sample.n} {unit}, {needed} needed"
    if clusters is not None and (clusters == clusters[0]).all():
        return f"a single cluster of {unit}"
    return None


def _gap_interval(
    own: Sample, other: Sample, clusters: NDArray[np.intp] | None, inside: Rows, rest: Rows
) -> Callable[[float], tuple[float, float]]:
    if clusters is None:
        one, two, spread = own.estimate(None), other.estimate(None), 1.0
    else:
        one, two = own.estimate(clusters[inside]), other.estimate(clusters[rest])
        spread = shared_spread(own.influence, clusters[inside], other.influence, clusters[rest])
    return lambda alpha: gap_limits(one, two, alpha, spread)


# ---------------------------------------------------------------------------------------------------- what checks say


def refuse_unused(check: SuiteCheck, used: Sequence[str]) -> None:
    """Refuse the keys of a check that its metric has no use for.

    Raises:
        UsageError: one of them is set.
    """
    for name in OPTIONS:
        value = getattr(check, name)
        if name not in used and not (value is None or value is False or value == ()):
            key = _IN_A_POLICY.get(name, name)
            raise UsageError(f"check '{check.id}': {check.metric} has no use for '{key}'", "Leave it out")


def column(check: SuiteCheck, columns: Mapping[str, Column], name: str) -> Column:
    """The column `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in columns:
        raise UsageError(f"check '{check.id}': no column '{name}'", did_you_mean(name, columns) if columns else "")
    return columns[name]


def clusters_of(check: SuiteCheck, columns: Mapping[str, Column]) -> NDArray[np.intp] | None:
    """(N,) the cluster of each row by the check's household column, None where it names none.

    A row without a value is a cluster by itself.

    Raises:
        UsageError: no such column.
    """
    if check.household is None:
        return None
    codes = column(check, columns, check.household).coded().values.astype(np.intp)
    alone = codes < 0
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(int(alone.sum()))
    return codes
