"""The report for a terminal: a dozen lines, and a few of each table that a suite has to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seerctl.audit.report import view
from seerctl.audit.report.view import Report

ROWS = 6  # of a suite's table or chart


def text(report: Report) -> str:
    """What a person reads after the command."""
    lines = [_first(report)]
    width = max((len(view.visible(check["id"])) for check in report["checks"]), default=0)
    for check in report["checks"]:
        severity = " (warning only)" if check["severity"] == "warn" else ""
        name = f"{view.visible(check['id']):<{width}}"
        lines.append(f"  {check['verdict']:<12}  {name}  {view.tally_text(check['tally'])}{severity}")
        if check["worst"] and check["verdict"] != "PASS":
            lines.append(f"  {'':<12}  {'':<{width}}  worst: {view.visible(check['worst'])}")
    for suite, section in (report.get("sections") or {}).items():
        lines += _section(suite, section)
    lines += _missing(report)
    lines.append(f"verdict: {report['verdict']}")
    return "\n".join(lines)


def _first(report: Report) -> str:
    inputs, flags = report["inputs"], " ".join(f"--{suite}" for suite in view.suites_of(report))
    parts = [f"audit {flags}:"]
    if inputs.get("predictions"):
        rows = inputs.get("rows", 0) - inputs.get("unlabelled", 0)
        parts.append(f"{view.visible(inputs['predictions'])}, {rows:,} rows,")
    return " ".join([*parts, f"policy {view.visible(report['policy']['source'])}"])


def _section(suite: str, section: Mapping[str, Any]) -> list[str]:
    lines = []
    for table in section.get("tables") or ():
        lines += [f"  {suite}: {view.visible(table['title'])}", *(f"    {line}" for line in view.aligned(table, ROWS))]
    for chart in section.get("charts") or ():
        lines += [
            f"  {suite}: {view.visible(chart['title'])}",
            *(f"    {row}" for row in view.chart_lines(chart, ROWS)),
        ]
    return lines


def _missing(report: Report) -> list[str]:
    small = [f"{name}: {reason}" for name, reason in view.not_assessed(report)]
    lines = []
    if small:
        more = f", and {len(small) - 3} more" if len(small) > 3 else ""
        lines.append(f"  not assessed: {'; '.join(small[:3])}{more}")
    if report["inputs"].get("unlabelled"):
        lines.append(f"  {report['inputs']['unlabelled']:,} rows without a label are left out")
    for grouping in report.get("groups") or ():
        if grouping.get("missing"):
            lines.append(f"  {grouping['missing']:,} rows have no {' * '.join(map(view.visible, grouping['columns']))}")
    return lines
