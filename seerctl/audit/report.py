"""What a report looks like: text for a terminal, report.json, report.md and junit.xml, all from the same JSON."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from seerctl.audit.fairness import name_of
from seerctl.files import atomic_write, blame, claim, write_json

FILES = ("report.json", "report.md", "junit.xml")
SHOWN = 10  # comparisons a check lists in Markdown and JUnit
MAX_MARKDOWN = 60_000  # characters; a comment on GitHub holds 65,535
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Report = Mapping[str, Any]


def claim_directory(directory: Path, *, overwrite: bool = False) -> Path:
    """`directory` if reports may be written there: it is absent or empty, or `overwrite`.

    Raises:
        UsageError: something is there.
    """
    return claim(directory, overwrite=overwrite)


def save(report: Report, directory: Path) -> None:
    """Write all files into `directory`, each atomically, report.json last; append to GITHUB_STEP_SUMMARY when set."""
    with blame(directory):
        directory.mkdir(parents=True, exist_ok=True)
    created = _now()
    text = markdown(report)
    with atomic_write(directory / "report.md", "w") as file:
        file.write(text)
    with atomic_write(directory / "junit.xml") as file:
        file.write(junit(report, created))
    write_json(directory / "report.json", {**report, "created": created.isoformat() + "Z"})
    append_step_summary(text)


def append_step_summary(text: str) -> None:
    """Add `text` to the job's summary page on GitHub, where there is one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with blame(summary), Path(summary).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def _now() -> datetime:
    """UTC without zone, to the second; SOURCE_DATE_EPOCH makes it reproducible."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    return moment.replace(tzinfo=None, microsecond=0)


# ------------------------------------------------------------------------------------------------------------- text


def text(report: Report) -> str:
    """A dozen lines for a terminal."""
    inputs = report["inputs"]
    lines = [
        f"audit --fairness: {inputs['predictions']}, {inputs['rows'] - inputs['unlabelled']:,} rows, "
        f"policy {report['policy']['source']}"
    ]
    width = max(len(check["id"]) for check in report["checks"])
    for check in report["checks"]:
        severity = " (warning only)" if check["severity"] == "warn" else ""
        lines.append(f"  {check['verdict']:<12}  {check['id']:<{width}}  {_tally(check)}{severity}")
        if check["worst"] and check["verdict"] != "PASS":
            lines.append(f"  {'':<12}  {'':<{width}}  worst: {check['worst']}")
    lines += _missing_lines(report)
    lines.append(f"verdict: {report['verdict']}")
    return "\n".join(lines)


def _tally(check: Mapping[str, Any]) -> str:
    counted = ", ".join(f"{count} {name.lower()}" for name, count in check["tally"].items() if count)
    return counted or "nothing to compare"


def _missing_lines(report: Report) -> list[str]:
    small = list(dict.fromkeys(f"{name_of(record)}: {record['reason']}" for record in report["not_assessed"]))
    lines = []
    if small:
        more = f", and {len(small) - 3} more" if len(small) > 3 else ""
        lines.append(f"  not assessed: {'; '.join(small[:3])}{more}")
    if report["inputs"]["unlabelled"]:
        lines.append(f"  {report['inputs']['unlabelled']:,} rows without a label are left out")
    for grouping in report["groups"]:
        if grouping["missing"]:
            lines.append(f"  {grouping['missing']:,} rows have no {' * '.join(grouping['columns'])}")
    return lines


# --------------------------------------------------------------------------------------------------------- markdown


def markdown(report: Report) -> str:
    """The report as Markdown, worst first, short enough for a comment on a pull request."""
    inputs, policy = report["inputs"], report["policy"]
    lines = [
        f"## Fairness audit: {report['verdict']}", "",
        f"{_escape(report['headline'])}", "",
        "| check | metric | verdict | comparisons |", "|---|---|---|---|",
        *(
            f"| {_escape(check['id'])}{' (warning only)' if check['severity'] == 'warn' else ''} | {check['metric']} "
            f"| **{check['verdict']}** | {_tally(check)} |"
            for check in report["checks"]
        ),
        "",
    ]  # fmt: skip
    for check in report["checks"]:
        lines += _markdown_check(check)
    lines += _markdown_small(report)
    lines += ["### What this does not show", "", *(f"- {limit}" for limit in report["limits"]), ""]
    lines += [
        f"{inputs['rows']:,} rows of `{_escape(inputs['predictions'])}` (sha256 `{inputs['sha256'][:16]}`), "
        f"policy `{_escape(policy['source'])}` (sha256 `{policy['sha256'][:16]}`), alpha {policy['stats']['alpha']}, "
        f"{policy['stats']['correction']} over each {policy['stats']['family']}, "
        f"seerctl {report['versions']['seerctl']}.", "",
    ]  # fmt: skip
    return _cut("\n".join(lines))


def _markdown_check(check: Mapping[str, Any]) -> list[str]:
    judged = [record for record in check["comparisons"] if "low" in record]
    if not judged:
        return []
    gap = "rest" in judged[0]
    head = "gap, points | interval | rate % | rest %" if gap else "rate, % | interval | rate %"
    rule = "--:|---|--:|--:" if gap else "--:|---|--:"
    lines = [
        f"### {_escape(check['id'])}: {check['verdict']}", "",
        f"| group | {head} | n | verdict |", f"|---|{rule}|--:|---|",
    ]  # fmt: skip
    for record in judged[:SHOWN]:
        rest = f"| {100 * record['rest']['value']:.1f} " if gap else ""
        value = f"{100 * record['value']:{'+' if gap else ''}.1f}"
        lines.append(
            f"| {_escape(name_of(record))} | {value} | {100 * record['low']:.1f} to {100 * record['high']:.1f} "
            f"| {100 * record['rate']['value']:.1f} {rest}| {record['rate']['trials']:,} | {record['verdict']} |"
        )
    more = len(judged) - SHOWN + check["omitted"]
    if more > 0:
        lines.append(f"\n{more:,} more{' in report.json' if not check['omitted'] else ''}.")
    return [*lines, ""]


def _markdown_small(report: Report) -> list[str]:
    small = list(dict.fromkeys(f"{name_of(record)}: {record['reason']}" for record in report["not_assessed"]))
    if not small:
        return []
    more = [f"- and {len(small) - SHOWN} more in report.json"] if len(small) > SHOWN else []
    return ["### Not assessed", "", *(f"- {_escape(line)}" for line in small[:SHOWN]), *more, ""]


def _escape(text: str) -> str:
    """Group names come from strangers: no table breaks, no HTML, no links, no mentions."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|<>@#]|:(?=//))", r"\\\1", flat).replace("www.", "www\\.")


