"""Logistic regression: scikit-learn's optimum, the gradient, and a choice that never sees the test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from seerctl.errors import InputError, UsageError
from seerctl.probes.axes import Rotation, Scaler
from seerctl.probes.classifier import held_out
from seerctl.probes.linear import linear
from seerctl.probes.logistic import Problem, objective, solve
from seerctl.probes.task import Task, load_task
from tests.feature_files import clouds, pair


def correlated(rows: int, classes: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features like a trunk's: non-negative, of very different scales, strongly correlated, one constant."""
    points, labels = clouds(rows, classes, dim, seed, spread=1.5)
    mixing = np.random.default_rng(5).normal(size=(dim, dim)) * np.logspace(1, -2, dim)
    features = np.maximum(points @ mixing, 0).astype(np.float32)
    features[:, 0] = 0.25
    return features, np.array([int(label[1:]) for label in labels])


@pytest.mark.parametrize(("classes", "l2"), [(2, 1e-2), (7, 1.0), (7, 1e-2), (7, 1e-4)])
def test_the_optimum_is_scikit_learns(classes: int, l2: float) -> None:
    features, labels = correlated(700, classes, 40, seed=classes)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    penalty = l2 / 2 if classes == 2 else l2  # of two classes scikit-learn penalises one logit, we both
    reference = LogisticRegression(C=1 / (len(labels) * penalty), tol=1e-9, max_iter=20_000).fit(scaled, labels)
    weight, bias = torch.from_numpy(reference.coef_), torch.from_numpy(reference.intercept_)
    if classes == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    x, y = torch.from_numpy(scaled), torch.from_numpy(labels)
    wanted = float(objective(x, y, weight[None], bias[None], torch.tensor([l2]).double())[0])
    ours = Scaler.fit(torch.from_numpy(features))(torch.from_numpy(features))
    np.testing.assert_allclose(ours.numpy(), scaled, atol=2e-5)
    rotation = Rotation.fit(ours)
    problem = Problem(rotation(ours), y, classes, rotation.variance)
    solution = solve(problem, [1.0, l2])[1]
    assert solution.loss == pytest.approx(wanted, rel=1e-4)
    probabilities = solution.logits(x @ rotation.axes).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, reference.predict_proba(scaled), atol=5e-3)


def test_gradient_against_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerctl.probes.axes.ROWS", 64)  # several pieces
    features, labels = correlated(200, 4, 10, seed=0)
    x, y = torch.from_numpy(features).double(), torch.from_numpy(labels)
    torch.manual_seed(0)
    weight, bias = torch.randn(4, 10, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    l2 = torch.tensor([0.3, 7.0], dtype=torch.float64)
    twice = weight.expand(2, -1, -1), bias.expand(2, -1)
    value, weight_gradient, bias_gradient = (found[0] for found in objective(x, y, *twice, l2))
    w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ w.T + b, y) + 0.15 * (w * w).sum()
    loss.backward()
    assert float(value) == pytest.approx(loss.item())
    torch.testing.assert_close(weight_gradient, w.grad)
    torch.testing.assert_close(bias_gradient, b.grad)


def test_held_out_rows_are_stratified_seeded_and_never_all() -> None:
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    held = held_out(labels, 0.2, seed=1)
    assert [int(held[labels == code].sum()) for code in range(3)] == [10, 2, 0]
    np.testing.assert_array_equal(held, held_out(labels, 0.2, seed=1))
    assert not np.array_equal(held, held_out(labels, 0.2, seed=2))


def test_report_and_choice(tmp_path: Path) -> None:
    task = load_task(*pair(tmp_path, rows=500, test=150, classes=6, spread=1.2), "label")
    result = linear(task, [1e-4, 1e-2, 10.0])
    settings = result.report["settings"]
    assert [entry["l2"] for entry in settings["choice"]] == [10.0, 1e-2, 1e-4]
    best = max(settings["choice"], key=lambda entry: (entry["top1"], -entry["cross_entropy"]))
    assert settings["l2"] == best["l2"]
    alone = linear(task, [settings["l2"]])
    assert alone.report["metrics"]["top1"] == result.report["metrics"]["top1"]
    assert alone.report["settings"]["choice"] == []
    scaled = StandardScaler().fit(task.train.features.astype(np.float64))
    reference = LogisticRegression(C=1 / (500 * settings["l2"]), tol=1e-9, max_iter=10_000)
    reference.fit(scaled.transform(task.train.features.astype(np.float64)), task.train.labels)
    wanted = reference.predict_proba(scaled.transform(task.test.features.astype(np.float64)))
    np.testing.assert_allclose(result.predictions.score, wanted.max(1), atol=5e-3)
    assert result.report["metrics"]["top1"]["value"] > 0.6


def test_the_choice_does_not_see_the_test_labels(tmp_path: Path) -> None:
    task = load_task(*pair(tmp_path, rows=200, test=60, classes=4, spread=3.0), "label")
    shuffled = np.random.default_rng(0).permutation(task.test.labels)
    other = Task(task.target, task.classes, task.train, type(task.test)(
        task.test.features, shuffled, task.test.keys, task.test.columns, task.test.origin,
    ))  # fmt: skip
    one, two = linear(task), linear(other)
    assert one.report["settings"] == two.report["settings"]
    np.testing.assert_array_equal(one.predictions.prediction, two.predictions.prediction)


def test_refusals(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = load_task(*pair(tmp_path, rows=6, test=20, classes=3), "label")
    with pytest.raises(UsageError, match="above 0"):
        linear(task, [0.0])
    with pytest.raises(InputError, match="too few training rows"):
        linear(task, [0.1, 1.0], validation=0.05)
    assert linear(task, [0.1]).report["metrics"]["top1"]["n"] == 20
    easy = load_task(*pair(tmp_path / "easy", rows=200, test=20, spread=0.01), "label")
    linear(easy, [1e-3, 1e-2])
    assert "widen the choice" in caplog.text
