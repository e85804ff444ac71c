"""The gate: from counts and findings to verdicts, by intervals that are corrected for the number of comparisons.

A comparison is FAIL when its interval lies wholly beyond what the policy allows, PASS when it lies wholly inside, else
INCONCLUSIVE; with too few rows it is NOT ASSESSED, and listed. A number that is exact, being counted over everything
there is, is PASS or FAIL by itself and no part of any correction. Intervals of counted rates: Wilson's for a rate, and
for a difference Newcombe's (of method 10 for two rates of the same rows), with effective numbers of trials where a
bootstrap measured the spread (see `clusters`); those of findings are the suites' own.

With M comparisons in a family at level alpha, PASS is judged at alpha/M; FAIL at alpha/M (bonferroni) or at
alpha/(M - i) for the i-th most extreme one as long as all before it fail (holm). So the chance that any comparison of a
family fails although the truth is within the tolerance is at most alpha. A family is all that a report judges, over all
its suites, at one severity. The largest difference between groups is never judged: its estimate grows with the number
of groups even when all are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from seerctl.audit.counts import Counts, GroupCounts
from seerctl.audit.indicators import METRICS, default_positive
from seerctl.audit.policy import AnyCheck, Check, Stats, SuiteCheck
from seerctl.audit.suite import Finding
from seerctl.errors import UsageError, did_you_mean
from seerctl.stats import Floats, Interval, adjust, macro_z, two_sided_p, wilson_z, z_quantile

MACRO = "macro"
_BISECTIONS = 45
_SLACK = 1e-12  # rounding of exact numbers: 0.55 - 0.5 is not more than 0.05

Mask = NDArray[np.bool_]


class Verdict(StrEnum):
    """In the order of urgency."""

    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_ASSESSED = "NOT ASSESSED"
    PASS = "PASS"  # noqa: S105


class Comparisons(Protocol):
    """Numbers that one check judges, in an array of any shape (G, K)."""

    @property
    def check(self) -> AnyCheck: ...

    @property
    def largest_z(self) -> float:
        """Up to which normal quantile the intervals are known."""

    def assessed(self) -> Mask:
        """(G, K) which of them can be judged."""

    def exact(self) -> Mask:
        """(G, K) which of them have no uncertainty."""

    def interval(self, z: Floats) -> Interval:
        """The numbers and their limits at normal quantiles `z` (G, K)."""

    def at(self, mask: Mask) -> Comparisons:
        """Those of `mask` (G, K) as an array of one column."""


# ---------------------------------------------------------------------------------------------------- counted rates


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Rates of G groups: events over trials, (G, K), or (G, 1, C) for means over C classes.

    effective: (G, K) the number of independent trials that would spread as much as the rates do; None: `trials`.
    """

    events: NDArray[Any]
    trials: NDArray[Any]
    effective: Floats | None = None

    @property
    def is_mean(self) -> bool:
        """Whether the rates are means over classes."""
        return self.events.ndim == 3

    def size(self) -> NDArray[Any]:
        """(G, K) trials; for a mean the sum over its classes."""
        return self.trials.sum(-1) if self.is_mean else self.trials

    def value(self) -> Floats:
        """(G, K) the rates, NaN without trials."""
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = self.events / self.trials
            if not self.is_mean:
                return np.asarray(rates)
            there = self.trials > 0
            return np.asarray(np.where(there, rates, 0.0).sum(-1) / there.sum(-1))

    def interval(self, z: Floats) -> Interval:
        """The rates and their limits at normal quantiles `z` (G, K)."""
        if self.effective is not None:
            return wilson_z(self.value() * self.effective, self.effective, z)
        return (macro_z if self.is_mean else wilson_z)(self.events, self.trials, z)

    def at(self, mask: Mask) -> Side:
        """The rates of `mask` (G, K) as one column."""
        effective = None if self.effective is None else self.effective[mask][:, None]
        return Side(np.expand_dims(self.events[mask], 1), np.expand_dims(self.trials[mask], 1), effective)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The comparisons of one check in one grouping: G groups times K classes (K = 1 for accuracy and for means).

    own: the groups' rates. other: what they are compared with, none against a threshold. classes: K names, None for
    accuracy. correlation: (G, K) of the two rates, where they come from the same rows. clusters: (G,) clusters of the
    groups and of their others, where the spread is that of clusters; `min_clusters` of them are needed. method: where
    the limits come from, for the report.
    """

    check: Check
    counts: GroupCounts
    classes: tuple[str | None, ...]
    own: Side
    other: Side | None
    correlation: Floats | None = None
    clusters: tuple[Counts, Counts] | None = None
    min_clusters: int = 0
    method: str = ""
    largest_z: float = 40.0

    def interval(self, z: Floats) -> Interval:
        """The judged number (gap, change or rate) and its limits at normal quantiles `z` (G, K)."""
        if self.clusters is not None:  # Student's quantile: few clusters do not know their own spread
            free = np.maximum(np.minimum(*self.clusters) - 1.0, 1.0)[:, None]
            z = np.asarray(-stdtrit(free, np.maximum(ndtr(-z), 1e-300)))
        one = self.own.interval(z)
        if self.other is None:
            return one
        return _difference(one, self.other.interval(z), 0.0 if self.correlation is None else self.correlation)

    def at(self, mask: Mask) -> Block:
        """The comparisons of `mask` (G, K) as a block of one column."""
        rows = np.nonzero(mask)[0]
        return replace(
            self,
            classes=(None,),
            own=self.own.at(mask),
            other=None if self.other is None else self.other.at(mask),
            correlation=None if self.correlation is None else self.correlation[mask][:, None],
            clusters=None if self.clusters is None else (self.clusters[0][rows], self.clusters[1][rows]),
        )

    def exact(self) -> Mask:
        """Nothing: rows are a sample."""
        return np.zeros(self.own.size().shape, dtype=np.bool_)

    def assessed(self) -> Mask:
        """(G, K) whether both sides have the rows, the trials and the clusters that the check asks for."""
        rows, rest = self.counts.n[:, None], (self.counts.n.sum() - self.counts.n)[:, None]
        enough = (rows >= self.check.min_n) & (self.own.size() >= self.check.needed_trials)
        if self.other is not None:
            enough &= self.other.size() >= self.check.needed_trials
        if self.check.against == "rest":
            enough &= rest >= self.check.min_n
        if self.clusters is not None:
            enough &= np.minimum(*self.clusters)[:, None] >= self.min_clusters
        return np.asarray(enough)


def _difference(one: Interval, two: Interval, correlation: Floats | float) -> Interval:
    """The difference of two rates from their own limits; without correlation this is Newcombe's hybrid score interval.

    Source: G. Y. Zou, A. Donner, Statistics in Medicine 27 (2008) 1693-1702; R. G. Newcombe, 17 (1998) 2635-2650.
    """

    def distance(a: Floats, b: Floats) -> Floats:
        return np.asarray(np.sqrt(np.maximum(a * a + b * b - 2.0 * correlation * a * b, 0.0)))

    gap = one.value - two.value
    low = gap - distance(one.value - one.low, two.high - two.value)
    high = gap + distance(one.high - one.value, two.value - two.low)
    return Interval(gap, np.maximum(low, -1.0), np.minimum(high, 1.0))


class Selection(NamedTuple):
    """Which classes a check compares. names: K of them. columns: their places, None for all there are."""

    names: tuple[str | None, ...]
    columns: list[int] | None
    is_mean: bool = False

    def pick(self, rates: tuple[Counts, Counts]) -> Side:
        """The rates of these classes among those of all, (G, C) to (G, K) or (G, 1, C)."""
        events, trials = (t[:, None, :] if self.is_mean else t[:, self.columns or slice(None)] for t in rates)
        return Side(events, trials)


def select(check: Check, classes: Sequence[str]) -> Selection:
    """The classes that `check` compares.

    Raises:
        UsageError: its positive class is not among `classes`.
    """
    if not METRICS[check.metric].by_class:
        return Selection((None,), None)
    positive = check.positive or default_positive(classes)
    if positive is None and check.average == MACRO:
        return Selection((MACRO,), None, is_mean=True)
    if positive is None:
        return Selection(tuple(classes), None)
    if positive not in classes:
        raise UsageError(f"check '{check.id}': no class '{positive}' in the table", did_you_mean(positive, classes))
    return Selection((positive,), [list(classes).index(positive)])


def make_block(
    check: Check, counts: GroupCounts, classes: Sequence[str], before: GroupCounts | Side | None = None
) -> Block:
    """The comparisons of `check` in the grouping of `counts`, with the rest or with a baseline.

    before: of the same groups, the counts of a baseline's predictions on the same rows, or what it reported.

    Raises:
        UsageError: the check's positive class is not among `classes`, or there is no baseline to compare with.
    """
    chosen, rates = select(check, classes), METRICS[check.metric].rates
    own = chosen.pick(rates(counts))
    other: Side | None = None
    if check.against == "rest":
        other = chosen.pick(rates(counts.rest()))
    elif isinstance(before, Side):
        return Block(check, counts, chosen.names, own, before, method="wilson, unpaired")
    elif check.against == "baseline":
        if before is None:
            raise UsageError(f"check '{check.id}' compares with a baseline", "Pass --baseline report.json")
        other = chosen.pick(rates(before))
    if other is not None and chosen.is_mean:  # like is compared with like: classes that both sides have
        both = (own.trials > 0) & (other.trials > 0)
        own, other = (Side(side.events * both, side.trials * both) for side in (own, other))
    return Block(check, counts, chosen.names, own, other, method="wilson" if other is None else "newcombe")


# --------------------------------------------------------------------------------------------------------- findings


class Before(NamedTuple):
    """What a baseline report says of a finding: its value, and its limits at a level (none: it was exact)."""

    value: float
    limits: tuple[float, float] | None = None
    level: float = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class FindingBlock:
    """The findings of one check, (F, 1). before: what a baseline reported of each, None where it has nothing.

    compares: whether values are judged by their change since the baseline.
    """

    check: SuiteCheck
    findings: tuple[Finding, ...]
    before: tuple[Before | None, ...] = ()
    largest_z: float = 7.0

    @property
    def compares(self) -> bool:
        """Whether values are judged by their change since the baseline."""
        return self.check.against == "baseline"

    def _base(self, index: int) -> Before | None:
        return self.before[index] if self.compares and index < len(self.before) else None

    def missing(self, index: int) -> str | None:
        """Why finding `index` cannot be judged, None where it can."""
        finding = self.findings[index]
        if finding.reason:
            return finding.reason
        if not math.isfinite(finding.value):
            return "not a number"
        if finding.interval is not None and finding.n < self.check.min_n:
            return f"{finding.n} rows, {self.check.min_n} needed"
        if self.compares and self._base(index) is None:
            return "not in the baseline report"
        return None

    def assessed(self) -> Mask:
        """(F, 1) which findings have a number that can be judged."""
        return np.array([[self.missing(index) is None] for index in range(len(self.findings))], dtype=np.bool_)

    def exact(self) -> Mask:
        """(F, 1) which of them have no uncertainty."""
        found = []
        for index, finding in enumerate(self.findings):
            base = self._base(index)
            found.append([finding.interval is None and (base is None or base.limits is None)])
        return np.array(found, dtype=np.bool_)

    def interval(self, z: Floats) -> Interval:
        """Values (or changes) and their limits at normal quantiles `z` (F, 1)."""
        rows = [self._limits(index, float(z[index, 0])) for index in range(len(self.findings))]
        table = np.array(rows, dtype=np.float64).reshape(-1, 3)
        return Interval(table[:, :1], table[:, 1:2], table[:, 2:])

    def _limits(self, index: int, z: float) -> tuple[float, float, float]:
        finding, base = self.findings[index], self._base(index)
        value = low = high = float(finding.value)
        if self.missing(index) is not None:
            return value, value, value
        if finding.interval is not None:
            level = float(np.clip(two_sided_p(z), 1e-12, 1.0 - 1e-12))
            low, high = map(float, finding.interval(level))
            low, high = min(low, value), max(high, value)
            if math.isnan(low) or math.isnan(high):
                low, high = -math.inf, math.inf
        if base is None:
            return value, low, high
        below = above = 0.0
        if base.limits is not None:  # its limits at another level: the distances grow as the quantile does
            scale = z / float(z_quantile(base.level))
            below, above = scale * (base.value - base.limits[0]), scale * (base.limits[1] - base.value)
        change = value - base.value
        return change, change - math.hypot(value - low, above), change + math.hypot(high - value, below)

    def at(self, mask: Mask) -> FindingBlock:
        """The findings of `mask` (F, 1)."""
        kept = np.flatnonzero(mask[:, 0])
        before = tuple(self._base(index) for index in kept.tolist()) if self.compares else ()
        return replace(self, findings=tuple(self.findings[index] for index in kept.tolist()), before=before)


# --------------------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A block with its verdicts: all arrays (G, K). level: the two-sided alpha at which low and high were taken."""

    block: Comparisons
    verdict: NDArray[np.object_]
    value: Floats
    low: Floats
    high: Floats
    level: Floats


