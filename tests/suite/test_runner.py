"""A suite runs, goes on, repeats what has changed, and survives an entry that fails."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from seerctl.probes import registry
from seerctl.probes.knn import knn
from seerctl.probes.task import load_task
from seerctl.suite.needs import missing
from seerctl.suite.runner import Plan, run_suite
from seerctl.suite.spec import Suite, load_suite
from seerctl.suite.table import csv_text, markdown, summary
from tests.feature_files import clouds, write_features
from tests.suite_files import SUITE, clouds_suite


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return clouds_suite(tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The protocols that were really run."""
    called: list[str] = []
    real = registry.run_protocol

    def counting(name: str, *arguments: Any, **more: Any) -> Any:
        called.append(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr("seerctl.suite.runner.run_protocol", counting)
    return called


def plan_of(where: Path) -> tuple[Suite, Plan]:
    suite = load_suite(where / "clouds.toml")
    return suite, Plan(suite.entry, [], where, where / "out", suite="clouds")


def test_reports_are_those_of_the_protocols(where: Path) -> None:
    suite, plan = plan_of(where)
    outcomes = run_suite(plan)
    assert [(one.entry.name, one.error) for one in outcomes] == [("neighbours", None), ("ridge", None)]
    report = json.loads((where / "out/reports/features/neighbours.json").read_text())
    bare = knn(load_task(where / "train.h5", where / "test.h5", "label"), [5]).report
    assert {key: report[key] for key in bare} == bare
    table = where / "out/predictions/features/neighbours.csv"
    assert report["predictions"]["path"] == str(table)
    assert len(list(csv.DictReader(table.open()))) == 100
    written = summary(plan, suite.description, outcomes)
    value = report["metrics"]["top1"]
    assert written["entries"][0]["ours"][0] == {
        "model": "model", "status": "done", "report": "reports/features/neighbours.json", **value,
    }  # fmt: skip
    lines = list(csv.DictReader(io.StringIO(csv_text(written))))
    assert [(line["entry"], line["whose"], line["status"]) for line in lines] == [
        ("neighbours", "ours", "done"), ("neighbours", "published", ""), ("ridge", "ours", "done"),
        ("boxes", "", "elsewhere"),
    ]  # fmt: skip
    assert float(lines[0]["value"]) == value["value"]
    page = markdown(written)
    assert f"| {100 * value['value']:.1f} % [{100 * value['low']:.1f}, {100 * value['high']:.1f}] | SwAV 71.5 |" in page
    assert "- **neighbours**: published SwAV: k was 20" in page
    assert "- **boxes**: needs boxes" in page


def test_what_is_done_is_kept_and_what_changed_is_repeated(where: Path, calls: list[str]) -> None:
    _, plan = plan_of(where)
    run_suite(plan)
    assert calls == ["knn", "linear"]
    assert all(one.kept for one in run_suite(plan_of(where)[1]))
    assert calls == ["knn", "linear"]
    # A report that is gone (killed before it), another option, other features.
    plan.report(plan.entries[0], None).unlink()
    assert [one.kept for one in run_suite(plan_of(where)[1])] == [False, True]
    (where / "clouds.toml").write_text(SUITE.replace("l2 = [0.1]", "l2 = [0.2]"))
    assert [one.kept for one in run_suite(plan_of(where)[1])] == [True, False]
    points, labels = clouds(80, classes=6, seed=5)
    (where / "test.h5").unlink()
    write_features(where / "test.h5", points, {"label": labels}, start=1000)
    outcomes = run_suite(plan_of(where)[1])
    assert [one.kept for one in outcomes] == [False, False]
    assert [one.report["metrics"]["top1"]["n"] for one in outcomes if one.report] == [80, 80]


def test_a_failing_entry_leaves_the_others_alone(where: Path) -> None:
    points, labels = clouds(50, classes=7, seed=5)
    (where / "test.h5").unlink()
    write_features(where / "other.h5", points, {"label": labels}, start=1000)
    (where / "clouds.toml").write_text(SUITE.replace("test.h5", "other.h5", 1).replace('"test.h5"', '"train.h5"'))
    suite, plan = plan_of(where)
    failed, fine = run_suite(plan)
    assert failed.report is None
    assert fine.report is not None
    assert "that no training row has" in str(failed.error)
    table = summary(plan, suite.description, [failed, fine])
    assert table["entries"][0]["ours"][0]["status"] == "failed"
    assert "| failed |" in markdown(table)


def test_needs_are_named_before_anything_starts(where: Path) -> None:
    text = SUITE.replace('test = "test.h5"', 'test = "none.h5"', 1).replace('target = "label"', 'target = "labl"')
    (where / "clouds.toml").write_text(text)
    said = [(one.entry, one.what) for one in missing(plan_of(where)[1])]
    assert said == [
        ("neighbours", f"{where}/train.h5: no column 'labl', it has group, label"),
        ("neighbours", f"{where}/none.h5: no such file"),
        ("ridge", f"{where}/train.h5: no column 'labl', it has group, label"),
        ("ridge", f"{where}/test.h5: no column 'labl', it has group, label"),
    ]


def test_the_page(where: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    from seerctl.suite.page import html

    _, plan = plan_of(where)
    hostile = summary(plan, "<script>alert(1)</script>", run_suite(plan))
    page = html(hostile)
    assert "<script" not in page
    assert "SwAV&nbsp;71.5" in page
    assert page.count("<svg") == 1
    assert "needs boxes" in page
