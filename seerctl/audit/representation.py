"""The representation suite: what a shard set holds, before anything is trained on it.

First order: how often each group comes, against even shares, given ones, or those of another set. Second order: how
much a group says about a label (M4's association bias, arXiv 2403.04547), as a difference of conditional rates, as
Cramer's V, and as mutual information.

A set is a census of itself: its numbers are exact and judged as they are. A check with `sample = true` takes the
samples for a random draw from a larger population instead and is judged by intervals (Wilson, Newcombe); numbers that
are a largest value, or a strength over a whole table, take no `sample`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.balance import target_shares
from seerctl.audit.contingency import cramers_v, cross, differences, mutual_information, name_of, table_of, totals
from seerctl.audit.counts import Grouping
from seerctl.audit.groups import Recipe, derive, sources
from seerctl.audit.measured import refuse_unused
from seerctl.audit.policy import SuiteCheck, parse_grouping
from seerctl.audit.suite import Bars, Finding, MetricInfo, SuiteResult, Table
from seerctl.columns import Column
from seerctl.errors import UsageError, did_you_mean
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import read_metadata
from seerctl.stats import Interval, newcombe, wilson

METRICS: dict[str, MetricInfo] = {
    "share": MetricInfo("share of the samples", "share"),
    "count": MetricInfo("samples", "count", True),
    "missing": MetricInfo("samples without a value", "share", False),
    "share_gap": MetricInfo("share less its target", "gap"),
    "share_shift": MetricInfo("share less that in the other set", "gap"),
    "representation_bias": MetricInfo("largest distance of a share from its target", "gap", False),
    "association": MetricInfo("rate of a label less that in the rest", "gap"),
    "association_bias": MetricInfo("largest difference of a label's rate to the rest", "gap", False),
    "cramers_v": MetricInfo("Cramer's V of group and label", "number", False),
    "mutual_information": MetricInfo("mutual information of group and label, bits", "number", False),
}
WITH_LABELS = ("association", "association_bias", "cramers_v", "mutual_information")
WITH_TARGET = ("share_gap", "representation_bias")
SAMPLED = ("share", "missing", "share_gap", "share_shift", "association")
LABEL = "label"
MAX_PAIRS = 20_000  # comparisons of one check in one grouping
_SHOWN = 30
_CHART = 20
_CROSSED = 6  # groups whose pairs are shown too, where they make few enough cells
_CROSSED_CELLS = 1000

LIMITS = (
    "The numbers are of the samples and their columns as somebody wrote them; who was never photographed, or never "
    "labelled, is in none of them.",
    "An association is not a cause, and none between single columns does not rule out one of their combinations.",
    "Exact for this set. Intervals are for readers who take it as a random draw from a larger population.",
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The columns of one set; intersections are made once."""

    where: str
    rows: int
    columns: Mapping[str, Column]
    crossed: dict[Grouping, Column] = field(default_factory=dict)

    def group(self, grouping: Grouping) -> Column:
        """The column, or the intersection of columns, as codes."""
        if grouping not in self.crossed:
            self.crossed[grouping] = cross(self.columns, grouping, self.where)
        return self.crossed[grouping]

    def values(self, grouping: Grouping) -> list[dict[str, str]]:
        """The values of a grouping, each as column and value, in the order of its codes."""
        levels = [self.columns[name].coded().categories or () for name in grouping]
        return [dict(zip(grouping, values, strict=True)) for values in itertools.product(*levels)]


