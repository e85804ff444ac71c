"""The VOC07 protocol: scikit-learn's SVMs, folds and average precision; VOC's rule; low-shot draws; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from seerctl.errors import InputError, UsageError
from seerctl.probes.binary import fit_each
from seerctl.probes.precision import average_precision, class_precisions
from seerctl.probes.svm import _unit, choose_costs, draw_answers, svm
from seerctl.probes.targets import LabelsTask, load_labels
from tests.feature_files import clouds, write_features

NAMES = ("bus", "cat", "dog", "van")


def files(where: Path, *, rows: int = 240, test: int = 120, **more: Any) -> tuple[Path, Path]:
    """A pair whose rows have several of four labels, as JSON lists, some of them marked as difficult."""
    paths = []
    for name, count, seed, start in (("train.h5", rows, 1, 0), ("test.h5", test, 2, rows)):
        points, _ = clouds(count, seed=seed, dim=12)
        axes = np.random.default_rng(7).normal(size=(12, 4))
        noise = np.random.default_rng(seed).normal(size=(count, 4))
        there = points @ axes + 1.5 * noise > 4.0
        labels = [json.dumps([n for n, yes in zip(NAMES, row, strict=True) if yes]) for row in there]
        hard = [json.dumps(["cat"] if number % 9 == 0 and not row[1] else []) for number, row in enumerate(there)]
        columns = {"labels": labels, "difficult": hard}
        paths.append(write_features(where / name, points, columns, start=start, **more))
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> LabelsTask:
    return load_labels(*files(tmp_path_factory.mktemp("svm")), "labels", ignore="difficult")


@pytest.mark.parametrize("cost", [0.01, 1.0, 100.0])
def test_the_svm_is_scikit_learns(cost: float, task: LabelsTask) -> None:
    features = _unit(task.train.features, "cpu")
    answers = (task.train.labels == 1).astype(np.int8)
    l2 = torch.full((1, 4), 1 / (cost * len(answers)), dtype=torch.float64)
    fits = fit_each(features, torch.from_numpy(answers), l2, "squared_hinge", weight_positive=2.0, tolerance=1e-12)
    assert fits.converged.all()
    for code in range(4):
        reference = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=False, tol=1e-10, max_iter=100_000)
        reference.fit(features.double().numpy(), np.where(answers[:, code], 1, -1))
        np.testing.assert_allclose(fits.weight[0, code], reference.coef_[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(fits.bias[0, code], reference.intercept_[0], rtol=1e-3, atol=1e-4)


def test_the_cost_is_chosen_as_scikit_learns_cross_validation_would(task: LabelsTask) -> None:
    features = _unit(task.train.features, "cpu")
    answers = (task.train.labels == 1).astype(np.int8)
    costs = [0.01, 1.0, 100.0]
    chosen, table = choose_costs(features, answers, costs, 3, None)
    for code in range(4):
        wanted = [
            cross_val_score(
                LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=False, tol=1e-8, max_iter=100_000),
                features.double().numpy(), np.where(answers[:, code], 1, -1), cv=3, scoring="average_precision",
            ).mean()
            for cost in costs
        ]  # fmt: skip
        np.testing.assert_allclose(table["average_precision"][code], wanted, atol=2e-3)
        assert chosen[code] == costs[int(np.argmax(table["average_precision"][code]))]


def test_average_precision_against_scikit_learn_and_by_hand() -> None:
    generator = np.random.default_rng(0)
    scores, truth = generator.normal(size=200).round(1), generator.integers(-1, 2, 200)
    known = truth >= 0
    wanted = average_precision_score(truth[known], scores[known])
    assert average_precision(scores, truth)[0] == pytest.approx(wanted)
    weights = generator.integers(0, 3, (2, 200)).astype(float)
    drawn = average_precision(scores, truth, weights)
    for row in range(2):
        wanted = average_precision_score(truth[known], scores[known], sample_weight=weights[row][known])
        assert drawn[row] == pytest.approx(wanted)
    # Ranked + - - + +: precision 1, 1/2, 1/3, 2/4, 3/5 at recall 1/3, 1/3, 1/3, 2/3, 1.
    scores, truth = np.array([5.0, 4, 3, 2, 1]), np.array([1, 0, 0, 1, 1])
    assert average_precision(scores, truth)[0] == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)
    assert average_precision(scores, truth, rule="voc")[0] == pytest.approx((1 + 3 / 5 + 3 / 5) / 3)
    assert average_precision(scores, truth, rule="voc11")[0] == pytest.approx((4 * 1 + 7 * 3 / 5) / 11)
    assert np.isnan(average_precision(scores, np.zeros(5, int))[0])


def test_report_follows_from_the_scores(task: LabelsTask) -> None:
    result = svm(task, [0.1, 1.0, 10.0], draws=100, full=True)
    report = result.report
    aps = class_precisions(result.scores, task.test.labels, rule="voc")[0]
    assert report["metrics"]["map"]["value"] == pytest.approx(aps.mean())
    assert report["metrics"]["map"]["low"] < aps.mean() < report["metrics"]["map"]["high"]
    assert [row["value"] for row in report["per_class"]] == pytest.approx(aps.tolist())
    assert all(row["cost"] in (0.1, 1.0, 10.0) for row in report["per_class"])
    assert report["settings"]["average_precision"] == "voc"
    assert aps.mean() > 2 * (task.test.labels == 1).mean()
    assert (task.test.labels[:, 1] == -1).sum() > 5  # rows that do not count for cats
    strict = svm(task, [1.0], draws=10, ignored_in_training=True)
    assert strict.report["metrics"]["map"] != svm(task, [1.0], draws=10).report["metrics"]["map"]


def test_low_shot(task: LabelsTask) -> None:
    report = svm(task, [0.1, 10.0], shots=[1, 8, 500], samples=3, draws=10).report
    assert list(report["metrics"]) == ["map_k1", "map_k8"]
    entry = report["metrics"]["map_k8"]
    values = report["samples"]["map_k8"]
    assert (entry["value"], entry["min"], entry["max"]) == (pytest.approx(np.mean(values)), min(values), max(values))
    assert entry["std"] == pytest.approx(np.std(values, ddof=1))
    assert report["metrics"]["map_k1"]["value"] < entry["value"]
    assert any("k 500 is left out" in warning for warning in report["warnings"])
    answers = (task.train.labels == 1).astype(np.int8)
    few = draw_answers(answers, task.train.keys, 4, 0, 1)
    assert [(few == 1).sum(0).tolist(), (few == 0).sum(0).tolist()] == [[4] * 4, [12] * 4]
    assert (few[few >= 0] == answers[few >= 0]).all()
    assert not np.array_equal(few, draw_answers(answers, task.train.keys, 4, 0, 2))


def test_refusals(task: LabelsTask, tmp_path: Path) -> None:
    for options, message in (({"costs": [0.0]}, "above 0"), ({"folds": 1}, "two folds")):
        with pytest.raises(UsageError, match=message):
            svm(task, **options)
    with pytest.raises(UsageError, match="rarest class has"):
        svm(task, shots=[1000])
    points, _ = clouds(20)
    same = write_features(tmp_path / "same.h5", points, {"labels": ['["cat"]'] * 20})
    with pytest.raises(InputError, match="every row is a 'cat'"):
        svm(load_labels(same, same, "labels"))
