"""The report as JUnit XML, which every CI shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from xml.etree import ElementTree as ET

from seerctl.audit.report import view
from seerctl.audit.report.view import Check, Record, Report

SHOWN = 10
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report, created: datetime) -> bytes:
    """One test suite a check, one test case a grouping; FAIL is a failure, what could not be judged is skipped.

    Valid against the Ant/JUnitReport schema (Windy Road's JUnit.xsd) and against Jenkins' junit-10.xsd.
    """
    root = ET.Element("testsuites")
    for number, check in enumerate(report["checks"]):
        cases = _cases(check)
        failures = sum(case.find("failure") is not None for case in cases)
        suite = ET.SubElement(root, "testsuite", {
            "name": _xml(check["id"]), "package": f"seerctl.audit.{view.suite_of(check)}", "id": str(number),
            "timestamp": created.isoformat(), "hostname": "localhost", "tests": str(len(cases)),
            "failures": str(failures), "errors": "0",
            "skipped": str(sum(case.find("skipped") is not None for case in cases)), "time": "0",
        })  # fmt: skip
        properties = ET.SubElement(suite, "properties")
        for name, value in (
            ("suite", view.suite_of(check)),
            *((n, check[n]) for n in ("metric", "severity", "verdict")),
        ):
            ET.SubElement(properties, "property", {"name": name, "value": _xml(value)})
        suite.extend(cases)
        ET.SubElement(suite, "system-out").text = _xml(report["headline"])
        ET.SubElement(suite, "system-err").text = ""
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _cases(check: Check) -> list[ET.Element]:
    return [_case(check, grouping) for grouping in check["groupings"]] or [_case(check, {"columns": [], "tally": {}})]


def _case(check: Check, grouping: Mapping[str, Any]) -> ET.Element:
    """FAIL lists the groups; else what could not be judged makes it a skipped case."""
    columns, tally = grouping["columns"], grouping["tally"]
    by = f" by {'*'.join(columns)}" if columns else "" if tally else " by nothing"
    case = ET.Element("testcase", {"name": _xml(f"{check['metric']}{by}"), "classname": _xml(check["id"]), "time": "0"})
    records = [record for record in check["comparisons"] if list(record.get("group") or ()) == columns]
    lines = [_line(check, record) for record in records if record["verdict"] != "PASS"]
    if tally.get("FAIL") and check["severity"] == "fail":
        failed = [_line(check, record) for record in records if record["verdict"] == "FAIL"][:SHOWN]
        more = [f"{tally['FAIL'] - len(failed)} more"] if tally["FAIL"] > len(failed) else []
        failure = ET.SubElement(case, "failure", {"type": "FAIL", "message": _xml(next(iter(failed), ""))})
        failure.text = _xml("\n".join([*failed, *more]))
        return case
    unsure = sum(count for verdict, count in tally.items() if verdict != "PASS")
    if unsure or not tally:
        message = f"{next(iter(lines), 'see report.json')} ({unsure} in all)" if tally else "nothing to compare"
        ET.SubElement(case, "skipped", {"message": _xml(message)})
    return case


def _line(check: Check, record: Record) -> str:
    if record.get("value") is None or "reason" in record:
        return f"{record['verdict']} {view.name_of(record)}: {record.get('reason') or 'no value'}"
    scale = view.scale_of(check)
    span = view.span(record, scale)
    interval = "exact" if span == "exact" else f"interval {span}"
    return (
        f"{record['verdict']} {view.name_of(record)}: {scale.full(record['value'])}, {interval}, {view.demand(check)}"
    )


def _xml(text: str) -> str:
    """`text` without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", str(text))