def audit_representation(
    data: Sequence[Path],
    checks: Sequence[SuiteCheck],
    *,
    groups: Sequence[str] = (),
    labels: Sequence[str] = (),
    recipes: Mapping[str, Recipe] | None = None,
) -> SuiteResult:
    """What the first of the shard sets `data` holds; a second one is what `share_shift` compares it with.

    groups: `column` or `a*b`, for checks that name none; pairs of single ones are described too. labels: columns that
    groups are associated with by checks that name none, by default `label` where there is one. recipes: columns made of
    others, by name.

    Raises:
        UsageError: no groups, a column or value that the set does not have, or a check that asks for what has no sense.
        InputError: a damaged set.
    """
    if not 1 <= len(data) <= 2:
        raise UsageError(f"audit --representation: {len(data)} shard sets", "Name one, and one to compare it with")
    for check in checks:
        check_options(check, reference=len(data) > 1)
    named = [parse_grouping(name) for name in dict.fromkeys(groups)]
    plan = {check.id: _groupings(check, named) for check in checks}
    with ExitStack() as stack:
        sets = [stack.enter_context(ShardSet.open(path)) for path in data]
        known = [*sets[0].columns, *(recipes or {})]
        default = tuple(labels) or ((LABEL,) if LABEL in known else ())
        asked = list(dict.fromkeys([*named, *itertools.chain(*plan.values())]))
        associated = {check.id: check.columns or default for check in checks if check.metric in WITH_LABELS}
        label_columns = list(dict.fromkeys([*default, *itertools.chain(*associated.values())]))
        names = list(dict.fromkeys([*itertools.chain(*asked), *label_columns]))
        held = _hold(sets[0], names, recipes or {}, _uncounted(sets[0]))
        shifts = [grouping for check in checks if check.metric == "share_shift" for grouping in plan[check.id]]
        other = [_hold(s, list(dict.fromkeys(itertools.chain(*shifts))), recipes or {}, ()) for s in sets[1:]]
        reference = other[0] if other else None
        findings = [
            found
            for check in checks
            for grouping in plan[check.id]
            for found in _measure(check, grouping, held, reference, associated.get(check.id, ()))
        ]
        shown = list(dict.fromkeys([*asked, *_pairs(named, held)]))
        return _result(sets, held, shown, label_columns, findings)


def check_options(check: SuiteCheck, *, reference: bool) -> None:
    """Refuse keys without a use, and a comparison with a set that is not there.

    Raises:
        UsageError: there is one, or it is not.
    """
    used = ["columns"] if check.metric in WITH_LABELS else []
    used += ["cls"] if check.metric in ("association", "association_bias") else []
    used += ["shares"] if check.metric in WITH_TARGET else []
    used += ["sample"] if check.metric in SAMPLED else []
    refuse_unused(check, used)
    if check.metric == "share_shift" and not reference:
        raise UsageError(f"check '{check.id}': {check.metric} compares two shard sets", "Pass a second --data")
    if check.against == "rest":
        raise UsageError(f"check '{check.id}': {check.metric} is judged against = \"threshold\" or \"baseline\"",
                         "Metrics such as 'association' and 'share_gap' are differences already")  # fmt: skip


def _groupings(check: SuiteCheck, named: Sequence[Grouping]) -> list[Grouping]:
    found = [parse_grouping(text) for text in dict.fromkeys(check.groups)] or list(named)
    if not found:
        raise UsageError(f"check '{check.id}' has no groups", "Pass --groups COLUMN,... or name them in the policy")
    return found


def _pairs(named: Sequence[Grouping], held: Held) -> list[Grouping]:
    """Pairs of single groups that are few enough to be read."""
    single = [grouping[0] for grouping in named if len(grouping) == 1]
    pairs = itertools.combinations(single, 2) if len(single) <= _CROSSED else ()
    return [pair for pair in pairs
            if math.prod(len(held.group((name,)).categories or ()) for name in pair) <= _CROSSED_CELLS]  # fmt: skip


def _uncounted(shards: ShardSet) -> list[str]:
    """Numeric columns whose values the index has not counted: their mean and median need the samples."""
    return [name for name, entry in shards.index["columns"].items()
            if entry["type"] in ("integer", "number") and "values" not in entry]  # fmt: skip


