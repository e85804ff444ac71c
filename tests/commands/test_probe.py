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
from tests.feature_files import pair, write_features

Run = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return pair(tmp_path, rows=400, test=120, classes=6, spread=1.5)


def probe(protocol: str, files: tuple[Path, Path], *more: object, target: str = "label") -> list[object]:
    train, test = files
    return ["probe", protocol, "--train", train, "--test", test, "--target", target, "--device", "cpu", *more]


@pytest.mark.parametrize("protocol", ["knn", "linear"])
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


@pytest.mark.parametrize("protocol", ["knn", "linear"])
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