def judge(blocks: Sequence[Comparisons], stats: Stats) -> list[Judged]:
    """Verdicts for all blocks of a report, corrected within families of one severity (or one check)."""
    families: dict[str, list[int]] = {}
    for index, block in enumerate(blocks):
        family = block.check.severity if stats.family == "report" else block.check.id
        families.setdefault(family, []).append(index)
    judged: dict[int, Judged] = {}
    for members in families.values():
        for index, result in zip(members, _judge_family([blocks[i] for i in members], stats), strict=True):
            judged[index] = result
    return [judged[index] for index in range(len(blocks))]


def _judge_family(blocks: Sequence[Comparisons], stats: Stats) -> list[Judged]:
    masks = [block.assessed() & ~block.exact() for block in blocks]
    total = sum(int(mask.sum()) for mask in masks)
    p = np.concatenate([_p_beyond(block, mask)[mask] for block, mask in zip(blocks, masks, strict=True)])
    failed = adjust(p, stats.correction) <= stats.alpha
    strict = stats.alpha if stats.correction == "none" else stats.alpha / max(total, 1)
    level = np.full(total, strict)
    if stats.correction == "holm":
        place = np.argsort(np.argsort(p, kind="stable"), kind="stable")
        level = np.where(failed, stats.alpha / (total - place), strict)
    results, done = [], 0
    for block, mask in zip(blocks, masks, strict=True):
        end = done + int(mask.sum())
        results.append(_verdicts(block, mask, failed[done:end], level[done:end], strict))
        done = end
    return results


