"""`seerctl probe retrieval` and `copies`: reports, rankings, gates, one line for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.feature_files import pair, write_features

Run = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return pair(tmp_path, rows=120, test=60, classes=4)


def test_retrieval_by_a_column(cli: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    out, rankings = tmp_path / "r.json", tmp_path / "r.jsonl"
    options = ["--test", files[1], "--train", files[0], "--target", "label", "--whiten", files[0], "--components", 6]
    done = cli("probe", "retrieval", *options, "-o", out, "--rankings", rankings, "--min", "map=0.1")
    assert done.exit_code == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["protocol"] == "retrieval"
    assert report["settings"]["whitening"]["components"] == 6
    assert "retrieval on 'label': 60 test, 120 train" in done.stdout
    lines = [json.loads(line) for line in rankings.read_text().splitlines()]
    assert len(lines) == 60
    mean = np.mean([line["average_precision"]["all"] for line in lines])
    assert mean == pytest.approx(report["metrics"]["map"]["value"])
    failed = cli("probe", "retrieval", *options, "--min", "r10=1", "--min", "map=0.999")
    assert (failed.exit_code, "map 0." in failed.stderr) == (3, True)
    unknown = cli("probe", "retrieval", *options, "--min", "top1=0.5")
    assert (unknown.exit_code, "no metric 'top1'" in unknown.stderr) == (2, True)
    again = cli("probe", "retrieval", *options, "--rankings", rankings)
    assert (again.exit_code, "exists already" in again.stderr) == (2, True)


def test_copies_of_equal_keys(cli: Run, tmp_path: Path) -> None:
    points = np.eye(5, 8, dtype=np.float32)
    clean = write_features(tmp_path / "a.h5", points, {"name": list("abcde")})
    foggy = write_features(tmp_path / "b.h5", points + 0.1, {"corruption": ["fog:3"] * 5}, corruption="fog:3")
    done = cli("probe", "copies", "--test", foggy, "--train", clean, "--output-format", "json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["mp1"]["value"] == 1.0
    others = write_features(tmp_path / "c.h5", points, {}, start=50)
    bad = cli("probe", "copies", "--test", others, "--train", clean)
    assert bad.exit_code == 4
    assert bad.stderr.count("\n") == 1
    assert "--target" in bad.stderr