def _hold(shards: ShardSet, names: Sequence[str], recipes: Mapping[str, Recipe], numeric: Sequence[str]) -> Held:
    for name in names:
        if name not in shards.columns and name not in recipes:
            hint = did_you_mean(name, [*shards.columns, *recipes]) if shards.columns or recipes else "It has no columns"
            raise UsageError(f"{shards.location}: no column '{name}'", hint)
    wanted = list(dict.fromkeys([*sources(names, recipes), *numeric]))
    metadata = read_metadata(shards, wanted)
    return Held(shards.location, len(metadata), derive(metadata.columns, names, recipes, shards.location))


# -------------------------------------------------------------------------------------------------------- findings


def _measure(
    check: SuiteCheck, grouping: Grouping, held: Held, reference: Held | None, labels: Sequence[str]
) -> Iterator[Finding]:
    """The findings of one check in one grouping."""
    if check.metric in WITH_LABELS:
        yield from _with_labels(check, grouping, held, labels)
    elif check.metric == "missing":
        column = held.group(grouping)
        count = int(column.missing.sum())
        interval = _limits(check, partial(wilson, count, held.rows))
        yield _finding(check, count / held.rows, held.rows, dict.fromkeys(grouping, "any"), interval)
    elif check.metric == "share_shift":
        assert reference is not None  # checked with the options
        yield from _shifts(check, grouping, held, reference)
    else:
        yield from _shares(check, grouping, held)


def _finding(
    check: SuiteCheck, value: float, n: int, group: Mapping[str, str],
    interval: Callable[[float], tuple[float, float]] | None = None, **more: Any,
) -> Finding:  # fmt: skip
    return Finding(check.id, check.metric, float(value), n, group, interval=interval, **more)


def _limits(
    check: SuiteCheck, interval: Callable[[float], Interval], shift: float = 0.0
) -> Callable[[float], tuple[float, float]] | None:
    """The limits of a number less `shift`, by level, if the check takes the rows for a sample."""
    if not check.sample:
        return None

    def limits(level: float) -> tuple[float, float]:
        found = interval(level)
        return float(found.low) - shift, float(found.high) - shift

    return limits


def _shares(check: SuiteCheck, grouping: Grouping, held: Held) -> Iterator[Finding]:
    """`share`, `count`, `share_gap` and `representation_bias`."""
    column, values = held.group(grouping), held.values(grouping)
    counts = totals(column).astype(np.int64)
    n = int(counts.sum())
    if not n:
        yield _finding(check, math.nan, 0, dict.fromkeys(grouping, "any"), reason="no sample has a value")
        return
    targets = np.zeros(len(counts))
    if check.metric in WITH_TARGET:
        wanted = dict(check.shares) if check.shares is not None else "uniform"
        targets = target_shares(name_of(grouping), column, wanted, held.where)  # type: ignore[arg-type]
    gaps = counts / n - targets
    if check.metric == "representation_bias":
        worst = int(np.abs(gaps).argmax())
        evidence = {"group": values[worst], "share": counts[worst] / n, "target": targets[worst]}
        yield _finding(check, abs(gaps[worst]), n, dict.fromkeys(grouping, "any"), evidence=evidence)
        return
    for group, count, target, gap in zip(values, counts.tolist(), targets.tolist(), gaps.tolist(), strict=True):
        if check.metric == "count":
            yield _finding(check, count, count, group)
        else:
            interval = _limits(check, partial(wilson, count, n), target)
            evidence = {"samples": count, **({"target": target} if check.metric == "share_gap" else {})}
            yield _finding(check, gap, n, group, interval, evidence=evidence)