def _verdicts(block: Comparisons, mask: Mask, failed: Mask, level: Floats, strict: float) -> Judged:
    levels = np.full(mask.shape, strict)
    levels[mask] = level
    interval = block.interval(z_quantile(levels))
    lower, upper = block.check.bounds
    exact = block.exact()
    slack = np.where(exact, _SLACK, 0.0)
    inside = (interval.low >= lower - slack) & (interval.high <= upper + slack)
    verdict = np.where(inside, Verdict.PASS, np.where(exact, Verdict.FAIL, Verdict.INCONCLUSIVE)).astype(object)
    verdict[~block.assessed()] = Verdict.NOT_ASSESSED
    beyond = np.zeros(mask.shape, dtype=np.bool_)
    beyond[mask] = failed
    verdict[beyond] = Verdict.FAIL
    return Judged(block, verdict, interval.value, interval.low, interval.high, levels)


def _p_beyond(block: Comparisons, mask: Mask) -> Floats:
    """(G, K) the smallest two-sided level at which the interval still lies wholly beyond the bounds; 1 where never.

    Limits move outwards as z grows, so the largest such z is found by bisection.
    """
    lower, upper = block.check.bounds
    with np.errstate(invalid="ignore"):
        estimate = block.interval(np.zeros(mask.shape)).value
        candidate = mask & ((estimate > upper) | (estimate < lower))
    p = np.ones(mask.shape)
    if candidate.any():
        few = block.at(candidate)
        count = int(candidate.sum())
        small, large = np.zeros((count, 1)), np.full((count, 1), block.largest_z)
        for _ in range(_BISECTIONS):
            middle = (small + large) / 2.0
            interval = few.interval(middle)
            beyond = (interval.low > upper) | (interval.high < lower)
            small, large = np.where(beyond, middle, small), np.where(beyond, large, middle)
        p[candidate] = two_sided_p(small)[:, 0]
    return p


