"""From judged comparisons to the report: checks with their verdicts, the worst group in words, one verdict over all.

report.json, schema `seerctl.audit/1`: `verdict, exit_code, headline, suites`, `checks` (the most urgent first; each
with `suite, metric, title, unit, against, bounds, verdict, tally, groupings, comparisons, ...`), `not_assessed`,
`not_run` (checks of suites that were not asked for), `groups` (sizes, of the fairness suite), `sections.<suite>` with
`inputs, tables, charts, data, limits`, `policy`, `baseline`, `versions`. A comparison has `value, low, high, level,
excess` (`exact`: without uncertainty) or the `reason` why it was not assessed; `rate` and `rest` or `baseline` are what
the value is the difference of.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from seerctl import __version__
from seerctl.audit.counts import Grouping
from seerctl.audit.gate import Block, Comparisons, Judged, Verdict, judge, records
from seerctl.audit.indicators import METRICS
from seerctl.audit.policy import AnyCheck, Check, LoadedPolicy, suite_metrics
from seerctl.audit.suite import MetricInfo, SuiteName, SuiteResult
from seerctl.errors import ExitCode

SCHEMA = "seerctl.audit/1"
KEPT = 1000  # comparisons a check lists, the most urgent ones; a thousand classes by sixty groups would be 50 MB
_URGENCY = {str(verdict): place for place, verdict in enumerate(Verdict)}

LIMITS = (
    "Groups are those of the columns that were named; people differ in more ways than a table holds.",
    "A pass means that no gap beyond the tolerance is compatible with these rows at this level; it proves nothing "
    "about other images, other tasks or later use.",
)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one suite brings to the report: comparisons to judge, and its section.

    groups: descriptions of the groupings. inputs, limits: for the top level of the report.
    """

    suite: SuiteName
    blocks: Sequence[Comparisons]
    section: Mapping[str, Any] = field(default_factory=dict)
    groups: Sequence[Mapping[str, Any]] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    limits: Sequence[str] = ()


def section_of(result: SuiteResult) -> dict[str, Any]:
    """The section of a suite as plain JSON values."""
    return {
        "inputs": jsonable(result.inputs),
        "tables": [jsonable(asdict(table)) for table in result.tables],
        "charts": [jsonable(asdict(chart)) for chart in result.charts],
        "data": jsonable(result.data),
        "limits": list(result.limits),
    }


def jsonable(value: Any) -> Any:
    """Plain JSON values: tuples become lists, numpy's numbers Python's, and what is not finite None."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


def assemble(
    parts: Sequence[Part], loaded: LoadedPolicy, more: Mapping[str, Any] | None = None,
    suites: Sequence[SuiteName] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The report over all suites, judged as one: plain JSON values, with the keys of `more` at its top level.

    suites: whose checks are judged, by default those of the parts.
    """
    policy, shown = loaded.policy, [part.suite for part in parts]
    suites = shown if suites is None else suites
    checks = [check for check in policy.check if check.suite in suites]
    blocks = [block for part in parts for block in part.blocks]
    found: dict[str, list[dict[str, Any]]] = {check.id: [] for check in checks}
    methods: dict[str, str] = {}
    for judged in judge(blocks, policy.stats):
        found[judged.block.check.id] += records(judged)
        methods.setdefault(judged.block.check.id, _method(judged))
    summaries = sorted(
        (_summary(c, found[c.id], policy.on_inconclusive, methods.get(c.id, "")) for c in checks), key=_check_order
    )
    verdict, code = _overall(summaries)
    return {
        "schema": SCHEMA,
        "suite": shown[0],
        "suites": shown,
        "verdict": verdict,
        "exit_code": int(code),
        "headline": _headline(verdict, summaries),
        "inputs": {key: value for part in parts for key, value in part.inputs.items()},
        "policy": loaded.as_json(),
        "checks": summaries,
        "not_assessed": [r for f in found.values() for r in f if r["verdict"] == Verdict.NOT_ASSESSED][: 10 * KEPT],
        "not_run": [{"check": c.id, "suite": c.suite} for c in policy.check if c.suite not in suites],
        "groups": [dict(group) for part in parts for group in part.groups],
        "sections": {part.suite: dict(part.section) for part in parts if part.section},
        "limits": list(dict.fromkeys([*LIMITS, *(limit for part in parts for limit in part.limits)])),
        "versions": {"seerctl": __version__, "numpy": np.__version__},
        **(more or {}),
    }


def _method(judged: Judged) -> str:
    return judged.block.method if isinstance(judged.block, Block) else "of the suite"


def info_of(check: AnyCheck) -> MetricInfo:
    """What a check measures."""
    if isinstance(check, Check):
        metric = METRICS[check.metric]
        return MetricInfo(metric.title, "share", metric.higher_is_better)
    return suite_metrics(check.suite)[check.metric]


def _summary(check: AnyCheck, found: list[dict[str, Any]], default: str, method: str) -> dict[str, Any]:
    """One check with its comparisons, the most urgent first."""
    info = info_of(check)
    worse = -1.0 if info.higher_is_better is False else 1.0
    # Of two groups that mirror each other, the one that is worse off comes first.
    ordered = sorted(
        found,
        key=lambda r: (
            _URGENCY[r["verdict"]], round(-(r.get("excess") or 0.0), 12), worse * (r.get("value") or 0.0)
        ),
    )  # fmt: skip
    tally = _tally(found)
    if tally[Verdict.FAIL]:
        verdict = Verdict.FAIL
    elif not found or tally[Verdict.INCONCLUSIVE] or tally[Verdict.NOT_ASSESSED]:
        verdict = Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.PASS
    return {
        "id": check.id,
        "suite": check.suite,
        "metric": check.metric,
        "title": info.title,
        "unit": info.unit,
        "against": check.against,
        "severity": check.severity,
        "on_inconclusive": check.on_inconclusive or default,
        "bounds": [limit if math.isfinite(limit) else None for limit in check.bounds],
        "method": method,
        "verdict": str(verdict),
        "tally": tally,
        "groupings": _by_grouping(found),
        "worst": describe(check, ordered[0]) if ordered and ordered[0]["verdict"] != Verdict.NOT_ASSESSED else None,
        "comparisons": ordered[:KEPT],
        "omitted": max(0, len(ordered) - KEPT),
    }


