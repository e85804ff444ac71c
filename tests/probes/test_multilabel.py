"""Several labels a row: forms of columns, unknown answers, scikit-learn's fit of each class, and the predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from seerctl.errors import InputError, UsageError
from seerctl.predictions import read_predictions
from seerctl.probes.binary import fit_each
from seerctl.probes.multilabel import multilabel
from seerctl.probes.targets import load_labels
from tests.feature_files import clouds, write_features
from tests.probes.test_svm import files


@pytest.mark.parametrize("l2", [1.0, 1e-3])
def test_each_class_is_scikit_learns_and_unknown_rows_do_not_count(l2: float) -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(150, 6)).astype(np.float32)
    answers = (features @ generator.normal(size=(6, 3)) + generator.normal(size=(150, 3)) > 0.5).astype(np.int8)
    answers[generator.random((150, 3)) < 0.3] = -1
    penalty = torch.full((1, 3), l2, dtype=torch.float64)
    fits = fit_each(torch.from_numpy(features), torch.from_numpy(answers), penalty, "logistic", tolerance=1e-12)
    for code in range(3):
        known = answers[:, code] >= 0
        reference = LogisticRegression(C=1 / (known.sum() * l2), tol=1e-10, max_iter=10_000)
        reference.fit(features[known].astype(np.float64), answers[known, code])
        np.testing.assert_allclose(fits.weight[0, code], reference.coef_[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(fits.bias[0, code], reference.intercept_[0], rtol=1e-3, atol=1e-4)


def test_more_rows_than_memory_holds_at_once_and_fewer_rows_than_dimensions() -> None:
    generator = np.random.default_rng(1)
    wide = torch.from_numpy(generator.normal(size=(20, 50)))
    answers = torch.from_numpy(generator.integers(0, 2, (20, 1)).astype(np.int8))
    fits = fit_each(wide, answers, [[0.1]], "logistic", tolerance=1e-12)
    reference = LogisticRegression(C=1 / (20 * 0.1), tol=1e-10, max_iter=10_000).fit(wide, answers[:, 0])
    np.testing.assert_allclose(fits.weight[0, 0], reference.coef_[0], atol=1e-4)


def test_report_and_table(tmp_path: Path) -> None:
    task = load_labels(*files(tmp_path), "labels")
    assert task.classes == ("bus", "cat", "dog", "van")
    result = multilabel(task, [1e-3, 1e-1], draws=50, full=True)
    assert result.report["metrics"]["map"]["n"] == 120
    assert result.report["settings"]["average_precision"] == "area"
    assert {row["l2"] for row in result.report["per_class"]} <= {1e-3, 1e-1}
    assert result.report["metrics"]["map"]["value"] > 2 * (task.test.labels == 1).mean()
    assert multilabel(task, [1e-3, 1e-1], draws=50, seed=0).report == result.report
    result.save_predictions(tmp_path / "p.csv")
    read = read_predictions(tmp_path / "p.csv", lists=True, ranked=True)
    assert read.truth is not None
    np.testing.assert_array_equal(np.stack([read.is_a(c) for c in range(4)], axis=1), task.test.labels == 1)
    assert "difficult" in read.columns


def test_columns_of_several_forms(tmp_path: Path) -> None:
    points, names = clouds(30)
    columns = {
        "kind": names, "smiling": [(1, 0, -1)[row % 3] for row in range(30)],
        "no": ['["kind=c0"]' if name != "c0" else "[]" for name in names],
    }  # fmt: skip
    path = write_features(tmp_path / "a.h5", points, columns)
    task = load_labels(path, path, ["kind", "smiling"])
    assert task.classes == ("kind=c0", "kind=c1", "kind=c2", "smiling")
    assert task.train.labels[:3, 3].tolist() == [1, 0, 0]
    verified = load_labels(path, path, ["kind", "smiling"], negatives="no")
    assert set(np.unique(verified.train.labels[:, 0])) == {0, 1}  # each row says yes or no to c0
    assert set(np.unique(verified.train.labels[:, 1])) == {-1, 1}


def test_refusals(tmp_path: Path) -> None:
    points, names = clouds(30)
    path = write_features(tmp_path / "a.h5", points, {"kind": names, "none": ["[]"] * 30})
    with pytest.raises(InputError, match="no row has a label"):
        load_labels(path, path, "none")
    other = write_features(tmp_path / "b.h5", points, {"kind": ["new"] * 30}, start=30)
    with pytest.raises(InputError, match="no row has any of the 3 classes"):
        load_labels(path, other, "kind")
    with pytest.raises(UsageError, match="above 0"):
        multilabel(load_labels(path, path, "kind"), [-1.0])