def _shifts(check: SuiteCheck, grouping: Grouping, held: Held, reference: Held) -> Iterator[Finding]:
    """`share_shift`: over the values of both sets."""
    sides = []
    for one in (held, reference):
        counts = totals(one.group(grouping)).astype(np.int64).tolist()
        sides.append({tuple(group.values()): count for group, count in zip(one.values(grouping), counts, strict=True)})
    mine, theirs = sides
    n, m = sum(mine.values()), sum(theirs.values())
    for values in dict.fromkeys([*mine, *theirs]):
        group = dict(zip(grouping, values, strict=True))
        a, b = mine.get(values, 0), theirs.get(values, 0)
        if not (n and m):
            yield _finding(check, math.nan, 0, group, reason="a set in which no sample has a value")
            continue
        interval = _limits(check, partial(newcombe, a, n, b, m))
        yield _finding(check, a / n - b / m, min(n, m), group, interval, evidence={"share": a / n, "other": b / m})


def _with_labels(check: SuiteCheck, grouping: Grouping, held: Held, labels: Sequence[str]) -> Iterator[Finding]:
    """What compares a grouping with label columns."""
    everyone = dict.fromkeys(grouping, "any")
    if not labels:
        yield _finding(check, math.nan, 0, everyone, reason=f"no label column: the set has no '{LABEL}'")
    for label in labels:
        if label in grouping:
            raise UsageError(f"check '{check.id}': '{label}' is a group and the label", "Name another column")
        labelled = held.group((label,))
        table = table_of(held.group(grouping), labelled)
        n = int(table.sum())
        if check.metric in ("association", "association_bias"):
            classes = _classes(check, label, labelled)
            pairs = _associations(check, table, held.values(grouping), classes, label if len(labels) > 1 else "")
            yield from pairs if check.metric == "association" else [_largest(check, everyone, list(pairs), label)]
            continue
        value = cramers_v(table) if check.metric == "cramers_v" else mutual_information(table)
        reason = None if math.isfinite(value) else "fewer than two groups or labels with a sample"
        yield _finding(check, value, n, everyone, cls=label, reason=reason)


def _classes(check: SuiteCheck, label: str, column: Column) -> list[tuple[int, str]]:
    """Places and names of the labels that a check is about."""
    names = column.categories or ()
    if check.cls is None:
        return list(enumerate(names))
    if check.cls not in names:
        raise UsageError(f"check '{check.id}': '{label}' has no value '{check.cls}'", did_you_mean(check.cls, names))
    return [(names.index(check.cls), check.cls)]


def _associations(
    check: SuiteCheck,
    table: Floats,
    values: Sequence[Mapping[str, str]],
    classes: Sequence[tuple[int, str]],
    prefix: str,
) -> Iterator[Finding]:
    """P(label | group) - P(label | rest) for each group and label."""
    if len(values) * len(classes) > MAX_PAIRS:
        raise UsageError(f"check '{check.id}': {len(values) * len(classes):,} pairs of a group and a label",
                         "Judge association_bias or cramers_v instead")  # fmt: skip
    counts = table.astype(np.int64)
    own, everyone = counts.sum(1), counts.sum(0)
    n = int(counts.sum())
    for k, group in enumerate(values):
        trials, others = int(own[k]), n - int(own[k])
        few = min(trials, others) < check.min_n
        for place, name in classes:
            a, b = int(counts[k, place]), int(everyone[place] - counts[k, place])
            cls = f"{prefix}={name}" if prefix else name
            if few:
                reason = f"{trials} samples in the group, {others} in the rest, {check.min_n} needed"
                yield _finding(check, math.nan, trials, group, cls=cls, reason=reason)
                continue
            interval = _limits(check, partial(newcombe, a, trials, b, others))
            evidence = {"rate": a / trials, "rest": b / others, "samples": a}
            yield _finding(check, a / trials - b / others, trials, group, interval, cls=cls, evidence=evidence)


def _largest(check: SuiteCheck, everyone: Mapping[str, str], pairs: Sequence[Finding], label: str) -> Finding:
    """The largest of the associations that have samples enough."""
    assessed = [pair for pair in pairs if pair.reason is None]
    if not assessed:
        return _finding(check, math.nan, 0, everyone, cls=label, reason=pairs[0].reason if pairs else "no group")
    worst = max(assessed, key=lambda pair: abs(pair.value))
    evidence = {"group": dict(worst.group), "label": worst.cls, **worst.evidence}
    return _finding(check, abs(worst.value), worst.n, everyone, cls=label, evidence=evidence)


