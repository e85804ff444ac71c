"""What a probe's report says: every metric from the predictions, the protocol, and the gate."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from seerctl.errors import GateFailed, UsageError
from seerctl.probes.classification import rank
from seerctl.probes.gates import Gates
from seerctl.probes.knn import knn
from seerctl.probes.report import inputs_of, make_report, metric, text_table
from seerctl.probes.task import load_task
from seerctl.stats import Interval, wilson
from tests.feature_files import pair


def test_the_report_follows_from_the_predictions(tmp_path: Path) -> None:
    train, test = pair(tmp_path, rows=300, test=120, classes=7, spread=2.5)
    result = knn(load_task(train, test, "label"), [5])
    report, table = result.report, result.predictions
    hits = table.label == table.prediction
    interval = wilson(hits.sum(), 120)
    assert report["metrics"]["top1"] == {
        "value": hits.mean(), "low": float(interval.low), "high": float(interval.high), "n": 120,
    }  # fmt: skip
    assert report["metrics"]["top5"]["value"] == (table.top == table.label[:, None]).any(1).mean()
    recalls = [hits[table.label == code].mean() for code in range(7)]
    assert report["metrics"]["mean_per_class"]["value"] == pytest.approx(np.mean(recalls))
    assert [row["accuracy"] for row in report["per_class"]] == pytest.approx(recalls)
    assert sum(row["n"] for row in report["per_class"]) == 120
    assert report["train"]["sha256"] == hashlib.sha256(train.read_bytes()).hexdigest()
    assert (report["test"]["layer"], report["test"]["weights_sha256"]) == ("avgpool", "a" * 64)
    assert report["settings"]["temperature"] == 0.07
    assert table.columns["group"].texts()[:2] == ["old", "young"]
    assert "label" not in table.columns
    result.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == report
    assert "weakest classes" in text_table(report)


def test_five_classes_have_no_top5(tmp_path: Path) -> None:
    report = knn(load_task(*pair(tmp_path, classes=5), "label"), [5]).report
    assert "top5" not in report["metrics"]
    with pytest.raises(UsageError, match="no such metric"):
        Gates({"top5": 0.1}, {}).check(report)


def test_ties_are_ranked_in_class_order() -> None:
    top, scores = rank(np.array([[0.2, 0.4, 0.4, 0.0, 0.0, 0.0]]))
    assert top.tolist() == [[1, 2, 0, 3, 4]]
    assert scores.tolist() == [[0.4, 0.4, 0.2, 0.0, 0.0]]


def test_gates() -> None:
    known = ["top1", "top5", "mae", "r2"]
    gates = Gates.parse(["top1=0.5", "top5=1", "r2=-0.5"], ["mae=12"], known, ["mae", "r2"])
    assert (gates.minima, gates.maxima) == ({"top1": 0.5, "top5": 1.0, "r2": -0.5}, {"mae": 12.0})
    for text, message in (
        ("top2=0.5", "Did you mean 'top1'|Did you mean 'top5'"),
        ("top1=half", "not a number"),
        ("top1=50", "between 0 and 1"),
        ("top1=nan", "between 0 and 1"),
        ("top1", "not a number"),
        ("mae=nan", "not a finite number"),
    ):
        with pytest.raises(UsageError, match=message):
            Gates.parse([text], [], known, ["mae"])
    report = {"metrics": {"top1": {"value": 0.4}, "top5": {"value": 0.9}, "mae": {"value": 3.0}, "r2": {"value": None}}}
    Gates({"top1": 0.4}, {"mae": 3.0}).check(report)
    with pytest.raises(GateFailed, match=r"top1 0\.4000 < 0\.5, mae 3\.0000 > 2$"):
        Gates({"top1": 0.5, "top5": 0.5}, {"mae": 2.0}).check(report)
    with pytest.raises(GateFailed, match="r2 is undefined"):
        Gates({"r2": 0.5}, {}).check(report)


def test_numbers_that_are_no_fractions_are_not_shown_as_percent() -> None:
    origin = {"sha256": "a", "path": "a.h5", "rows": 30, "model": "m", "layer": "l", "dim": 4}
    error = metric(Interval(np.float64(2.5), np.float64(2.0), np.float64(3.0)), 30, unit="target", better="lower")
    unknown = metric(Interval(np.float64("nan"), np.float64("nan"), np.float64("nan")), 30)
    report = make_report("ridge", {}, {"mae": error, "r2": unknown}, {"test": origin}, target="count")
    assert report["metrics"]["mae"] == {
        "value": 2.5, "low": 2.0, "high": 3.0, "n": 30, "unit": "target", "better": "lower"
    }  # fmt: skip
    assert report["metrics"]["r2"]["value"] is None
    text = text_table(report)
    assert "ridge on 'count': 30 test, m l (4)" in text
    assert "2.5  [2, 3]" in text
    assert "undefined  no interval" in text
    assert list(inputs_of(report)) == ["test"]