def _cut(text: str) -> str:
    if len(text) <= MAX_MARKDOWN:
        return text
    return text[:MAX_MARKDOWN].rsplit("\n", 1)[0] + "\n\nCut here; the whole report is in report.json.\n"


# ------------------------------------------------------------------------------------------------------------ junit


def junit(report: Report, created: datetime) -> bytes:
    """One test suite a check, one test case a grouping; FAIL is a failure, what could not be judged is skipped.

    Valid against the Ant/JUnitReport schema (Windy Road's JUnit.xsd) and against Jenkins' junit-10.xsd.
    """
    root = ET.Element("testsuites")
    for number, check in enumerate(report["checks"]):
        cases = _cases(check)
        failures = sum(case.find("failure") is not None for case in cases)
        suite = ET.SubElement(root, "testsuite", {
            "name": _xml(check["id"]), "package": "seerctl.audit.fairness", "id": str(number),
            "timestamp": created.isoformat(), "hostname": "localhost", "tests": str(len(cases)),
            "failures": str(failures), "errors": "0",
            "skipped": str(sum(case.find("skipped") is not None for case in cases)), "time": "0",
        })  # fmt: skip
        properties = ET.SubElement(suite, "properties")
        for name in ("metric", "severity", "verdict"):
            ET.SubElement(properties, "property", {"name": name, "value": _xml(check[name])})
        suite.extend(cases)
        ET.SubElement(suite, "system-out").text = _xml(report["headline"])
        ET.SubElement(suite, "system-err").text = ""
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _cases(check: Mapping[str, Any]) -> list[ET.Element]:
    return [_case(check, grouping) for grouping in check["groupings"]] or [_case(check, {"columns": [], "tally": {}})]


def _case(check: Mapping[str, Any], grouping: Mapping[str, Any]) -> ET.Element:
    """FAIL lists the groups; else what could not be judged makes it a skipped case."""
    columns, tally = grouping["columns"], grouping["tally"]
    name = f"{check['metric']} by {'*'.join(columns) or 'nothing'}"
    case = ET.Element("testcase", {"name": _xml(name), "classname": _xml(check["id"]), "time": "0"})
    records = [record for record in check["comparisons"] if list(record["group"]) == columns]
    lines = [_line(record) for record in records if record["verdict"] != "PASS"]
    if tally.get("FAIL") and check["severity"] == "fail":
        failed = [_line(record) for record in records if record["verdict"] == "FAIL"][:SHOWN]
        more = [f"{tally['FAIL'] - len(failed)} more"] if tally["FAIL"] > len(failed) else []
        failure = ET.SubElement(case, "failure", {"type": "FAIL", "message": _xml(next(iter(failed), ""))})
        failure.text = _xml("\n".join([*failed, *more]))
        return case
    unsure = sum(count for verdict, count in tally.items() if verdict != "PASS")
    if unsure or not columns:
        message = f"{next(iter(lines), 'see report.json')} ({unsure} in all)" if columns else "nothing to compare"
        ET.SubElement(case, "skipped", {"message": _xml(message)})
    return case


def _line(record: Mapping[str, Any]) -> str:
    if "low" not in record:
        return f"{record['verdict']} {name_of(dict(record))}: {record['reason']}"
    return (
        f"{record['verdict']} {name_of(dict(record))}: {100 * record['value']:+.1f}, "
        f"interval [{100 * record['low']:+.1f}, {100 * record['high']:+.1f}]"
    )


def _xml(text: str) -> str:
    """`text` without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", str(text))
