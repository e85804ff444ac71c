"""`seerctl probe`: reports, predictions, gates, messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from seerctl.predictions import read_predictions
from seerctl.scores import open_scores
from tests.feature_files import clouds, pair, write_features

Run = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return pair(tmp_path, rows=400, test=120, classes=6, spread=1.5)


def probe(protocol: str, files: tuple[Path, Path], *more: object, target: str = "label") -> list[object]:
    train, test = files
    return ["probe", protocol, "--train", train, "--test", test, "--target", target, "--device", "cpu", *more]


@pytest.mark.parametrize("protocol", ["knn", "linear", "sgd"])
def test_report_predictions_and_audit(protocol: str, cli: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    out, table = tmp_path / "r.json", tmp_path / "p.csv"
    done = cli(*probe(protocol, files, "-o", out, "--predictions", table, "--output-format", "json"))
    assert done.exit_code == 0, done.stderr
    report = json.loads(out.read_text())
    assert json.loads(done.stdout) == report
    assert report["protocol"] == protocol
    frame = pd.read_csv(table)
    assert report["metrics"]["top1"]["value"] == pytest.approx((frame.label == frame.prediction).mean())
    assert list(frame.columns) == [
        "key", "label", "prediction", "score", *(f"top{r}" for r in range(1, 6)), *(f"score{r}" for r in range(1, 6)),
        "group",
    ]  # fmt: skip
    assert (frame.top1 == frame.prediction).all()
    assert frame[[f"score{r}" for r in range(1, 6)]].diff(axis=1).iloc[:, 1:].max().max() <= 1e-9
    judged = cli("audit", "--fairness", "--predictions", table, "--groups", "group", "--output-format", "json")
    assert judged.exit_code in (0, 3, 6)
    assert json.loads(judged.stdout)["inputs"]["rows"] == 120


@pytest.mark.parametrize("protocol", ["knn", "linear", "sgd"])
def test_scores_of_every_class(protocol: str, cli: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    table, scores = tmp_path / "p.csv", tmp_path / "s.h5"
    done = cli(*probe(protocol, files, "--predictions", table, "--scores", scores))
    assert done.exit_code == 0, done.stderr
    read = read_predictions(table, [], ranked=True)
    full = open_scores(scores, read.keys)
    assert full.classes == read.classes
    whole = full.of(read.classes)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(whole, read.top, 1), read.top_scores, atol=1e-6)
    again = cli(*probe(protocol, files, "--scores", scores))
    assert (again.exit_code, "exists already" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("more", "metric", "wanted"),
    [
        (["lowshot", "--k", 2, "--k", 8, "--samples", 2], "top1_k8", "top1_k8"),
        (["lowshot", "--share", 0.1, "--samples", 2], "top1_10pct", "mean_per_class_10pct"),
        (["svm", "--cost", 1, "--draws", 50], "map", "map"),
        (["svm", "--k", 4, "--samples", 2, "--costs-2019"], "map_k4", "map_k4"),
        (["multilabel", "--l2", 0.1, "--draws", 50], "map", "map"),
    ],
)
def test_other_protocols(
    more: list[object], metric: str, wanted: str, cli: Run, files: tuple[Path, Path], tmp_path: Path
) -> None:
    protocol, *options = more
    out = tmp_path / "r.json"
    done = cli(*probe(str(protocol), files, *options, "-o", out, "--min", f"{metric}=0.2"))
    assert done.exit_code == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["protocol"] == protocol
    entry = report["metrics"][wanted]
    assert entry["low"] <= entry["value"] <= entry["high"]
    assert wanted in done.stdout
    failed = cli(*probe(str(protocol), files, *options, "--min", f"{metric}=1.0"))
    assert (failed.exit_code, f"{metric} 0." in failed.stderr) == (3, True)


def test_tables_of_several_labels(cli: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    table, scores = tmp_path / "p.csv", tmp_path / "s.h5"
    done = cli(*probe("multilabel", files, "--target", "group", "--predictions", table, "--scores", scores))
    assert done.exit_code == 0, done.stderr
    read = read_predictions(table, [], ranked=True, lists=True)
    assert {"group=old", "group=young", "label=c5"} < set(read.classes)
    assert read.truth is not None
    full = open_scores(scores, read.keys).of(["group=old", "group=young"])
    np.testing.assert_allclose(full.sum(1), 1, atol=0.2)  # two classifiers of opposite answers
    done = cli(*probe("svm", files, "--k", 2, "--predictions", tmp_path / "q.csv"))
    assert (done.exit_code, "low-shot SVMs are many" in done.stderr) == (2, True)


def test_numbers(cli: Run, tmp_path: Path) -> None:
    points, names = clouds(200, classes=5)
    numbers = [int(name[1:]) for name in names]
    both = [write_features(tmp_path / f"{n}.h5", points[s : s + 100], {"count": numbers[s : s + 100]}, start=s)
            for n, s in (("a", 0), ("b", 100))]  # fmt: skip
    files = (both[0], both[1])
    done = cli(*probe("regression", files, "--max", "mae=2", "--min", "spearman=-0.5", target="count"))
    assert done.exit_code == 0, done.stderr
    assert "within_1" in done.stdout
    failed = cli(*probe("regression", files, "--max", "rmse=0.001", "--method", "classes", target="count"))
    assert (failed.exit_code, "rmse 0." in failed.stderr and "> 0.001" in failed.stderr) == (3, True)


def test_text(cli: Run, files: tuple[Path, Path]) -> None:
    done = cli(*probe("knn", files, "--k", 5, "--k", 50))
    assert done.exit_code == 0
    assert "top1_k50" in done.stdout
    assert "6 classes, 400 train, 120 test" in done.stdout
    assert done.stderr.startswith("seerctl: probe knn: top1 ")


def test_gate(cli: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    assert cli(*probe("knn", files, "--min", "top1=0.2")).exit_code == 0
    done = cli(*probe("knn", files, "--min", "top1_k10=1.0", "-o", tmp_path / "r.json"))
    assert done.exit_code == 3
    assert "top1_k10 0." in done.stderr
    assert (tmp_path / "r.json").exists()  # the report of a failed gate is what people want to read


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--min", "top2=0.5"], "no metric 'top2'"),
        (["--min", "top1"], "not a number"),
        (["--target", "labl"], "Did you mean 'label'"),
        (["--predictions", "p.xlsx"], "End the name with one of"),
        (["--temperature", "0"], "temperature"),
        (["--k", "0"], "'--k'"),
        (["--device", "tpu"], "no such device"),
    ],
)
def test_usage(more: list[str], message: str, cli: Run, files: tuple[Path, Path]) -> None:
    done = cli(*probe("knn", files, *more))
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_bad_files(cli: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    done = cli(*probe("linear", (files[0], tmp_path / "text.h5"), "-o", tmp_path / "r.json"))
    assert (done.exit_code, "not an HDF5 file" in done.stderr) == (4, True)
    done = cli(*probe("linear", (files[0], tmp_path / "none.h5")))
    assert (done.exit_code, "no such file" in done.stderr) == (4, True)
    other = write_features(tmp_path / "o.h5", pd.DataFrame([[1.0, 2.0]]).to_numpy("float32"), {"label": ["c0"]})
    done = cli(*probe("linear", (files[0], other)))
    assert (done.exit_code, "features of 2 dimensions" in done.stderr) == (2, True)
    assert not (tmp_path / "r.json").exists()


def test_existing_output(cli: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    for option in ("-o", "--predictions"):
        path = tmp_path / "there.csv"
        path.write_text("mine")
        done = cli(*probe("knn", files, option, path))
        assert (done.exit_code, path.read_text()) == (2, "mine")
        assert "exists already" in done.stderr
        assert cli(*probe("knn", files, option, path, "--overwrite")).exit_code == 0


def test_group_help_and_unknown_protocol(cli: Run) -> None:
    done = cli("probe", "knnn")
    assert (done.exit_code, "Did you mean 'knn'" in done.stderr) == (2, True)
    done = cli("probe", "--help")
    assert done.exit_code == 0
    assert "linear" in done.stdout
