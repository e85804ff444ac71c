"""The fairness report: its JSON, Markdown and JUnit, on honest and on unfair predictions, with hostile names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from seerctl.audit.fairness import audit_fairness
from seerctl.audit.policy import load_policy
from seerctl.audit.report import FILES, MAX_MARKDOWN, PAGE, append_step_summary, junit, markdown, save, text
from seerctl.errors import InputError, UsageError

OWN = '[[check]]\nid = "acc"\nmetric = "accuracy"\n'


def predictions(where: Path, rates: dict[str, float], rows: int = 2000, seed: int = 0, **columns: Any) -> Path:
    """A table in which each group of `rates` is right that often."""
    generator = np.random.default_rng(seed)
    names = list(rates)
    group = generator.integers(0, len(names), rows)
    label = generator.integers(0, 2, rows)
    right = generator.random(rows) < np.array(list(rates.values()))[group]
    frame = pd.DataFrame({
        "key": [f"k{row}" for row in range(rows)], "label": label, "prediction": np.where(right, label, 1 - label),
        "group": np.array(names, dtype=object)[group], **columns,
    })  # fmt: skip
    path = where / "p.csv"
    frame.to_csv(path, index=False)
    return path


def report_on(path: Path, tmp_path: Path, policy: str = "", groups: Sequence[str] = ("group",)) -> dict[str, Any]:
    where = None
    if policy:
        where = tmp_path / "audit.toml"
        where.write_text(policy)
    return audit_fairness(path, load_policy(where), groups)


def test_fair_unfair_and_too_small(tmp_path: Path) -> None:
    fair = report_on(predictions(tmp_path, {"a": 0.9, "b": 0.9}, rows=20_000), tmp_path)
    assert (fair["verdict"], fair["exit_code"]) == ("PASS", 0)
    unfair = report_on(predictions(tmp_path, {"a": 0.9, "b": 0.9, "c": 0.6}), tmp_path)
    assert (unfair["verdict"], unfair["exit_code"]) == ("FAIL", 3)
    assert unfair["checks"][0]["verdict"] == "FAIL"
    assert "group=c is" in unfair["headline"]
    assert "below the rest" in unfair["headline"]
    small = report_on(predictions(tmp_path, {"a": 0.9, "b": 0.9}, rows=40), tmp_path)
    assert (small["verdict"], small["exit_code"]) == ("INCONCLUSIVE", 6)
    assert small["not_assessed"]
    assert all("needed" in record["reason"] for record in small["not_assessed"])


def test_numbers_of_the_report(tmp_path: Path) -> None:
    path = predictions(tmp_path, {"a": 0.9, "b": 0.7})
    frame = pd.read_csv(path)
    report = report_on(path, tmp_path, OWN)
    means = (frame.label == frame.prediction).groupby(frame.group).mean()
    record = next(r for r in report["checks"][0]["comparisons"] if r["group"] == {"group": "b"})
    assert record["rate"]["value"] == pytest.approx(means["b"], abs=1e-12)
    assert record["value"] == pytest.approx(means["b"] - means["a"], abs=1e-12)
    assert record["n"] == (frame.group == "b").sum()
    described = {entry["group"]["group"]: entry for entry in report["groups"][0]["groups"]}
    assert described["a"]["accuracy"]["value"] == pytest.approx(means["a"], abs=1e-12)
    assert report["inputs"]["rows"] == 2000
    assert report["policy"]["check"][0]["id"] == "acc"
    assert report["schema"] == "seerctl.audit/1"


def test_the_policy_decides_what_inconclusive_and_warnings_mean(tmp_path: Path) -> None:
    path = predictions(tmp_path, {"a": 0.9, "b": 0.87}, rows=300)
    assert report_on(path, tmp_path, OWN)["exit_code"] == 6
    assert report_on(path, tmp_path, 'on_inconclusive = "pass"\n' + OWN)["exit_code"] == 0
    assert report_on(path, tmp_path, OWN + 'on_inconclusive = "pass"\n')["exit_code"] == 0
    unfair = predictions(tmp_path, {"a": 0.9, "b": 0.5})
    assert report_on(unfair, tmp_path, OWN)["exit_code"] == 3
    assert report_on(unfair, tmp_path, OWN + 'severity = "warn"\n')["exit_code"] == 0


def test_missing_groups_and_labels_are_counted(tmp_path: Path) -> None:
    path = predictions(tmp_path, {"a": 0.9, "b": 0.9})
    frame = pd.read_csv(path)
    frame.loc[:99, "group"] = None
    frame.loc[50:249, "label"] = None
    frame.to_csv(path, index=False)
    report = report_on(path, tmp_path)
    assert report["inputs"]["unlabelled"] == 200
    assert report["groups"][0]["missing"] == 50
    assert sum(entry["n"] for entry in report["groups"][0]["groups"]) == 1750
    assert "200 rows without a label" in text(report)
    assert "50 rows have no group" in text(report)


def test_intersections_and_many_classes(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    path = predictions(tmp_path, {"a": 0.9, "b": 0.9}, rows=4000, age=generator.choice(["old", "young"], 4000))
    report = report_on(path, tmp_path, groups=["group", "age"])
    groupings = [tuple(entry["columns"]) for entry in report["groups"]]
    assert groupings == [("group",), ("age",), ("group", "age")]
    frame = pd.read_csv(path)
    frame[["label", "prediction"]] = frame[["label", "prediction"]].replace({0: "cat", 1: "dog"})
    frame.to_csv(path, index=False)
    classes = {
        check["id"]: {record["class"] for record in check["comparisons"]}
        for check in report_on(path, tmp_path)["checks"]
    }
    assert classes == {"accuracy": {None}, "true-positive-rate": {"macro"}, "selection-rate": {"cat", "dog"}}


def test_refusals(tmp_path: Path) -> None:
    path = predictions(tmp_path, {"a": 0.9, "b": 0.9}, name=[f"n{row}" for row in range(2000)])
    with pytest.raises(UsageError, match="Did you mean 'group'"):
        report_on(path, tmp_path, groups=["grop"])
    with pytest.raises(UsageError, match="no column 'gender' to group by"):
        report_on(path, tmp_path, OWN + 'groups = ["gender"]\n')
    with pytest.raises(UsageError, match="'name' has 2,000 different values, too many for groups"):
        report_on(path, tmp_path, groups=["name"])
    with pytest.raises(UsageError, match="no class '2' in the table"):
        report_on(path, tmp_path, OWN.replace("accuracy", "tpr") + 'positive = "2"\n')
    with pytest.raises(UsageError, match="Pass --groups"):
        report_on(path, tmp_path, groups=[])
    with pytest.raises(InputError, match="no such file"):
        report_on(tmp_path / "none.csv", tmp_path)


# ------------------------------------------------------------------------------------------------------------- files

HOSTILE = {"<b>|x|*": 0.9, "[link](http://x)": 0.5, "new\nline @all": 0.9, "nul\x01\x1f": 0.9}


def test_files_hold_the_same_and_hostile_names_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    report = report_on(predictions(tmp_path, HOSTILE, rows=4000), tmp_path)
    save(report, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*FILES, PAGE])
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved == {**report, "created": "2023-11-14T22:13:20Z"}
    body = (tmp_path / "out" / "report.md").read_text()
    assert "<b>" not in body
    assert "\\[link\\](http\\://x)" in body  # text, no link
    assert "[link]" not in body
    assert "\\@all" in body
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {6, 8}
    suites = ET.parse(tmp_path / "out" / "junit.xml").getroot()
    assert [suite.get("name") for suite in suites] == [check["id"] for check in report["checks"]]
    assert suites[0].get("timestamp") == "2023-11-14T22:13:20"


def test_junit_counts_and_structure(tmp_path: Path) -> None:
    report = report_on(predictions(tmp_path, {"a": 0.9, "b": 0.6, "c": 0.9}), tmp_path)
    root = ET.fromstring(junit(report, datetime(2024, 1, 2, 3, 4, 5)))
    assert root.tag == "testsuites"
    for number, (suite, check) in enumerate(zip(root, report["checks"], strict=True)):
        assert [child.tag for child in suite] == ["properties", "testcase", "system-out", "system-err"]
        assert suite.get("id") == str(number)
        assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped", "")) == len(suite.findall("testcase/skipped"))
        assert int(suite.get("tests", "")) == len(suite.findall("testcase"))
        if check["verdict"] == "FAIL":
            failure = suite.find("testcase/failure")
            assert failure is not None
            assert "group=b" in (failure.get("message") or "")
    accuracy = next(suite for suite in root if suite.get("name") == "accuracy")
    assert accuracy.get("failures") == "1"


def test_inconclusive_is_skipped_in_junit(tmp_path: Path) -> None:
    report = report_on(predictions(tmp_path, {"a": 0.9, "b": 0.9}, rows=100), tmp_path, OWN)
    root = ET.fromstring(junit(report, datetime(2024, 1, 2)))
    skipped = root.find("testsuite/testcase/skipped")
    assert skipped is not None
    assert "INCONCLUSIVE" in (skipped.get("message") or "")
    warned = report_on(predictions(tmp_path, {"a": 0.9, "b": 0.5}), tmp_path, OWN + 'severity = "warn"\n')
    assert ET.fromstring(junit(warned, datetime(2024, 1, 2))).find("testsuite/testcase/failure") is None


def test_markdown_is_short_enough_for_a_comment(tmp_path: Path) -> None:
    names = {f"group {'x' * 200} {i}": 0.9 for i in range(300)}
    path = predictions(tmp_path, names, rows=9000)
    checks = "".join(f'[[check]]\nid = "c{i}"\nmetric = "accuracy"\nmin_n = 5\n' for i in range(40))
    body = markdown(report_on(path, tmp_path, checks))
    assert len(body) <= MAX_MARKDOWN + 100
    assert body.endswith("the whole report is in report.json.\n")


def test_step_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    append_step_summary("## Fairness")
    assert summary.read_text() == "before\n## Fairness\n"


def test_a_thousand_classes_make_no_giant_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerctl.audit.summary.KEPT", 20)
    generator = np.random.default_rng(0)
    label = generator.integers(0, 40, 8000)
    frame = pd.DataFrame({"key": range(8000), "label": label, "prediction": label, "group": ["a", "b"] * 4000})
    frame.to_csv(tmp_path / "p.csv", index=False)
    report = report_on(tmp_path / "p.csv", tmp_path, OWN.replace("accuracy", "tpr"))
    check = report["checks"][0]
    assert (len(check["comparisons"]), check["omitted"], sum(check["tally"].values())) == (20, 60, 80)
    assert check["groupings"] == [{"columns": ["group"], "tally": check["tally"]}]
    assert "70 more." in markdown(report)
    assert len(ET.fromstring(junit(report, datetime(2024, 1, 2))).findall("testsuite/testcase")) == 1
