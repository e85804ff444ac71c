"""Few labels: which rows are drawn, what is reported of the draws, and that the test set has no part in the choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from seerctl.errors import UsageError
from seerctl.probes.draws import per_class, ranks_of, spread_metric
from seerctl.probes.lowshot import lowshot, metric_names
from seerctl.probes.task import Side, Task, load_task
from tests.feature_files import pair


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    files = pair(tmp_path_factory.mktemp("lowshot"), rows=300, test=200, classes=4, dim=24, spread=1.5)
    return load_task(*files, "label")


def test_drawn_rows_depend_on_keys_not_on_their_order(task: Task) -> None:
    side, counts = task.train, np.full(4, 5)
    rows = per_class(side.labels, ranks_of(side.keys, 0, 0), counts)
    assert np.bincount(side.labels[rows]).tolist() == [5] * 4
    order = np.random.default_rng(0).permutation(len(side))
    again = per_class(side.labels[order], ranks_of(side.keys[order], 0, 0), counts)
    assert set(side.keys[order][again]) == set(side.keys[rows])
    fewer = per_class(side.labels, ranks_of(side.keys, 0, 0), np.full(4, 2))
    assert set(fewer) < set(rows)
    assert set(per_class(side.labels, ranks_of(side.keys, 0, 1), counts)) != set(rows)
    assert set(per_class(side.labels, ranks_of(side.keys, 1, 0), counts)) != set(rows)


def test_report(task: Task) -> None:
    report = lowshot(task, [1, 8, 200], shares=[0.5], samples=3, penalties=[1e-2, 1.0]).report
    names = metric_names([1, 8], [0.5])
    assert list(report["metrics"]) == names
    assert names == [
        "top1_k1",
        "mean_per_class_k1",
        "top1_k8",
        "mean_per_class_k8",
        "top1_50pct",
        "mean_per_class_50pct",
    ]
    entry, draws = report["metrics"]["top1_k8"], [draw["top1"] for draw in report["samples"]["k8"]]
    assert entry == {**spread_metric(draws, 200)}
    assert entry["low"] < entry["value"] < entry["high"]
    assert report["metrics"]["top1_k1"]["value"] < report["metrics"]["top1_50pct"]["value"]
    assert {draw["l2"] for draw in report["samples"]["k1"]} == {1.0}  # nothing to choose by
    assert any("k 200 is left out" in warning for warning in report["warnings"])


def test_a_draw_is_scikit_learns_fit(task: Task) -> None:
    (draw,) = lowshot(task, [10], samples=1, penalties=[0.1]).report["samples"]["k10"]
    rows = per_class(task.train.labels, ranks_of(task.train.keys, 0, 0), np.full(4, 10))
    scaler = StandardScaler().fit(task.train.features[rows].astype(np.float64))
    reference = LogisticRegression(C=1 / (40 * 0.1), tol=1e-9, max_iter=10_000)
    reference.fit(scaler.transform(task.train.features[rows].astype(np.float64)), task.train.labels[rows])
    wanted = reference.score(scaler.transform(task.test.features.astype(np.float64)), task.test.labels)
    assert draw["top1"] == pytest.approx(wanted)
    assert draw["rows"] == 40


def test_the_choice_does_not_see_the_test_labels(task: Task) -> None:
    shuffled = np.random.default_rng(0).permutation(task.test.labels)
    side = task.test
    other = replace(task, test=Side(side.features, shuffled, side.keys, side.columns, side.origin))
    one, two = (lowshot(each, [8], samples=2).report["samples"]["k8"] for each in (task, other))
    assert [draw["l2"] for draw in one] == [draw["l2"] for draw in two]


def test_spread_by_hand() -> None:
    entry = spread_metric([0.5, 0.6, 0.7], 100)
    assert entry["value"] == pytest.approx(0.6)
    assert entry["std"] == pytest.approx(0.1)
    assert entry["high"] - 0.6 == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)  # Student's t of two degrees
    assert spread_metric([0.5], 100)["low"] is None


def test_refusals(task: Task) -> None:
    for shots, options, message in (
        ([], {}, "share of the rows"), ([4], {"shares": [1.5]}, "share of the rows"), ([0], {}, "1 row or more"),
        ([1000], {}, "rarest class has"), ([4], {"penalties": [0.0]}, "above 0"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            lowshot(task, shots, **options)
