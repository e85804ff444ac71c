"""Text, Markdown, JUnit and the model card of reports of any suite."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml

from seerctl.audit.fairness import audit_fairness
from seerctl.audit.policy import load_policy
from seerctl.audit.report import MAX_MARKDOWN, card, junit, markdown, save, text
from seerctl.audit.report.view import Scale, cell, demand, scale_of, span, visible
from tests.audit.reports import check, every_suite, record

WHEN = datetime(2026, 1, 2, 3, 4, 5)
EVIL = "a|b\n# $\\frac{1}{2}$ &lt;b ~~s~~ <img src=x> @all [x](http://e) `c` **b** \u202e\x1b[31m</failure>]]>\ud800"


def hostile() -> dict[str, Any]:
    """A report whose names are all hostile."""
    report = every_suite()
    found = [
        record(EVIL, verdict, 0.1, group={EVIL: f"{EVIL}{i}"}, low=0.0, high=0.2, reason=EVIL)
        if verdict == "NOT ASSESSED"
        else record(EVIL, verdict, 0.1, group={EVIL: f"{EVIL}{i}"}, low=0.0, high=0.2)
        for i, verdict in enumerate(("FAIL", "INCONCLUSIVE", "NOT ASSESSED", "PASS"))
    ]
    report["checks"] = [check(EVIL, "fairness", "share", [None, 0.05], found, worst=EVIL, title=EVIL)]
    report["not_assessed"] = [found[2]]
    report["headline"] = EVIL
    table = {"title": EVIL, "columns": [EVIL], "rows": [[EVIL]], "note": EVIL}
    chart = {"title": EVIL, "labels": [EVIL], "values": [0.5], "low": None, "high": None, "line": None, "axis": EVIL}
    report["sections"] = {"fairness": {"tables": [table], "charts": [chart], "limits": [EVIL], "inputs": {EVIL: EVIL}}}
    return report


# -------------------------------------------------------------------------------------------------------------- units


def test_numbers_in_the_unit_of_their_metric() -> None:
    def scaled(unit: str, against: str, value: float) -> str:
        return scale_of(check("c", "fairness", unit, [None, 1.0], [], against=against)).full(value)

    assert scaled("share", "threshold", 0.12345) == "12.3 %"
    assert scaled("share", "rest", 0.12345) == "+12.3 points"
    assert scaled("gap", "threshold", -0.12345) == "-12.3 points"
    assert scaled("count", "threshold", 12345) == "12,345"
    assert scaled("number", "threshold", 0.00012346) == "0.0001235"
    assert scaled("number", "baseline", 1.5) == "+1.5"
    assert scaled("share", "rest", -0.0001) == "0.0 points"
    assert Scale(1.0, None, "").text(None) == "\u2013"
    assert [cell(value) for value in (None, True, 3, 3.0, 1234.56, 0.123456, "a\nb")] == [
        "", "True", "3", "3", "1,235", "0.1235", "a b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("unit", "against", "bounds", "words"),
    [
        ("share", "rest", [-0.05, 0.05], "within 5 points of everyone else"),
        ("share", "rest", [-0.125, None], "at most 12.5 points lower than everyone else"),
        ("share", "baseline", [None, 0.01], "at most 1 point higher than the baseline"),
        ("share", "rest", [-0.1, 0.05], "from -10 points to 5 points against everyone else"),
        ("share", "threshold", [0.8, None], "at least 80 %"),
        ("count", "threshold", [None, 0.0], "none"),
        ("count", "threshold", [None, 20.0], "at most 20"),
        ("number", "threshold", [0.4, 0.6], "between 0.4 and 0.6"),
    ],
)
def test_demands_in_words(unit: str, against: str, bounds: list[float | None], words: str) -> None:
    assert demand(check("c", "fairness", unit, bounds, [], against=against)) == words


def test_intervals_and_names() -> None:
    scale = Scale(100.0, 1, "%")
    assert span({"low": 0.1, "high": 0.2}, scale) == "10.0 to 20.0"
    assert span({"low": None, "high": 0.2}, scale) == "any to 20.0"
    assert span({"low": 0.1, "high": 0.1, "exact": True}, scale) == "exact"
    assert visible("a\u202eb\0\ttab") == "a\\u202eb\\x00 tab"
    assert visible("\U0001f469\U0001f3fe\u200d\U0001f9b1") == "\U0001f469\U0001f3fe\u200d\U0001f9b1"


# ------------------------------------------------------------------------------------------------------ text, Markdown


def test_text_of_all_suites() -> None:
    lines = text(every_suite()).splitlines()
    assert lines[0].startswith("audit --fairness --representation --robustness --leakage --privacy --lineage: policy")
    assert lines[1].split() == ["FAIL", "duplicates", "1", "fail"]
    assert any(line.strip() == "female  4,498  0.4998" for line in lines)
    assert any(re.fullmatch(r"    2\s+#*\s+0\.9.*|    1\s+#+\s+0\.9 \[0\.88, 0\.92\]", line) for line in lines)
    assert "and 24 more" in text(every_suite())
    assert lines[-2:] == ["  not assessed: gender=x: 3 rows, 30 needed", "verdict: FAIL"]
    assert all(line.isprintable() for line in text(hostile()).splitlines())


def test_markdown_of_all_suites() -> None:
    body = markdown(every_suite())
    assert body.startswith("## Fairness, representation, robustness, leakage, privacy and lineage audit: FAIL")
    assert "| all rows | 17 | exact | 10,000 | FAIL |" in body
    assert "| gender=f | -1.2 | -3.0 to +1.0 | 80.0 | 81.2 | 400 | PASS |" in body
    assert "| all rows | +1.0 | -1.0 to +3.0 | 91.0 | 90.0 | 400 | PASS |" in body
    assert "| female | 4,498 | 0.4998 |" in body
    assert "Not run: later." in body
    assert "- Columns that nobody collected cannot be counted." in body
    assert "sha256 `cdcdcdcdcdcdcdcd`" in body
    long = {**every_suite(), "limits": ["word " * 60 + "end."]}
    assert all("word " * 60 + "end." in make(long) for make in (markdown, card))


def unescaped(body: str) -> str:
    """Markdown without code and without what a backslash escapes."""
    lines = [line for line in body.splitlines() if not line.startswith("    ")]
    return re.sub(r"\\.", "", re.sub(r"`[^`]*`", "", "\n".join(lines)))


@pytest.mark.parametrize("make", [markdown, card])
def test_hostile_names_stay_text_in_markdown(make: Callable[[dict[str, Any]], str]) -> None:
    body = make(hostile())
    assert not set("\u202e\x1b\ud800") & set(body)
    rest = unescaped(body)
    for mark in ("<img", "](", "@all", "http://", "\n# ", "**b**", "$", "&lt;", "~~"):
        assert mark not in rest, mark
    for block in re.findall(r"(?:^\|.*\n)+", body, re.M):
        columns = {re.sub(r"\\.", "", line).count("|") for line in block.splitlines()}
        assert len(columns) == 1, block


def test_markdown_is_cut() -> None:
    report = every_suite()
    report["checks"] = [
        check(f"c{i}", "fairness", "share", [None, 0.05], [
            record(f"c{i}", "FAIL", 0.1, group={"g": "w" * 150}, low=0.1, high=0.2)] * 20) for i in range(60)
    ]  # fmt: skip
    assert MAX_MARKDOWN - 500 < len(markdown(report)) < 65_535


# -------------------------------------------------------------------------------------------------------------- JUnit


def validate_junit(document: bytes) -> None:
    """The structure that the Ant/JUnitReport schema (Windy Road's JUnit.xsd) and Jenkins' junit-10.xsd both ask for."""
    root = ET.fromstring(document)
    assert (root.tag, set(root.attrib)) == ("testsuites", set())
    for number, suite in enumerate(root):
        assert suite.tag == "testsuite"
        needed = {"name", "timestamp", "hostname", "tests", "failures", "errors", "time", "package", "id"}
        assert needed <= set(suite.attrib) <= needed | {"skipped"}
        assert suite.get("id") == str(number)
        assert all(" ".join((suite.get(name) or "").split()) for name in ("name", "hostname", "package"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", ""))
        assert re.fullmatch(r"\d{1,3}(\.\d*)?", suite.get("time", ""))  # xs:decimal, and Jenkins' SUREFIRE_TIME
        tags = [child.tag for child in suite]
        assert tags == ["properties", *["testcase"] * (len(tags) - 3), "system-out", "system-err"]
        assert all(entry.tag == "property" and set(entry.attrib) == {"name", "value"} for entry in suite[0])
        cases = suite.findall("testcase")
        for case in cases:
            assert set(case.attrib) == {"name", "classname", "time"}
            assert [child.tag for child in case] in ([], ["skipped"], ["error"], ["failure"])
            for child in case:
                assert set(child.attrib) <= {"message"} if child.tag == "skipped" else {"type", "message"}
                assert not len(child)
        counted = {name: len(suite.findall(f"testcase/{tag}")) for name, tag in
                   (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))}  # fmt: skip
        assert {name: int(suite.get(name, "0")) for name in counted} == counted
        assert int(suite.get("tests", "")) == len(cases)


def test_junit_of_all_suites() -> None:
    document = junit(every_suite(), WHEN)
    validate_junit(document)
    root = ET.fromstring(document)
    assert [suite.get("package") for suite in root][:3] == [
        "seerctl.audit.leakage", "seerctl.audit.robustness", "seerctl.audit.fairness",
    ]  # fmt: skip
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("message") == "FAIL all rows: 17, exact, none"
    skipped = root[1].find("testcase/skipped")
    assert skipped is not None
    assert "fog:3: 81.2 %, interval 78.0 to any, at least 80 %" in (skipped.get("message") or "")


def test_junit_of_hostile_and_empty_reports() -> None:
    validate_junit(junit(hostile(), WHEN))
    empty = {**every_suite(), "checks": [check("none", "privacy", "count", [None, 0.0], [])]}
    document = junit(empty, WHEN)
    validate_junit(document)
    assert "nothing to compare" in document.decode()
    validate_junit(junit({**every_suite(), "checks": []}, WHEN))


# --------------------------------------------------------------------------------------------------------- model card


def table_of(where: Path, rows: int = 4000) -> Path:
    generator = np.random.default_rng(1)
    lines = ["key,label,prediction,gender,age"]
    for row in range(rows):
        label, gender, age = generator.integers(0, 2, 3)
        said = label if generator.random() < (0.9, 0.7)[gender] else 1 - label
        lines.append(f"k{row},{label},{said},{'fm'[gender]},{('old', 'young: #1')[age]}")
    (where / "p.csv").write_text("\n".join(lines) + "\n")
    return where / "p.csv"


def test_card_has_the_headings_and_the_numbers(tmp_path: Path) -> None:
    report = audit_fairness(table_of(tmp_path), load_policy(), ["gender", "age"])
    body = card(report)
    headings = re.findall(r"^(#+ .*)", body, re.M)
    assert headings == [
        "## Factors", "## Metrics", "## Evaluation Data", "## Quantitative Analyses", "### Unitary Results",
        "### Intersectional Results", "## Caveats and Recommendations",
    ]  # fmt: skip
    _, front, rest = body.split("---\n", 2)
    index = yaml.safe_load(front)["model-index"]
    (result,) = index[0]["results"]
    assert (index[0]["name"], result["task"]) == ("p", {"type": "image-classification"})
    assert set(result["dataset"]) == {"type", "name", "revision"}
    metrics = {entry["name"]: entry["value"] for entry in result["metrics"]}
    assert all(entry["type"] == "accuracy" for entry in result["metrics"])
    groups = {entry["group"]["gender"]: entry for entry in report["groups"][0]["groups"]}
    assert metrics["Accuracy, gender=m"] == groups["m"]["accuracy"]["value"]
    right = sum(entry["n"] * entry["accuracy"]["value"] for entry in groups.values())
    assert metrics["Accuracy"] == pytest.approx(right / 4000, abs=1e-9)
    accuracy = next(found for found in report["checks"] if found["id"] == "accuracy")
    worst = accuracy["comparisons"][0]
    assert f"| {100 * worst['value']:+.1f} | {100 * worst['low']:+.1f} to {100 * worst['high']:+.1f} |" in rest
    assert f"**{report['verdict']}**" in rest


def test_card_without_an_accuracy_has_no_model_index() -> None:
    body = card(every_suite())
    assert body.startswith("## Factors\n\nThis audit compares no groups.\n\n## Metrics")
    assert "- representation: index_sha256: `abab" in body.replace("\\_", "_")
    assert "- Not assessed: gender=x: 3 rows, 30 needed" in body


def test_saved_files_are_utf8_whatever_the_names(tmp_path: Path) -> None:
    report = hostile()
    save(report, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert path.read_text(encoding="utf-8")
    saved = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert saved["checks"] == report["checks"]