# ------------------------------------------------------------------------------------------------ verdicts as records


def records(judged: Judged) -> list[dict[str, Any]]:
    """One plain record for each comparison of a block: who, how much, between which limits, and the verdict."""
    if isinstance(judged.block, FindingBlock):
        return [_finding_record(judged, judged.block, index) for index in range(len(judged.block.findings))]
    assert isinstance(judged.block, Block)
    block = judged.block
    own = _plain_rate(block.own)
    other = None if block.other is None else _plain_rate(block.other)
    found = []
    for row, group in enumerate(block.counts.groups):
        for column, name in enumerate(block.classes):
            record: dict[str, Any] = {
                "check": block.check.id,
                "metric": block.check.metric,
                "group": dict(zip(block.counts.grouping, group, strict=True)),
                "class": name,
                "verdict": str(judged.verdict[row, column]),
                "n": int(block.counts.n[row]),
                "rate": _entry(own, row, column),
            }
            if other is not None:
                record[block.check.against] = _entry(other, row, column)
            if block.clusters is not None:
                record["clusters"] = int(block.clusters[0][row])
            if judged.verdict[row, column] == Verdict.NOT_ASSESSED:
                record["reason"] = _too_few(block, row, column)
            else:
                record |= _numbers(judged, row, column)
            found.append(record)
    return found