# ----------------------------------------------------------------------------------------------------- description


def _result(
    sets: Sequence[ShardSet], held: Held, shown: Sequence[Grouping], labels: Sequence[str], findings: Sequence[Finding]
) -> SuiteResult:
    columns = [_column_row(name, entry, held) for name, entry in sorted(sets[0].index["columns"].items())]
    groupings = [_grouping_json(grouping, held) for grouping in shown]
    strengths, pairs = _association_rows(held, shown, labels)
    tables = [_column_table(columns), *map(_share_table, groupings)]
    if strengths:
        tables += [_strength_table(strengths), _pair_table(pairs)]
    charts = [_share_chart(entry) for entry in groupings if len(entry["columns"]) == 1]
    if pairs:
        charts.append(_pair_chart(pairs))
    return SuiteResult(
        suite="representation",
        findings=tuple(findings),
        tables=tuple(tables),
        charts=tuple(charts),
        inputs={"data": [{"location": s.location, "index_sha256": s.sha256, "samples": len(s)} for s in sets]},
        limits=LIMITS,
        data={"samples": held.rows, "columns": columns, "groupings": groupings, "associations": strengths},
    )


def _column_row(name: str, entry: Mapping[str, Any], held: Held) -> dict[str, Any]:
    """One column of the set: how many samples have it, how many values there are, and its middle if it is a number."""
    values = entry.get("values")
    row = {
        "column": name, "type": entry["type"], "samples": entry["count"],
        "missing": 1.0 - entry["count"] / max(held.rows, 1), "values": None if values is None else len(values),
        "min": entry.get("min"), "mean": None, "median": None, "max": entry.get("max"),
    }  # fmt: skip
    if entry["type"] not in ("integer", "number") or not entry["count"]:
        return row
    if values is not None:
        numbers = np.repeat([float(value) for value in values], list(values.values()))
    else:
        numbers = held.columns[name].values.astype(np.float64)
        numbers = numbers[np.isfinite(numbers)]
    return {**row, "mean": float(numbers.mean()), "median": float(np.median(numbers))}


def _column_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    names = ("column", "type", "samples", "missing", "values", "min", "mean", "median", "max")
    cells = tuple(tuple(row[name] for name in names) for row in rows)
    return Table("Columns", names, cells, "Values: how many different ones; empty where there are more than 1,024.")


def _grouping_json(grouping: Grouping, held: Held) -> dict[str, Any]:
    """Counts and shares of a grouping, with 95 % Wilson intervals."""
    column = held.group(grouping)
    counts = totals(column)
    n = int(counts.sum())
    share = wilson(counts, np.full(len(counts), n))
    values = [
        {"group": group, "n": int(counts[k]), "share": float(share.value[k]) if n else None,
         "low": float(share.low[k]), "high": float(share.high[k])}
        for k, group in enumerate(held.values(grouping))
    ]  # fmt: skip
    return {"columns": list(grouping), "n": n, "missing": held.rows - n, "values": values}


def _share_table(entry: Mapping[str, Any]) -> Table:
    rows = sorted(entry["values"], key=lambda value: -value["n"])
    empty = sum(row["n"] == 0 for row in rows)
    cells = tuple((", ".join(row["group"].values()), row["n"], row["share"], row["low"], row["high"])
                  for row in rows[:_SHOWN])  # fmt: skip
    note = f"{entry['n']:,} samples have a value, {entry['missing']:,} have none."
    note += f" {empty:,} of the {len(rows):,} combinations have no sample." if empty else ""
    note += f" The {_SHOWN} most frequent of {len(rows):,}." if len(rows) > _SHOWN else ""
    names = (", ".join(entry["columns"]), "samples", "share", "low", "high")
    return Table(f"Shares: {' x '.join(entry['columns'])}", names, cells, note)


