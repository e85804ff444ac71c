"""The log of a run: rows, resumes, and plain words about collapse."""

from __future__ import annotations

import json
from pathlib import Path

from seerctl.train.metrics import Metrics, collapse

HEALTHY = {"step": 900, "loss_over_ln_k": 0.8, "feature_std": 0.6, "prototype_entropy": 0.9}


def test_rows_are_json_lines_and_nan_is_null(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.append({"step": 1, "loss": float("nan")})
    metrics.append({"step": 2, "loss": 1.5})
    assert metrics.rows() == [{"step": 1, "loss": None}, {"step": 2, "loss": 1.5}]


def test_truncation_drops_later_and_torn_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.truncate(5)  # nothing there yet
    for step in range(1, 9):
        metrics.append({"step": step})
    metrics.truncate(6)
    assert [row["step"] for row in metrics.rows()] == [1, 2, 3, 4, 5, 6]
    path.write_bytes(path.read_bytes() + b'{"step": 5, "lo')
    metrics.truncate(6)
    assert path.read_bytes() == b"".join(json.dumps({"step": step}).encode() + b"\n" for step in range(1, 7))
    path.write_bytes(path.read_bytes() + b'{"step": 7}')  # whole, but its newline never came
    metrics.truncate(7)
    assert len(metrics.rows()) == 6


def test_collapse_is_said_in_plain_words() -> None:
    assert collapse(HEALTHY) is None
    assert collapse({**HEALTHY, "loss_over_ln_k": 1.05}) is None  # the first steps
    assert "predicts all prototypes alike" in (collapse({**HEALTHY, "loss_over_ln_k": 1.0}) or "")
    assert "nearly the same projection" in (collapse({**HEALTHY, "feature_std": 0.01}) or "")
    assert "a few prototypes take all images" in (collapse({**HEALTHY, "prototype_entropy": 0.02}) or "")
