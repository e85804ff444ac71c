"""kNN: scikit-learn's neighbours, votes by hand, ties in order, whatever the cutting of the work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from seerctl.errors import UsageError
from seerctl.probes import knn as module
from seerctl.probes.knn import headline, knn, metric_names, neighbours, unit, vote
from seerctl.probes.task import load_task
from tests.feature_files import clouds, pair


@pytest.mark.parametrize("bank_rows", [65536, 100, 7])
def test_equal_to_scikit_learn(bank_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BANK_ROWS", bank_rows)
    bank, _ = clouds(500, dim=24, seed=1)
    queries, _ = clouds(80, dim=24, seed=2)
    similarity, index = neighbours(unit(queries), unit(bank), 20)
    reference = NearestNeighbors(n_neighbors=20, metric="cosine", algorithm="brute").fit(bank.astype(np.float64))
    distance, wanted = reference.kneighbors(queries.astype(np.float64))
    np.testing.assert_array_equal(index, wanted)
    np.testing.assert_allclose(1 - similarity, distance, atol=1e-6)


@pytest.mark.parametrize("bank_rows", [65536, 5])
def test_equals_come_in_order_of_rows(bank_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BANK_ROWS", bank_rows)
    bank = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.6, 0.8]] * 4)
    similarity, index = neighbours(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), bank, 5)
    assert index.tolist() == [[1, 2, 5, 6, 9], [0, 4, 8, 12, 3]]
    np.testing.assert_allclose(similarity, [[1] * 5, [1, 1, 1, 1, 0.8]])
    everything, order = neighbours(torch.zeros(1, 2), bank, 16)
    assert order.tolist() == [list(range(16))]
    assert not everything.any()


def test_votes_by_hand() -> None:
    similarity = np.array([[0.9, 0.8, 0.7, 0.1]], dtype=np.float32)
    labels = np.array([[1, 0, 0, 1]])
    found = vote(similarity, labels, 3, [1, 3, 4], 0.5)
    weight = np.exp(np.array([0.9, 0.8, 0.7, 0.1]) / 0.5)
    np.testing.assert_allclose(found[1], [[0, 1, 0]])
    np.testing.assert_allclose(found[3], [[weight[1:3].sum() / weight[:3].sum(), weight[0] / weight[:3].sum(), 0]])
    np.testing.assert_allclose(found[4][0, 0], weight[1:3].sum() / weight.sum(), rtol=1e-6)


def test_a_tiny_temperature_is_the_nearest_neighbour() -> None:
    found = vote(np.array([[0.3, 0.2, 0.2]], np.float32), np.array([[2, 0, 0]]), 3, [3], 1e-4)
    np.testing.assert_allclose(found[3], [[0, 0, 1]])


def test_report_equals_scikit_learns_classifier(tmp_path: Path) -> None:
    task = load_task(*pair(tmp_path, rows=600, test=200, classes=8, spread=2.0), "label")
    result = knn(task, [20, 5])
    for k in (20, 5):
        reference = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(task.train.features.astype(np.float64), task.train.labels)
        accuracy = reference.score(task.test.features.astype(np.float64), task.test.labels)
        assert result.report["metrics"][f"top1_k{k}"]["value"] == pytest.approx(accuracy)
        shares = reference.predict_proba(task.test.features.astype(np.float64))
        if k == 20:
            np.testing.assert_allclose(result.predictions.score, shares.max(1), rtol=1e-4)
            best = np.sort(shares, axis=1)[:, ::-1][:, :5]
            np.testing.assert_allclose(result.predictions.top_scores, best, atol=1e-5)
    metrics = result.report["metrics"]
    assert metrics["top1"] == metrics["top1_k20"]
    assert metrics["top5"]["value"] >= metrics["top1"]["value"]
    assert all(m["low"] <= m["value"] <= m["high"] and m["n"] == 200 for m in metrics.values())
    assert set(metrics) <= set(metric_names([20, 5]))


def test_the_headline_is_never_the_best() -> None:
    assert headline([10, 20, 200]) == 20
    assert headline([7, 3]) == 7


def test_k_beyond_the_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = load_task(*pair(tmp_path, rows=30, test=20), "label")
    result = knn(task, [20, 50])
    assert result.report["settings"]["k"] == [20]
    assert "k 50 is left out" in caplog.text
    with pytest.raises(UsageError, match="only 30 training rows"):
        knn(task, [31])
    with pytest.raises(UsageError, match="1 or more"):
        knn(task, [0])


def test_dinov2s_rule(tmp_path: Path) -> None:
    """Its classifier in plain torch: softmax of the k similarities over the temperature, summed by class."""
    task = load_task(*pair(tmp_path, rows=500, test=150, classes=7, spread=2.0), "label")
    train, test = (torch.nn.functional.normalize(torch.from_numpy(s.features), dim=1) for s in (task.train, task.test))
    labels = torch.from_numpy(task.train.labels)
    result = knn(task, [10, 20, 100], full=True)
    for k in (10, 20, 100):
        similarity, place = (test @ train.T).topk(k, largest=True, sorted=True)
        weights = torch.softmax(similarity / 0.07, 1)
        votes = (torch.nn.functional.one_hot(labels[place], 7) * weights[..., None]).sum(1)
        accuracy = (votes.argmax(1) == torch.from_numpy(task.test.labels)).double().mean().item()
        assert result.report["metrics"][f"top1_k{k}"]["value"] == pytest.approx(accuracy)
        if k == 20:
            np.testing.assert_allclose(result.scores, votes.numpy(), atol=1e-5)


def test_vissls_rule_takes_features_as_they_are(tmp_path: Path) -> None:
    task = load_task(*pair(tmp_path, rows=300, test=80, classes=4, spread=2.0), "label")
    result = knn(task, [200], temperature=0.1, similarity="dot", full=True)
    products = task.test.features.astype(np.float64) @ task.train.features.astype(np.float64).T
    for row, product in enumerate(products[:20]):
        order = np.argsort(-product)[:200]
        weight = np.exp((product[order] - product[order[0]]) / 0.1)  # VISSL's exp without the shift overflows
        votes = np.bincount(task.train.labels[order], weights=weight, minlength=4)
        np.testing.assert_allclose(result.scores[row], votes / votes.sum(), atol=1e-3)
    assert result.report["settings"]["similarity"] == "dot"