def _share_chart(entry: Mapping[str, Any]) -> Bars:
    rows = sorted(entry["values"], key=lambda value: -value["n"])[:_SHOWN]
    return Bars(
        f"Shares: {entry['columns'][0]}", tuple(row["group"][entry["columns"][0]] for row in rows),
        tuple(row["share"] or 0.0 for row in rows), tuple(row["low"] for row in rows),
        tuple(row["high"] for row in rows), 1.0 / max(len(entry["values"]), 1),
        "share of the samples; the line is an even share",
    )  # fmt: skip


def _association_rows(
    held: Held, shown: Sequence[Grouping], labels: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The strength of each association, and of single columns the pairs of a group and a label, the largest first."""
    strengths, pairs = [], []
    for grouping, label in itertools.product(shown, labels):
        if label in grouping:
            continue
        labelled = held.group((label,))
        table = table_of(held.group(grouping), labelled)
        own, rest = differences(table)
        gaps = np.abs(own - rest)
        largest = float(gaps[np.isfinite(gaps)].max(initial=0.0))
        strengths.append({
            "columns": list(grouping), "label": label, "n": int(table.sum()), "cramers_v": cramers_v(table),
            "mutual_information": mutual_information(table), "largest": largest,
        })  # fmt: skip
        if len(grouping) == 1:
            pairs += _pair_rows(table, own - rest, held.values(grouping), labelled.categories or (), label)
    pairs.sort(key=lambda row: -abs(row["value"]))
    return strengths, pairs[:_SHOWN]


def _pair_rows(
    table: Floats, gaps: Floats, values: Sequence[Mapping[str, str]], names: Sequence[str], label: str
) -> list[dict[str, Any]]:
    """The largest differences of one table, with 95 % Newcombe intervals."""
    own, everyone, n = table.sum(1), table.sum(0), table.sum()
    found = []
    order = np.argsort(-np.abs(np.nan_to_num(gaps)), axis=None)[:_SHOWN]
    for k, r in zip(*np.unravel_index(order, gaps.shape), strict=True):
        if not math.isfinite(gaps[k, r]):
            continue
        limits = newcombe(table[k, r], own[k], everyone[r] - table[k, r], n - own[k])
        group = ", ".join(f"{name}={value}" for name, value in values[k].items())
        found.append({
            "group": group, "label": f"{label}={names[r]}", "n": int(own[k]), "rate": table[k, r] / own[k],
            "rest": (everyone[r] - table[k, r]) / (n - own[k]), "value": float(gaps[k, r]), "low": float(limits.low),
            "high": float(limits.high),
        })  # fmt: skip
    return found


def _strength_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = tuple((" x ".join(row["columns"]), row["label"], row["n"], row["cramers_v"], row["mutual_information"],
                   row["largest"]) for row in rows)  # fmt: skip
    names = ("groups", "label", "samples", "Cramer's V", "mutual information, bits", "largest difference")
    note = "Cramer's V: 0 is none, 1 full. Largest difference: of a label's rate in one group to all others."
    return Table("Association of groups and labels", names, cells, note)


def _pair_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    names = ("group", "label", "samples of the group", "rate", "rate in the rest", "difference", "low", "high")
    keys = ("group", "label", "n", "rate", "rest", "value", "low", "high")
    cells = tuple(tuple(row[key] for key in keys) for row in rows)
    note = f"The {len(rows)} largest differences."
    return Table("Groups and labels that go together or avoid each other", names, cells, note)


def _pair_chart(rows: Sequence[Mapping[str, Any]]) -> Bars:
    rows = rows[:_CHART]
    return Bars(
        "Rate of a label in a group less that in the rest", tuple(f"{row['group']}, {row['label']}" for row in rows),
        tuple(row["value"] for row in rows), tuple(row["low"] for row in rows), tuple(row["high"] for row in rows), 0.0,
        "difference of rates",
    )  # fmt: skip