def _numbers(judged: Judged, row: int, column: int) -> dict[str, float]:
    lower, upper = judged.block.check.bounds
    value = float(judged.value[row, column])
    return {
        "value": value,
        "low": float(judged.low[row, column]),
        "high": float(judged.high[row, column]),
        "level": float(1.0 - judged.level[row, column]),
        "excess": max(lower - value, value - upper),
    }


def _finding_record(judged: Judged, block: FindingBlock, index: int) -> dict[str, Any]:
    finding = block.findings[index]
    record: dict[str, Any] = {
        "check": block.check.id,
        "metric": block.check.metric,
        "group": dict(finding.group),
        "class": finding.cls,
        "verdict": str(judged.verdict[index, 0]),
        "n": int(finding.n),
    }
    if block.check.against != "rest" and finding.reason is None and math.isfinite(finding.value):
        record["rate"] = {"value": float(finding.value), "trials": int(finding.n), **_own_limits(finding)}
    if block.check.against == "rest":
        record |= _both_sides(finding)
    base = block.before[index] if block.compares and index < len(block.before) else None
    if base is not None:
        limits = {} if base.limits is None else {"low": base.limits[0], "high": base.limits[1]}
        record["baseline"] = {"value": base.value, **limits}
    if finding.evidence:
        record["evidence"] = dict(finding.evidence)
    reason = block.missing(index)
    if reason is not None:
        return {**record, "reason": reason}
    numbers: dict[str, Any] = _numbers(judged, index, 0)
    if block.exact()[index, 0]:
        numbers = {**numbers, "exact": True, "level": None}
    return {**record, **{name: _finite(number) for name, number in numbers.items()}}


def _both_sides(finding: Finding) -> dict[str, Any]:
    """What the difference is of, where the evidence says so: `value` of the group and `rest.value` of the others."""
    own, rest = finding.evidence.get("value"), finding.evidence.get("rest")
    other = rest.get("value") if isinstance(rest, Mapping) else None
    if not all(isinstance(value, float) and math.isfinite(value) for value in (own, other)):
        return {}
    return {"rate": {"value": own, "trials": int(finding.n)}, "rest": {"value": other}}


def _own_limits(finding: Finding) -> dict[str, float | None]:
    if finding.interval is None:
        return {}
    low, high = finding.interval(0.05)
    return {"low": _finite(low), "high": _finite(high)}


def _finite(number: Any) -> Any:
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _plain_rate(side: Side) -> tuple[Interval, Side]:
    """Rates with their own 95 % limits, for display; verdicts come from the corrected ones."""
    return side.interval(z_quantile(np.full(side.size().shape, 0.05))), side


def _entry(rate: tuple[Interval, Side], row: int, column: int) -> dict[str, Any]:
    interval, side = rate
    count = int(side.size()[row, column])
    entry: dict[str, Any] = {"value": float(interval.value[row, column]) if count else None}
    if count:
        entry |= {"low": float(interval.low[row, column]), "high": float(interval.high[row, column])}
    if not side.is_mean and side.events.dtype.kind == "i":
        entry["events"] = int(side.events[row, column])
    return entry | {"trials": count}


def _too_few(block: Block, row: int, column: int) -> str:
    check, rows = block.check, int(block.counts.n[row])
    trials = int(block.own.size()[row, column])
    others = None if block.other is None else int(block.other.size()[row, column])
    rest_rows = int(block.counts.n.sum()) - rows
    if check.against == "rest" and rest_rows == 0:
        return "no other group to compare with"
    if check.against == "baseline" and others == 0:
        return "not in the baseline report"
    if rows < check.min_n:
        return f"{rows} rows, {check.min_n} needed"
    if trials < check.needed_trials:
        return f"{trials} {_trials_name(check)}, {check.needed_trials} needed"
    if check.against == "rest" and rest_rows < check.min_n:
        return f"{rest_rows} rows in the rest, {check.min_n} needed"
    side = "rest" if check.against == "rest" else "baseline"
    if others is not None and others < check.needed_trials:
        return f"{others} {_trials_name(check)} in the {side}, {check.needed_trials} needed"
    own, other = (int(side[row]) for side in block.clusters or ((0,) * (row + 1), (0,) * (row + 1)))
    where = "" if own < block.min_clusters else f" in the {side}"
    return f"{min(own, other)} clusters{where}, {block.min_clusters} needed"


def _trials_name(check: Check) -> str:
    names = {
        "tpr": "positives", "fnr": "positives", "fpr": "negatives", "precision": "rows predicted so",
        "npv": "rows not predicted so",
    }  # fmt: skip
    return names.get(check.metric, "rows")
