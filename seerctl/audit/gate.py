"""The gate: from counts to verdicts by intervals that are corrected for the number of comparisons.

A comparison is FAIL when its interval lies wholly beyond what the policy allows, PASS when it lies wholly inside, else
INCONCLUSIVE; with too few rows it is NOT ASSESSED, and listed. Intervals: Newcombe's for a group against the rest,
Wilson's for a rate against a threshold, and their extension to means over classes (see `stats`). With M comparisons in
a family at level alpha, PASS is judged at alpha/M; FAIL at alpha/M (bonferroni) or at alpha/(M - i) for the i-th most
extreme one as long as all before it fail (holm). So the chance that any comparison of a family fails although the truth
is within the tolerance is at most alpha. The largest difference between groups is never judged: its estimate grows with
the number of groups even when all are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.counts import Counts, GroupCounts
from seerctl.audit.indicators import METRICS, default_positive
from seerctl.audit.policy import Check, Stats
from seerctl.errors import UsageError, did_you_mean
from seerctl.stats import (
    Floats,
    Interval,
    adjust,
    macro_gap_z,
    macro_z,
    newcombe_z,
    two_sided_p,
    wilson,
    wilson_z,
    z_quantile,
)

MACRO = "macro"
_BISECTIONS = 45
_Z_LIMIT = 40.0


class Verdict(StrEnum):
    """In the order of urgency."""

    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_ASSESSED = "NOT ASSESSED"
    PASS = "PASS"  # noqa: S105


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The comparisons of one check in one grouping: G groups times K classes (K = 1 for accuracy and for means).

    events, trials and those of the rest: (G, K), or (G, 1, C) for a mean over C classes (no trials where one side of
    the comparison has none). classes: K names, None for accuracy.
    """

    check: Check
    counts: GroupCounts
    classes: tuple[str | None, ...]
    events: Counts
    trials: Counts
    rest_events: Counts
    rest_trials: Counts

    @property
    def is_mean(self) -> bool:
        """Whether the rates are means over classes."""
        return self.events.ndim == 3

    def interval(self, z: Floats) -> Interval:
        """The judged number (gap or rate) and its limits at normal quantiles `z` (G, K)."""
        if self.check.against == "rest":
            gap = macro_gap_z if self.is_mean else newcombe_z
            return gap(self.events, self.trials, self.rest_events, self.rest_trials, z)
        return (macro_z if self.is_mean else wilson_z)(self.events, self.trials, z)

    def at(self, mask: NDArray[np.bool_]) -> Block:
        """The comparisons of `mask` (G, K) as a block of one column."""
        tables = (self.events, self.trials, self.rest_events, self.rest_trials)
        return Block(self.check, self.counts, (None,), *(np.expand_dims(table[mask], 1) for table in tables))

    def sizes(self) -> tuple[Counts, Counts]:
        """Trials of the groups and of their rests, (G, K); for a mean the sum over its classes."""
        return (self.trials.sum(-1), self.rest_trials.sum(-1)) if self.is_mean else (self.trials, self.rest_trials)

    def assessed(self) -> NDArray[np.bool_]:
        """(G, K) whether both sides have the rows and the trials that the check asks for."""
        trials, rest_trials = self.sizes()
        rows, rest_rows = self.counts.n[:, None], (self.counts.n.sum() - self.counts.n)[:, None]
        enough = (rows >= self.check.min_n) & (trials >= self.check.needed_trials)
        if self.check.against == "rest":
            enough &= (rest_rows >= self.check.min_n) & (rest_trials >= self.check.needed_trials)
        return np.asarray(enough)


