"""Robustness: what accuracy is lost when the pictures change, whether groups lose alike, and what should not change.

| metric                    | value                                                                 | one for    |
|---------------------------|-----------------------------------------------------------------------|------------|
| clean_accuracy            | accuracy on the clean pictures                                        | all        |
| shifted_accuracy          | accuracy on the shifted ones                                          | each shift |
| drop                      | clean less shifted accuracy                                           | each shift |
| relative_drop             | drop over clean accuracy                                              | each shift |
| corruption_error          | mean error over the corruptions (of each, over its severities)        | all        |
| relative_corruption_error | corruption_error less the clean error: the mean drop                  | all        |
| effective_robustness      | shifted accuracy above what other models' line expects of a model as  | each shift |
|                           | accurate on clean pictures                                            |            |
| prediction_invariance     | share of pairs of one object in two variants with equal predictions   | all        |
| neighbour_invariance      | share of the k (10) nearest neighbours that such pairs have in common | all        |

Without groups a number is for all rows; a check with `groups` has one for each group, and one against "rest" (its own
groups, or those of the command line) the difference to all other groups: a positive difference of drops is a group that
suffers more. Shifted tables are paired with the clean one on keys, so the limits are those of paired differences.
The invariances take columns = ["object", "attribute"]: who is the same, and in what they differ.

Sources: D. Hendrycks, T. Dietterich, arXiv 1903.12261 (corruption error; here not divided by another model's);
R. Taori et al., arXiv 2007.00644 (effective robustness, on logit axes); A. Agresti, Y. Min, Statistics in Medicine 24
(2005) 729-740 (the least variance of a paired difference).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seerctl.audit.counts import Grouping, group_rows
from seerctl.audit.groups import Recipe
from seerctl.audit.invariance import NEIGHBOURS, Families, common_neighbours, equal_predictions, nearest, shares
from seerctl.audit.measured import Rows, Sample, Statistic, clusters_of, column, findings, refuse_unused
from seerctl.audit.shifts import Clean, Mask, Shift, check_names, read_clean, read_other, read_shift
from seerctl.audit.suite import Bars, Finding, MetricInfo, SuiteResult, Table
from seerctl.columns import Column, relabel
from seerctl.errors import UsageError
from seerctl.files import sha256_file
from seerctl.lines import Line, above_line, read_lines
from seerctl.stats import Floats, least_of_differences

if TYPE_CHECKING:
    from seerctl.audit.policy import SuiteCheck

METRICS: dict[str, MetricInfo] = {
    "clean_accuracy": MetricInfo("accuracy on clean pictures", "share", True),
    "shifted_accuracy": MetricInfo("accuracy under the shift", "share", True),
    "drop": MetricInfo("accuracy lost under the shift", "gap", False),
    "relative_drop": MetricInfo("share of the clean accuracy lost under the shift", "share", False),
    "corruption_error": MetricInfo("mean corruption error", "share", False),
    "relative_corruption_error": MetricInfo("mean accuracy lost over the corruptions", "gap", False),
    "effective_robustness": MetricInfo("accuracy above the line of other models", "gap", True),
    "prediction_invariance": MetricInfo("equal predictions for the same object", "share", True),
    "neighbour_invariance": MetricInfo("common neighbours of the same object", "share", True),
}
OVER_ALL = ("clean_accuracy", "corruption_error", "relative_corruption_error")
BY_SHIFT = ("shifted_accuracy", "drop", "relative_drop")
INVARIANCES = ("prediction_invariance", "neighbour_invariance")
SHIFT = "shift"  # the key of a finding's group that names the shift

LIMITS = (
    "Robust to these shifts is not robust to others: what was not tried is not known.",
    "Corruptions are drawn by code; real fog, frost or worn lenses look different.",
)
PAIR_LIMIT = (
    "Invariance over pairs that were made to differ in one attribute says little of pictures that differ in more."
)


def audit_robustness(
    clean: Path, shifted: Sequence[Path], checks: Sequence[SuiteCheck], *, groups: Sequence[str] = (),
    other: Sequence[Path] = (), features: Path | None = None, baselines: Path | None = None,
    recipes: Mapping[str, Recipe] | None = None,
) -> SuiteResult:  # fmt: skip
    """Measure what `checks` ask for, from tables of predictions.

    shifted: tables of the same rows, corrupted or restyled. other: tables of other data sets of the same task, whose
    rows pair with nothing. features: of the clean rows, for neighbour_invariance. baselines: accuracies of other models
    as csv or JSON list of `clean, shifted[, shift]`, for effective_robustness. recipes: columns made of others.

    Raises:
        UsageError: a check that lacks columns or inputs, or has no use for a key; fewer than five baseline models.
        InputError: tables that do not read, keys or labels that differ between clean and shifted tables.
    """
    for check in checks:
        _check_options(check, features, baselines)
    made = recipes or {}
    table = read_clean(clean, list(dict.fromkeys(name for c in checks for name in _columns(c, groups))), made)
    shifts = [read_shift(path, table) for path in shifted]
    wanted = dict.fromkeys(name for c in checks if c.metric in BY_SHIFT for name in _columns(c, groups))
    shifts += [read_other(path, list(wanted), made) for path in other]
    check_names(shifts)
    lines = {} if baselines is None else read_lines(baselines)
    found: list[Finding] = []
    for check in checks:
        found += _measure(check, table, shifts, groups, features, lines)
    return SuiteResult(
        "robustness", tuple(found), tables=_tables(checks, table, shifts, groups), charts=_charts(table, shifts),
        inputs=_inputs(clean, shifts, features, baselines),
        limits=(*LIMITS, *([PAIR_LIMIT] if any(c.metric in INVARIANCES for c in checks) else [])),
        data=_data(table, shifts),
    )  # fmt: skip


def _check_options(check: SuiteCheck, features: Path | None, baselines: Path | None) -> None:
    used = {
        "effective_robustness": (), "prediction_invariance": ("columns",), "neighbour_invariance": ("columns", "k"),
    }.get(check.metric, ("household",))  # fmt: skip
    refuse_unused(check, used)
    if check.metric in INVARIANCES and len(check.columns) != 2:
        raise UsageError(
            f"check '{check.id}': {check.metric} needs two columns, the object and the attribute",
            'Write columns = ["base_name", "skin_tone"]',
        )
    if check.metric == "neighbour_invariance" and features is None:
        raise UsageError(f"check '{check.id}': neighbours need features", "Pass --features FILE")
    if check.metric == "effective_robustness" and baselines is None:
        raise UsageError(f"check '{check.id}': effective robustness needs other models", "Pass --models FILE")
    if check.metric == "effective_robustness" and (check.groups or check.against == "rest"):
        raise UsageError(f"check '{check.id}': effective_robustness is of all rows, it takes no groups")


def _groupings(check: SuiteCheck, groups: Sequence[str]) -> list[Grouping]:
    """The groupings of a check; its own, or, against the rest, those of the command line; else all rows as one."""
    from seerctl.audit.policy import parse_grouping  # noqa: PLC0415  policy imports this module for its metrics

    texts = check.groups or (tuple(groups) if check.against == "rest" else ())
    return [parse_grouping(text) for text in dict.fromkeys(texts)] or [()]


def _columns(check: SuiteCheck, groups: Sequence[str]) -> list[str]:
    named = [name for grouping in _groupings(check, groups) for name in grouping]
    return [*named, *check.columns, *([check.household] if check.household else [])]


# ------------------------------------------------------------------------------------------------------- the findings


def _measure(
    check: SuiteCheck, clean: Clean, shifts: Sequence[Shift], groups: Sequence[str], features: Path | None,
    lines: Mapping[str | None, Line],
) -> list[Finding]:  # fmt: skip
    groupings = _groupings(check, groups)
    if check.against == "rest" and groupings == [()]:
        return [Finding(check.id, check.metric, math.nan, len(clean), reason="no groups named: pass --groups")]
    paired = [shift for shift in shifts if shift.paired]
    if check.metric == "effective_robustness":
        return _effective(check, clean, shifts, lines)
    if check.metric in INVARIANCES:
        return _over_rows(check, clean, groupings, _invariance(check, clean, features), "objects")
    if check.metric == "clean_accuracy":
        return _over_rows(check, clean, groupings, _accuracy(clean.right))
    if check.metric in OVER_ALL:
        if not paired:
            return [Finding(check.id, check.metric, math.nan, 0, reason="no corrupted view: pass --shifted")]
        return _over_rows(check, clean, groupings, _corruption_error(check.metric, clean, paired))
    if not shifts:
        return [Finding(check.id, check.metric, math.nan, 0, reason="no shift: pass --shifted")]
    return [found for shift in shifts for found in _by_shift(check, clean, shift, groupings)]


def _over_rows(
    check: SuiteCheck, clean: Clean, groupings: Sequence[Grouping], statistic: Statistic, unit: str = "rows"
) -> list[Finding]:
    found: list[Finding] = []
    for grouping in groupings:
        for name in grouping:
            column(check, clean.columns, name)
        rows = group_rows(clean.columns, grouping, len(clean))
        clusters = clusters_of(check, clean.columns)
        found += findings(check, rows, statistic, clusters=clusters, unit=unit)
    return found


def _by_shift(check: SuiteCheck, clean: Clean, shift: Shift, groupings: Sequence[Grouping]) -> list[Finding]:
    """The findings of one shift, which their groups name."""
    found: list[Finding] = []
    if shift.paired:
        found = _over_rows(check, clean, groupings, _paired(check.metric, clean.right, shift.right))
    else:
        found = _unpaired(check, clean, shift, groupings)
    return [replace(one, group={SHIFT: shift.name, **one.group}) for one in found]


def _unpaired(check: SuiteCheck, clean: Clean, shift: Shift, groupings: Sequence[Grouping]) -> list[Finding]:
    """Of another data set: the rows of both tables behind each other, as if they were one."""
    names = {name for grouping in groupings for name in grouping} | ({check.household} - {None})
    columns = {str(name): _stacked(clean.columns[str(name)], shift.columns[str(name)]) for name in names}
    both = replace(
        clean, keys=np.empty(len(clean) + len(shift.right), dtype=object), columns=columns,
        right=np.concatenate([clean.right, shift.right]),
    )  # fmt: skip
    return _over_rows(check, both, groupings, _two_sets(check.metric, both.right, len(clean)))


def _stacked(one: Column, two: Column) -> Column:
    first, second = one.coded(), two.coded()
    place = {name: code for code, name in enumerate(first.categories or ())}
    codes = [place.setdefault(name, len(place)) for name in second.categories or ()]
    moved = np.array([*codes, -1], dtype=np.int32)[second.values]
    return relabel(np.concatenate([first.values, moved]), list(place))


def _invariance(check: SuiteCheck, clean: Clean, features: Path | None) -> Statistic:
    objects, variants = (column(check, clean.columns, name) for name in check.columns)
    families = Families.of(objects, variants)
    if check.metric == "prediction_invariance":
        return lambda rows, _: equal_predictions(families, clean.predicted, rows)
    assert features is not None
    neighbours = nearest(features, clean.keys, families, check.k or NEIGHBOURS)
    return lambda rows, _: common_neighbours(families, neighbours, rows)


# --------------------------------------------------------------------------------------------------------- statistics


def _accuracy(right: Mask) -> Statistic:
    return lambda rows, _: _mean(right[rows].astype(np.float64))


def _mean(values: Floats) -> Sample | str:
    if not len(values):
        return "no rows"
    value = float(values.mean())
    return Sample(value, values - value, len(values))


def _difference(values: Floats) -> Sample | str:
    """The mean of differences between -1 and 1, one a row; its variance is at least Agresti's and Min's."""
    n = len(values)
    if not n:
        return "no rows"
    value, least = float(values.mean()), least_of_differences(values)
    return Sample(value, values - value, n, floor=-1.0, least=least, score=False)


def _paired(metric: str, clean: Mask, shifted: Mask) -> Statistic:
    if metric == "shifted_accuracy":
        return _accuracy(shifted)

    def difference(rows: Rows, _: Rows | None) -> Sample | str:
        before, after = clean[rows].astype(np.float64), shifted[rows].astype(np.float64)
        found = _difference(before - after)
        return found if metric == "drop" or isinstance(found, str) else _relative(found, before, after)

    return difference


def _relative(drop: Sample, before: Floats, after: Floats) -> Sample | str:
    """A drop as a share of the clean accuracy: a ratio of two means over the same rows, linearised."""
    accuracy = float(before.mean())
    if accuracy == 0.0:
        return "no row is right on clean pictures"
    ratio = float(after.mean()) / accuracy
    influence = (ratio * before - after) / accuracy
    least = 2.0 / (len(before) * accuracy) ** 2
    return replace(drop, value=1.0 - ratio, influence=influence, floor=-math.inf, least=least)


def _two_sets(metric: str, right: Mask, first: int) -> Statistic:
    """The same between rows before and from `first` on, which are of two data sets and so independent."""

    def difference(rows: Rows, _: Rows | None) -> Sample | str:
        one, two = right[rows[rows < first]].astype(np.float64), right[rows[rows >= first]].astype(np.float64)
        if not len(one) or not len(two):
            return "no rows in one of the data sets"
        n, p, q = len(rows), float(one.mean()), float(two.mean())
        if metric == "shifted_accuracy":
            influence = np.concatenate([np.zeros(len(one)), (two - q) * n / len(two)])
            return Sample(q, influence, len(two), worth=float(len(two)))
        least_p, least_q = ((k * (1 - k) * m + 1) / (m + 2.0) ** 2 for k, m in ((p, len(one)), (q, len(two))))
        influence = np.concatenate([(one - p) * n / len(one), (q - two) * n / len(two)])
        drop = Sample(p - q, influence, min(len(one), len(two)), floor=-1.0, least=least_p + least_q, score=False)
        if metric == "drop":
            return drop
        if p == 0.0:
            return "no row is right on clean pictures"
        relative = np.concatenate([(one - p) * q / p**2 * n / len(one), (q - two) / p * n / len(two)])
        least = (least_p * (q / p) ** 2 + least_q) / p**2
        return replace(drop, value=1.0 - q / p, influence=relative, floor=-math.inf, least=least)

    return difference


def _weights(shifts: Sequence[Shift]) -> list[float]:
    """Of each shift in the mean over corruptions: severities of one corruption share one part."""
    sizes = Counter(shift.family for shift in shifts)
    return [1.0 / (len(sizes) * sizes[shift.family]) for shift in shifts]


def _corruption_error(metric: str, clean: Clean, shifts: Sequence[Shift]) -> Statistic:
    wrong = np.zeros(len(clean))
    for weight, shift in zip(_weights(shifts), shifts, strict=True):
        wrong += weight * ~shift.right
    if metric == "corruption_error":
        return lambda rows, _: _mean(wrong[rows])
    more = wrong - ~clean.right
    return lambda rows, _: _difference(more[rows])


def _effective(
    check: SuiteCheck, clean: Clean, shifts: Sequence[Shift], lines: Mapping[str | None, Line]
) -> list[Finding]:  # fmt: skip
    found = []
    for shift in shifts:
        line, group, n = lines.get(shift.name, lines.get(None)), {SHIFT: shift.name}, len(shift.right)
        if line is None:
            found.append(Finding(check.id, check.metric, math.nan, n, group, reason="no baseline models of this shift"))
            continue
        one, two = (_mean(side.astype(np.float64)) for side in (clean.right, shift.right))
        assert not isinstance(one, str)
        if isinstance(two, str):
            found.append(Finding(check.id, check.metric, math.nan, n, group, reason=two))
            continue
        evidence = {"clean": one.value, "shifted": two.value, "expected": line.at(one.value), "models": line.models,
                    "intercept": line.intercept, "slope": line.slope}  # fmt: skip
        limits = above_line(line, one.estimate(None), two.estimate(None))
        value = two.value - line.at(one.value)
        found.append(Finding(check.id, check.metric, value, n, group, interval=limits, evidence=evidence))
    return found


# --------------------------------------------------------------------------------------------------------- the report


def _row(sample: Sample | str) -> tuple[float | None, float | None, float | None]:
    """Value and 95 % limits."""
    return (None, None, None) if isinstance(sample, str) else (sample.value, *sample.estimate(None).limits(0.05))


def _measured(clean: Clean, shift: Shift, metric: str) -> Sample | str:
    if shift.paired:
        return _paired(metric, clean.right, shift.right)(np.arange(len(clean)), None)
    both = np.concatenate([clean.right, shift.right])
    return _two_sets(metric, both, len(clean))(np.arange(len(both)), None)


def _tables(
    checks: Sequence[SuiteCheck], clean: Clean, shifts: Sequence[Shift], groups: Sequence[str]
) -> tuple[Table, ...]:  # fmt: skip
    rows: list[tuple[str | int | float | None, ...]] = [
        ("clean", len(clean), *_row(_mean(clean.right.astype(float))), None, None, None, None)
    ]
    for shift in shifts:
        relative = _row(_measured(clean, shift, "relative_drop"))[0]
        rows.append((
            shift.name, len(shift.right), *_row(_measured(clean, shift, "shifted_accuracy")),
            *_row(_measured(clean, shift, "drop")), relative,
        ))  # fmt: skip
    head = ("shift", "rows", "accuracy", "low", "high", "drop", "drop low", "drop high", "relative drop")
    note = "Limits at 95 %, each for itself; drops of shifted views are paired row by row."
    found = [Table("Accuracy under each shift", head, tuple(rows), note)]
    paired = [shift for shift in shifts if shift.paired]
    named = dict.fromkeys(name for c in checks for name in _groupings(c, groups) if name)
    found += [_by_group(clean, paired, grouping) for grouping in named if paired]
    pairs = dict.fromkeys(c.columns for c in checks if c.metric in INVARIANCES)
    return (*found, *(_variants(clean, *names) for names in pairs))


def _by_group(clean: Clean, shifts: Sequence[Shift], grouping: Grouping) -> Table:
    rows = group_rows(clean.columns, grouping, len(clean))
    more = _corruption_error("relative_corruption_error", clean, shifts)
    found = []
    for code, names in enumerate(rows.groups):
        inside = np.flatnonzero(rows.codes == code)
        found.append((" x ".join(names), len(inside), float(clean.right[inside].mean()), *_row(more(inside, None))))
    title = f"Mean accuracy lost over the shifts by {' x '.join(grouping)}"
    return Table(title, ("group", "rows", "clean accuracy", "lost", "low", "high"), tuple(found), "Limits at 95 %.")


def _variants(clean: Clean, objects: str, attribute: str) -> Table:
    families = Families.of(clean.columns[objects], clean.columns[attribute])
    rows = tuple(shares(families, clean.predicted))
    return Table(
        f"Equal predictions for the same {objects} in two values of {attribute}",
        (attribute, f"other {attribute}", "pairs", "equal"), rows,
    )  # fmt: skip


def _charts(clean: Clean, shifts: Sequence[Shift]) -> tuple[Bars, ...]:
    drops = [(shift.name, _row(_measured(clean, shift, "drop"))) for shift in shifts]
    kept = [(name, value, low, high) for name, (value, low, high) in drops if value is not None]
    if not kept:
        return ()
    names, values, low, high = zip(*kept, strict=True)
    return (Bars("Accuracy lost under each shift", names, values, low, high, 0.0, "clean less shifted accuracy"),)


def _inputs(clean: Path, shifts: Sequence[Shift], features: Path | None, baselines: Path | None) -> dict[str, Any]:
    def file(path: Path) -> dict[str, str]:
        return {"path": str(path), "sha256": sha256_file(path)}

    found: dict[str, Any] = {"predictions": file(clean)}
    found["shifted"] = [{"shift": s.name, **file(s.path), "paired": s.paired, "rows": len(s.right)} for s in shifts]
    found |= {name: file(path) for name, path in (("features", features), ("baselines", baselines)) if path}
    return found


def _data(clean: Clean, shifts: Sequence[Shift]) -> dict[str, Any]:
    """The numbers that people quote, for report.json."""
    found: dict[str, Any] = {"clean_accuracy": float(clean.right.mean()), "shifts": {
        shift.name: {"accuracy": float(shift.right.mean()), "rows": len(shift.right), "paired": shift.paired}
        for shift in shifts
    }}  # fmt: skip
    paired = [shift for shift in shifts if shift.paired]
    if paired:
        error = sum(w * float((~s.right).mean()) for w, s in zip(_weights(paired), paired, strict=True))
        found |= {"corruption_error": error, "relative_corruption_error": error - float((~clean.right).mean())}
    return found
