"""The fairness suite: a table of predictions and a policy become one report with a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seerctl import __version__
from seerctl.audit.counts import GroupCounts, Grouping, count
from seerctl.audit.gate import Verdict, judge, make_block, records
from seerctl.audit.indicators import METRICS
from seerctl.audit.policy import Check, LoadedPolicy
from seerctl.errors import ExitCode, UsageError
from seerctl.files import sha256_file
from seerctl.predictions import Predictions, read_predictions
from seerctl.stats import wilson

SCHEMA = "seerctl.audit/1"
MAX_LEVELS = 1000
KEPT = 1000  # comparisons a check lists, the most urgent ones; a thousand classes by sixty groups would be 50 MB
_URGENCY = {str(verdict): place for place, verdict in enumerate(Verdict)}

LIMITS = (
    "Groups are those of the columns that were named; people differ in more ways than a table holds.",
    "A pass means that no gap beyond the tolerance is compatible with these rows at this level; it proves nothing "
    "about other images, other tasks or later use.",
    "Selection rates differ between groups also when the labels themselves do; whether they should is not a question "
    "that numbers answer.",
)


def audit_fairness(path: Path, loaded: LoadedPolicy, groups: Sequence[str] = ()) -> dict[str, Any]:
    """The report, as plain JSON values, on the table at `path`.

    groups: `column` or `a*b`, for checks that name no groups of their own.

    Raises:
        UsageError: no groups, a column or a positive class that the table does not have, or one of too many values.
        InputError: what `read_predictions` refuses.
    """
    other = next((check for check in loaded.policy.check if not isinstance(check, Check)), None)
    if other is not None:
        raise UsageError(f"check '{other.id}': {other.metric} is not measured yet")
    plan = {check.id: loaded.policy.groupings(check, groups) for check in loaded.policy.check}
    columns = dict.fromkeys(name for groupings in plan.values() for grouping in groupings for name in grouping)
    table = read_predictions(path, columns)
    inputs = {"predictions": str(path), "sha256": sha256_file(path)}
    return judge_table(table, loaded, plan, inputs)


def judge_table(
    table: Predictions, loaded: LoadedPolicy, plan: dict[str, list[Grouping]], inputs: dict[str, Any]
) -> dict[str, Any]:
    """The report on a table in memory; `plan` holds the groupings of each check by its id."""
    policy = loaded.policy
    counted = [check for check in policy.check if isinstance(check, Check)]
    groupings = list(dict.fromkeys(grouping for found in plan.values() for grouping in found))
    known = table.label >= 0
    columns = {name: table.columns[name].coded() for name in {n for grouping in groupings for n in grouping}}
    _check_levels(columns)
    label, prediction = table.label, table.prediction
    if not known.all():
        label, prediction = label[known], prediction[known]
        columns = {name: column.take(known) for name, column in columns.items()}
    counts = count(label, prediction, len(table.classes), columns, groupings)
    owners = [(check, grouping) for check in counted for grouping in plan[check.id]]
    blocks = [make_block(check, counts[grouping], table.classes) for check, grouping in owners]
    found: dict[str, list[dict[str, Any]]] = {check.id: [] for check in counted}
    for (check, _), judged in zip(owners, judge(blocks, policy.stats), strict=True):
        found[check.id] += records(judged)
    checks = sorted((_summary(c, found[c.id], policy.on_inconclusive) for c in counted), key=_check_order)
    verdict, code = _overall(checks)
    return {
        "schema": SCHEMA,
        "suite": "fairness",
        "verdict": verdict,
        "exit_code": int(code),
        "headline": _headline(verdict, checks),
        "inputs": {**inputs, "rows": len(table), "unlabelled": int((~known).sum()), "classes": len(table.classes)},
        "policy": loaded.as_json(),
        "checks": checks,
        "not_assessed": [r for f in found.values() for r in f if r["verdict"] == Verdict.NOT_ASSESSED][: 10 * KEPT],
        "groups": [_description(counts[grouping]) for grouping in groupings],
        "limits": list(LIMITS),
        "versions": {"seerctl": __version__, "numpy": np.__version__},
    }


def _check_levels(columns: dict[str, Any]) -> None:
    for name, column in columns.items():
        levels = len(column.categories)
        if levels > MAX_LEVELS:
            raise UsageError(
                f"column '{name}' has {levels:,} different values, too many for groups",
                "Write its bins into a column of their own",
            )


def _summary(check: Check, found: list[dict[str, Any]], default: str) -> dict[str, Any]:
    """One check with its comparisons, the most urgent first."""
    worse = -1.0 if METRICS[check.metric].higher_is_better is False else 1.0
    # Of two groups that mirror each other, the one that is worse off comes first.
    ordered = sorted(
        found,
        key=lambda r: (_URGENCY[r["verdict"]], round(-r.get("excess", 0.0), 12), worse * r.get("value", 0.0)),
    )
    tally = _tally(found)
    if tally[Verdict.FAIL]:
        verdict = Verdict.FAIL
    elif not found or tally[Verdict.INCONCLUSIVE] or tally[Verdict.NOT_ASSESSED]:
        verdict = Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.PASS
    return {
        "id": check.id,
        "metric": check.metric,
        "severity": check.severity,
        "on_inconclusive": check.on_inconclusive or default,
        "bounds": [limit if abs(limit) <= 1 else None for limit in check.bounds],
        "verdict": str(verdict),
        "tally": tally,
        "groupings": _by_grouping(found),
        "worst": describe(check, ordered[0]) if ordered and ordered[0]["verdict"] != Verdict.NOT_ASSESSED else None,
        "comparisons": ordered[:KEPT],
        "omitted": max(0, len(ordered) - KEPT),
    }


def _tally(found: Sequence[dict[str, Any]]) -> dict[str, int]:
    counted = Counter(record["verdict"] for record in found)
    return {str(verdict): counted[verdict] for verdict in Verdict}


def _by_grouping(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    groupings: dict[Grouping, list[dict[str, Any]]] = {}
    for record in found:
        groupings.setdefault(tuple(record["group"]), []).append(record)
    return [{"columns": list(names), "tally": _tally(members)} for names, members in groupings.items()]


def _check_order(check: dict[str, Any]) -> tuple[bool, int, float]:
    first = check["comparisons"][0] if check["comparisons"] else {}
    return check["severity"] == "warn", _URGENCY[check["verdict"]], -first.get("excess", -1.0)


def _overall(checks: Iterable[dict[str, Any]]) -> tuple[str, ExitCode]:
    """FAIL when a check that counts failed, INCONCLUSIVE when one that has to be judged could not be, else PASS."""
    counting = [check for check in checks if check["severity"] == "fail"]
    if any(check["verdict"] == Verdict.FAIL for check in counting):
        return str(Verdict.FAIL), ExitCode.GATE
    if any(c["verdict"] == Verdict.INCONCLUSIVE and c["on_inconclusive"] == "hold" for c in counting):
        return str(Verdict.INCONCLUSIVE), ExitCode.INCONCLUSIVE
    return str(Verdict.PASS), ExitCode.DONE


def _headline(verdict: str, checks: Sequence[dict[str, Any]]) -> str:
    """The verdict in one line, with the worst group of the most urgent check."""
    tally = {name: sum(check["tally"][name] for check in checks) for name in map(str, Verdict)}
    total = sum(tally.values())
    counted = ", ".join(f"{tally[name]} {name.lower()}" for name in map(str, Verdict) if tally[name])
    worst = next((check for check in checks if check["worst"]), None)
    detail = f"; {worst['id']}: {worst['worst']}" if worst else ""
    return f"{verdict}: {total} comparisons, {counted or 'none'}{detail}"


def name_of(record: dict[str, Any]) -> str:
    """`gender=f, age=70+`, and the class where the rate is of one."""
    group = ", ".join(f"{column}={value}" for column, value in record["group"].items())
    return group if record["class"] in (None, "macro") else f"{group} (class {record['class']})"


def describe(check: Check, record: dict[str, Any]) -> str:
    """A judged comparison in words and percentage points."""
    low, high = 100 * record["low"], 100 * record["high"]
    lower, upper = (100 * limit for limit in check.bounds)
    if check.against == "threshold":
        return (
            f"{name_of(record)} has {100 * record['value']:.1f} %, interval [{low:.1f}, {high:.1f}], "
            f"demanded {check.op} {100 * (check.threshold or 0.0):g} %{_no_events(record)}"
        )
    side = "above" if record["value"] > 0 else "below"
    allowed = f"{lower:g} to {upper:g}".replace("-inf", "any").replace("inf", "any")
    return (
        f"{name_of(record)} is {abs(100 * record['value']):.1f} points {side} the rest "
        f"({100 * record['rate']['value']:.1f} % against {100 * record['rest']['value']:.1f} %), "
        f"interval [{low:+.1f}, {high:+.1f}], allowed {allowed}"
    )


def _no_events(record: dict[str, Any]) -> str:
    if record["rate"].get("events") != 0:
        return ""
    return f" (none in {record['rate']['trials']} still allows {100 * record['rate']['high']:.1f} %)"


def _description(counts: GroupCounts) -> dict[str, Any]:
    """Sizes and accuracies of a grouping, with plain 95 % Wilson intervals: for reading, not for judging."""
    accuracy = wilson(counts.correct.sum(1), counts.n)
    return {
        "columns": list(counts.grouping),
        "missing": counts.missing,
        "groups": [
            {
                "group": dict(zip(counts.grouping, group, strict=True)), "n": int(counts.n[row]),
                "accuracy": {
                    "value": float(accuracy.value[row]), "low": float(accuracy.low[row]),
                    "high": float(accuracy.high[row]),
                },
            }
            for row, group in enumerate(counts.groups)
        ],
    }  # fmt: skip