def make_block(check: Check, counts: GroupCounts, classes: Sequence[str]) -> Block:
    """The comparisons of `check` in the grouping of `counts`.

    Raises:
        UsageError: the check's positive class is not among `classes`.
    """
    metric, rest = METRICS[check.metric], counts.rest()
    (events, trials), (rest_events, rest_trials) = metric.rates(counts), metric.rates(rest)
    if not metric.by_class:
        return Block(check, counts, (None,), events, trials, rest_events, rest_trials)
    positive = check.positive or default_positive(classes)
    if positive is None and check.average == MACRO:
        if check.against == "rest":  # like is compared with like: classes that both sides have
            both = (trials > 0) & (rest_trials > 0)
            events, trials, rest_events, rest_trials = (t * both for t in (events, trials, rest_events, rest_trials))
        tables = (table[:, None, :] for table in (events, trials, rest_events, rest_trials))
        return Block(check, counts, (MACRO,), *tables)
    if positive is None:
        return Block(check, counts, tuple(classes), events, trials, rest_events, rest_trials)
    if positive not in classes:
        raise UsageError(f"check '{check.id}': no class '{positive}' in the table", did_you_mean(positive, classes))
    one = [list(classes).index(positive)]
    return Block(check, counts, (positive,), events[:, one], trials[:, one], rest_events[:, one], rest_trials[:, one])


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A block with its verdicts: all arrays (G, K). level: the two-sided alpha at which low and high were taken."""

    block: Block
    verdict: NDArray[np.object_]
    value: Floats
    low: Floats
    high: Floats
    level: Floats


def judge(blocks: Sequence[Block], stats: Stats) -> list[Judged]:
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


def _judge_family(blocks: Sequence[Block], stats: Stats) -> list[Judged]:
    assessed = [block.assessed() for block in blocks]
    total = sum(int(mask.sum()) for mask in assessed)
    p = np.concatenate([_p_beyond(block, mask)[mask] for block, mask in zip(blocks, assessed, strict=True)])
    failed = adjust(p, stats.correction) <= stats.alpha
    strict = stats.alpha if stats.correction == "none" else stats.alpha / max(total, 1)
    level = np.full(total, strict)
    if stats.correction == "holm":
        place = np.argsort(np.argsort(p, kind="stable"), kind="stable")
        level = np.where(failed, stats.alpha / (total - place), strict)
    results, done = [], 0
    for block, mask in zip(blocks, assessed, strict=True):
        end = done + int(mask.sum())
        results.append(_verdicts(block, mask, failed[done:end], level[done:end], strict))
        done = end
    return results


def _verdicts(block: Block, mask: NDArray[np.bool_], failed: NDArray[np.bool_], level: Floats, strict: float) -> Judged:
    levels = np.full(mask.shape, strict)
    levels[mask] = level
    interval = block.interval(z_quantile(levels))
    lower, upper = block.check.bounds
    inside = (interval.low >= lower) & (interval.high <= upper)
    verdict = np.where(inside, Verdict.PASS, Verdict.INCONCLUSIVE).astype(object)
    verdict[~mask] = Verdict.NOT_ASSESSED
    beyond = np.zeros(mask.shape, dtype=np.bool_)
    beyond[mask] = failed
    verdict[beyond] = Verdict.FAIL
    return Judged(block, verdict, interval.value, interval.low, interval.high, levels)


def _p_beyond(block: Block, mask: NDArray[np.bool_]) -> Floats:
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
        small, large = np.zeros(few.events.shape[:2]), np.full(few.events.shape[:2], _Z_LIMIT)
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
    block = judged.block
    own = _plain_rate(block.events, block.trials, block.is_mean)
    rest = _plain_rate(block.rest_events, block.rest_trials, block.is_mean)
    trials, rest_trials = block.sizes()
    lower, upper = block.check.bounds
    found = []
    for row, group in enumerate(block.counts.groups):
        for column, name in enumerate(block.classes):
            verdict = judged.verdict[row, column]
            record: dict[str, Any] = {
                "check": block.check.id,
                "metric": block.check.metric,
                "group": dict(zip(block.counts.grouping, group, strict=True)),
                "class": name,
                "verdict": str(verdict),
                "n": int(block.counts.n[row]),
                "rate": _entry(own, row, column),
            }
            if block.check.against == "rest":
                record["rest"] = _entry(rest, row, column)
            if verdict == Verdict.NOT_ASSESSED:
                record["reason"] = _too_few(block, row, int(trials[row, column]), int(rest_trials[row, column]))
            else:
                value = float(judged.value[row, column])
                record |= {
                    "value": value,
                    "low": float(judged.low[row, column]),
                    "high": float(judged.high[row, column]),
                    "level": float(1.0 - judged.level[row, column]),
                    "excess": max(lower - value, value - upper),
                }
            found.append(record)
    return found


def _plain_rate(events: Counts, trials: Counts, is_mean: bool) -> tuple[Interval, Counts | None, Counts]:
    """Rates with their own 95 % limits, for display; verdicts come from the corrected ones."""
    if is_mean:
        return macro_z(events, trials, z_quantile(np.full(events.shape[:-1], 0.05))), None, trials.sum(-1)
    return wilson(events, trials), events, trials


def _entry(rate: tuple[Interval, Counts | None, Counts], row: int, column: int) -> dict[str, Any]:
    interval, events, trials = rate
    count = int(trials[row, column])
    entry: dict[str, Any] = {"value": float(interval.value[row, column]) if count else None}
    if count:
        entry |= {"low": float(interval.low[row, column]), "high": float(interval.high[row, column])}
    if events is not None:
        entry["events"] = int(events[row, column])
    return entry | {"trials": count}


def _too_few(block: Block, row: int, trials: int, rest_trials: int) -> str:
    check = block.check
    rows = int(block.counts.n[row])
    rest_rows = int(block.counts.n.sum()) - rows
    if check.against == "rest" and rest_rows == 0:
        return "no other group to compare with"
    if rows < check.min_n:
        return f"{rows} rows, {check.min_n} needed"
    if trials < check.needed_trials:
        return f"{trials} {_trials_name(check)}, {check.needed_trials} needed"
    if rest_rows < check.min_n:
        return f"{rest_rows} rows in the rest, {check.min_n} needed"
    return f"{rest_trials} {_trials_name(check)} in the rest, {check.needed_trials} needed"


def _trials_name(check: Check) -> str:
    return {"tpr": "positives", "fpr": "negatives", "precision": "rows predicted so"}.get(check.metric, "rows")