def _tally(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counted = Counter(record["verdict"] for record in found)
    return {str(verdict): counted[verdict] for verdict in Verdict}


def _by_grouping(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    groupings: dict[Grouping, list[dict[str, Any]]] = {}
    for record in found:
        groupings.setdefault(tuple(record["group"]), []).append(record)
    return [{"columns": list(names), "tally": _tally(members)} for names, members in groupings.items()]


def _check_order(check: Mapping[str, Any]) -> tuple[bool, int, float]:
    first = check["comparisons"][0] if check["comparisons"] else {}
    excess = first.get("excess")
    return check["severity"] == "warn", _URGENCY[check["verdict"]], 1.0 if excess is None else -excess


def _overall(checks: Iterable[Mapping[str, Any]]) -> tuple[str, ExitCode]:
    """FAIL when a check that counts failed, INCONCLUSIVE when one that has to be judged could not be, else PASS."""
    counting = [check for check in checks if check["severity"] == "fail"]
    if any(check["verdict"] == Verdict.FAIL for check in counting):
        return str(Verdict.FAIL), ExitCode.GATE
    if any(c["verdict"] == Verdict.INCONCLUSIVE and c["on_inconclusive"] == "hold" for c in counting):
        return str(Verdict.INCONCLUSIVE), ExitCode.INCONCLUSIVE
    return str(Verdict.PASS), ExitCode.DONE


def _headline(verdict: str, checks: Sequence[Mapping[str, Any]]) -> str:
    """The verdict in one line, with the worst group of the most urgent check."""
    tally = {name: sum(check["tally"][name] for check in checks) for name in map(str, Verdict)}
    total = sum(tally.values())
    counted = ", ".join(f"{tally[name]} {name.lower()}" for name in map(str, Verdict) if tally[name])
    worst = next((check for check in checks if check["worst"]), None)
    detail = f"; {worst['id']}: {worst['worst']}" if worst else ""
    return f"{verdict}: {total} comparisons, {counted or 'none'}{detail}"


# ------------------------------------------------------------------------------------------------------ in plain words


def name_of(record: Mapping[str, Any]) -> str:
    """`gender=f, age=70+`, and the class where the rate is of one; "all rows" without a group."""
    group = ", ".join(f"{column}={value}" for column, value in record["group"].items()) or "all rows"
    return group if record["class"] in (None, "macro") else f"{group} (class {record['class']})"


def describe(check: AnyCheck, record: Mapping[str, Any]) -> str:
    """A judged comparison in words: shares in percent, their differences in points, other numbers as they are."""
    unit = {"share": " %", "gap": " points"}.get(info_of(check).unit, "")
    share = unit != ""
    if check.against == "threshold":
        return (
            f"{name_of(record)} has {_apart(record['value'], check.bounds, share)}{unit}"
            f"{_between(record, share, '')}, demanded {_demand(check, share)}{unit}{_no_events(record)}"
        )
    side = "above" if record["value"] > 0 else "below"
    lower, upper = (_limit(bound, share) for bound in check.bounds)
    other = record.get(check.against) or {}
    rates = ""
    if record.get("rate") and other.get("value") is not None:
        own, theirs = _amount(record["rate"]["value"], share), _amount(other["value"], share)
        rates = f" ({own} % against {theirs} %)" if share else f" ({own} against {theirs})"
    return (
        f"{name_of(record)} is {_amount(abs(record['value']), share)} {'points ' if share else ''}{side} the "
        f"{check.against}{rates}{_between(record, share, '+')}, allowed {lower} to {upper}"
    )


def _amount(value: float, share: bool, sign: str = "") -> str:
    return format(100 * value, f"{sign}.1f") if share else format(value, f"{sign}.5g")


def _apart(value: float, bounds: Iterable[float], share: bool) -> str:
    """`_amount` with as many digits as tell the value from the bounds: 1.02 % is not "1.0 %, demanded <= 1 %"."""
    if not share:
        return _amount(value, share)
    texts = (f"{100 * value:.{digits}f}" for digits in range(1, 5))
    limits = [round(100 * bound, 9) for bound in bounds if bound != value]
    return next((text for text in texts if float(text) not in limits), f"{100 * value:g}")


def _limit(value: float, share: bool) -> str:
    return "any" if math.isinf(value) else f"{100 * value if share else value:g}"


def _between(record: Mapping[str, Any], share: bool, sign: str) -> str:
    if record.get("exact"):
        return ""
    low, high = (_amount(record[name], share, sign) if record[name] is not None else "any" for name in ("low", "high"))
    return f", interval [{low}, {high}]"


def _demand(check: AnyCheck, share: bool) -> str:
    if check.op == "within":
        lower, upper = (_limit(bound, share) for bound in check.bounds)
        return f"{lower} to {upper}"
    return f"{check.op} {_limit(check.threshold or 0.0, share)}"


def _no_events(record: Mapping[str, Any]) -> str:
    rate = record.get("rate") or {}
    if rate.get("events") != 0:
        return ""
    return f" (none in {rate['trials']} still allows {100 * rate['high']:.1f} %)"
