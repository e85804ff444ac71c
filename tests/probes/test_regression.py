"""Numbers: scikit-learn's ridge and its leave-one-out choice, the metrics, and counts as classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.preprocessing import StandardScaler

from seerctl.errors import InputError, UsageError
from seerctl.probes.regression import regression, spearman
from seerctl.probes.targets import NumberTask, load_numbers
from tests.feature_files import clouds, write_features


def load(where: Path, *, dim: int = 10, rows: int = 200, column: str = "count") -> NumberTask:
    paths = []
    for name, count, seed, start in (("a.h5", rows, 1, 0), ("b.h5", 100, 2, rows)):
        points, _ = clouds(count, seed=seed, dim=dim)
        noise = np.random.default_rng(seed).normal(size=count)
        depth = points @ np.linspace(-1, 1, dim) + noise
        numbers: list[Any] = [None if row == 3 else float(v) for row, v in enumerate(depth)]
        whole = [int(v) for v in np.clip(np.rint(depth / 3) + 3, 0, 6)]
        paths.append(write_features(where / name, points, {"depth": numbers, "count": whole, "name": ["x"] * count},
                                    start=start))  # fmt: skip
    return load_numbers(*paths, column)


@pytest.mark.parametrize(("rows", "dim"), [(200, 10), (30, 60)])
def test_ridge_and_its_choice_are_scikit_learns(rows: int, dim: int, tmp_path: Path) -> None:
    task = load(tmp_path, rows=rows, dim=dim, column="depth")
    n = len(task.train)
    assert n == rows - 1  # one row has no number
    penalties = [1e-3, 1e-2, 1e-1, 1.0, 10.0]
    result = regression(task, penalties=penalties, draws=50)
    scaler = StandardScaler().fit(task.train.features.astype(np.float64))
    reference = RidgeCV(alphas=[n * l2 for l2 in penalties])
    reference.fit(scaler.transform(task.train.features.astype(np.float64)), task.train.labels)
    assert result.report["settings"]["l2"] == pytest.approx(reference.alpha_ / n)
    least = min(entry["loo_rmse"] for entry in result.report["settings"]["choice"])
    assert least == pytest.approx((-reference.best_score_) ** 0.5, rel=1e-3)
    wanted = reference.predict(scaler.transform(task.test.features.astype(np.float64)))
    metrics = {name: entry["value"] for name, entry in result.report["metrics"].items()}
    assert metrics["mae"] == pytest.approx(mean_absolute_error(task.test.labels, wanted), rel=1e-3)
    assert metrics["r2"] == pytest.approx(r2_score(task.test.labels, wanted), abs=1e-3)
    assert metrics["spearman"] == pytest.approx(spearmanr(task.test.labels, wanted).statistic, abs=1e-3)
    assert set(metrics) == {"mae", "rmse", "r2", "spearman"}  # fractions are never exactly met
    result.save_predictions(tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv")
    np.testing.assert_allclose(table.prediction, wanted, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(table.label, task.test.labels, rtol=1e-6)


@pytest.mark.parametrize("method", ["ridge", "classes"])
def test_counts(method: Any, tmp_path: Path) -> None:
    task = load(tmp_path)
    report = regression(task, method=method, penalties=[1e-3, 1e-1], draws=100).report
    metrics = report["metrics"]
    assert metrics["within_1"]["value"] > metrics["top1"]["value"] > 0.3
    assert metrics["mae"]["better"] == "lower"
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in metrics.values())
    assert report["settings"]["method"] == method


def test_spearman_of_weighted_rows_is_that_of_copies() -> None:
    generator = np.random.default_rng(0)
    one, two = generator.integers(0, 6, 40).astype(float), generator.normal(size=40).round(1)
    weights = generator.integers(0, 4, (3, 40))
    for row, found in zip(weights, spearman(one, two, weights.astype(float)), strict=True):
        assert found == pytest.approx(spearmanr(np.repeat(one, row), np.repeat(two, row)).statistic)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds names, not numbers"):
        load(tmp_path, column="name")
    task = load(tmp_path, column="depth")
    with pytest.raises(UsageError, match="above 0"):
        regression(task, penalties=[])
    points, _ = clouds(20)
    same = write_features(tmp_path / "same.h5", points, {"count": [4] * 20})
    with pytest.raises(InputError, match="every row has 4"):
        load_numbers(same, same, "count")
