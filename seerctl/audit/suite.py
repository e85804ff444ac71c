"""What every suite of the audit hands to the gate and to the report: numbers to judge, and tables to read.

A suite is one module of this package with `METRICS`, what its checks may name, and one function that takes plain inputs
and the policy's checks of that suite, and returns a `SuiteResult`. It decides nothing: the gate does, from the findings
and the checks' bounds; the report shows the sections in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SuiteName = Literal["fairness", "representation", "robustness", "leakage", "privacy", "lineage"]


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """What a suite measures under one name. unit: "share" (0 to 1, shown in percent), "gap" (shown in percentage
    points), "count" or "number". higher_is_better: None where neither is."""

    title: str
    unit: Literal["share", "gap", "count", "number"]
    higher_is_better: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One number that one check judges.

    check: the check's id. group: columns and their values, empty for the whole. n: the rows behind it. interval: its
    confidence limits at a two-sided level (0.05 gives 95 %), monotone in it; None where the number is exact, being
    counted over everything there is. reason: why it could not be measured (then it is listed as not assessed).
    evidence: plain JSON that a reader needs to act: keys of rows, files, counts; a few dozen entries at most.
    """

    check: str
    metric: str
    value: float
    n: int
    group: Mapping[str, str] = field(default_factory=dict)
    cls: str | None = None
    interval: Callable[[float], tuple[float, float]] | None = None
    reason: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report: cells are text, whole numbers, floats (shown as they are) or None."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """A chart of the report: one bar or one point with limits for each label; `line` marks a value to compare with."""

    title: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    line: float | None = None
    axis: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SuiteResult:
    """What a suite found. inputs: files and their hashes. limits: what it cannot show, one sentence each.

    data: the suite's own numbers for report.json, plain JSON, under `sections.<suite>`.
    """

    suite: SuiteName
    findings: tuple[Finding, ...]
    tables: tuple[Table, ...] = ()
    charts: tuple[Bars, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
