"""Counts and rates against fairlearn, and the two ways of counting against each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import (
    MetricFrame,
    false_negative_rate,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import accuracy_score, precision_score, recall_score

from seerctl.audit import counts as module
from seerctl.audit.counts import GroupCounts, count, group_rows
from seerctl.audit.indicators import METRICS, default_positive
from seerctl.columns import Column

GROUPINGS = [("skin",), ("gender",), ("age", "skin"), ("gender", "skin", "age")]


def table(rows: int, classes: int, seed: int = 0, missing: bool = True) -> tuple[np.ndarray, np.ndarray, dict]:
    generator = np.random.default_rng(seed)
    label = generator.integers(0, classes, rows).astype(np.int32)
    prediction = np.where(generator.random(rows) < 0.6, label, generator.integers(0, classes, rows)).astype(np.int32)
    columns = {}
    for name, levels in (("skin", 6), ("gender", 2), ("age", 4)):
        codes = generator.integers(-1 if missing else 0, levels, rows).astype(np.int32)
        columns[name] = Column(codes, tuple(f"{name}{level}" for level in range(levels)))
    return label, prediction, columns


def rates(found: GroupCounts, metric: str) -> dict[tuple[str, ...], np.ndarray]:
    events, trials = METRICS[metric].rates(found)
    return dict(zip(found.groups, events / trials, strict=True))


def test_rates_equal_fairlearns() -> None:
    label, prediction, columns = table(4000, 2, missing=False)
    frame = pd.DataFrame({name: column.texts() for name, column in columns.items()})
    metrics = {
        "accuracy": accuracy_score, "tpr": true_positive_rate, "fpr": false_positive_rate,
        "selection_rate": selection_rate, "precision": precision_score, "fnr": false_negative_rate,
        "npv": lambda is_so, said: precision_score(1 - is_so, 1 - said),
    }  # fmt: skip
    found = count(label, prediction, 2, columns, GROUPINGS)
    for grouping in GROUPINGS:
        reference = MetricFrame(
            metrics=metrics, y_true=label, y_pred=prediction, sensitive_features=frame[list(grouping)]
        ).by_group
        for metric in metrics:
            ours = rates(found[grouping], metric)
            for group, row in reference.iterrows():
                key = group if isinstance(group, tuple) else (group,)
                assert ours[key][-1] == pytest.approx(row[metric], abs=1e-12)  # the last class is the positive one
            assert len(ours) == len(reference)


def test_many_classes_against_scikit_learn() -> None:
    label, prediction, columns = table(3000, 5)
    found = count(label, prediction, 5, columns, [("gender",)])[("gender",)]
    for row, (name,) in enumerate(found.groups):
        rows = np.array(columns["gender"].texts()) == name
        np.testing.assert_allclose(
            rates(found, "tpr")[name,], recall_score(label[rows], prediction[rows], average=None)
        )
        np.testing.assert_allclose(
            rates(found, "precision")[name,], precision_score(label[rows], prediction[rows], average=None)
        )
        assert found.n[row] == rows.sum()
    assert found.missing == (columns["gender"].values < 0).sum()


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_the_joint_table_and_single_groupings_agree(grouping: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    label, prediction, columns = table(3000, 4)
    joint = count(label, prediction, 4, columns, GROUPINGS)[grouping]
    monkeypatch.setattr(module, "JOINT_CELLS", 0)
    single = count(label, prediction, 4, columns, GROUPINGS)[grouping]
    assert joint.groups == single.groups
    assert joint.missing == single.missing
    for name in ("n", "labelled", "predicted", "correct"):
        np.testing.assert_array_equal(getattr(joint, name), getattr(single, name))
    rest = joint.rest()
    np.testing.assert_array_equal(rest.n + joint.n, np.full(len(joint.n), joint.n.sum()))
    np.testing.assert_array_equal(rest.correct + joint.correct, np.tile(joint.correct.sum(0), (len(joint.n), 1)))


def test_groups_without_rows_and_tables_without_groups() -> None:
    column = Column(np.array([0, 0, 2], dtype=np.int32), ("a", "b", "c"))
    codes = np.zeros(3, dtype=np.int32)
    assert count(codes, codes, 2, {"g": column}, [("g",)])[("g",)].groups == (("a",), ("c",))
    nobody = Column(np.full(3, -1, dtype=np.int32), ("a",))
    for cells in (module.JOINT_CELLS, 0):
        module_cells, module.JOINT_CELLS = module.JOINT_CELLS, cells
        try:
            found = count(codes, codes, 2, {"g": nobody}, [("g",)])[("g",)]
        finally:
            module.JOINT_CELLS = module_cells
        assert (found.groups, found.missing) == ((), 3)


def test_the_positive_class_by_its_name() -> None:
    assert default_positive(("0", "1")) == "1"
    assert default_positive(("No", "Yes")) == "Yes"
    assert default_positive(("cat", "dog")) is None
    assert default_positive(("0", "1", "2")) is None
    assert default_positive(("1", "true")) is None


def test_rows_of_groups() -> None:
    _, _, columns = table(500, 2)
    columns["year"] = Column(np.where(np.arange(500) % 9, np.arange(500) % 3 + 2000.0, np.nan))
    for grouping in [("skin",), ("year", "gender"), ("gender", "skin", "age")]:
        found = group_rows(columns, grouping, 500)
        texts = list(zip(*(columns[name].texts() for name in grouping), strict=True))
        for row, code in enumerate(found.codes):
            assert (found.groups[code] if code >= 0 else None) == (texts[row] if all(texts[row]) else None)
        assert len(found.groups) == len(set(found.groups)) == found.codes.max() + 1
    everyone = group_rows(columns, (), 500)
    assert (everyone.groups, set(everyone.codes)) == (((),), {0})
    assert (everyone.only(np.arange(500) < 9).codes >= 0).sum() == 9
    nobody = Column(np.full(3, -1, dtype=np.int32), ())
    assert group_rows({"g": nobody}, ("g",), 3).groups == ()
