"""What a probe refuses before it works, and what it warns of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seerctl.errors import InputError, SeerctlError, UsageError
from seerctl.probes.task import load_task
from tests.feature_files import clouds, pair, write_features


def changed(where: Path, labels: list[Any] | None = None, **changes: Any) -> tuple[Path, Path]:
    """A pair whose test file differs."""
    train, test = pair(where)
    points, names = clouds(100, seed=2, dim=changes.pop("dim", 16))
    points = changes.pop("points", points)
    start = changes.pop("start", 300)
    write_features(test, points, {"label": labels or names}, start=start, **changes)
    return train, test


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dim": 8}, UsageError, "features of 8 dimensions, those of .* have 16"),
        ({"weights_sha256": "c" * 64}, UsageError, "its weights_sha256 is 'ccc"),
        ({"layer": "res4"}, UsageError, "its layer is 'res4', that of .* 'avgpool'"),
        ({"preprocess": "other"}, UsageError, "its preprocess is 'other'"),
        ({"labels": ["c0"] * 99 + ["new"]}, InputError, "1 rows have a 'label' that no training row has: 'new'"),
        ({"labels": [None] * 100}, InputError, "no row has a label"),
        ({"points": np.full((100, 16), np.nan, np.float32)}, InputError, "100 rows have non-finite features, first of"),
        ({"labels": [row / 3 for row in range(100)]}, UsageError, "holds fractions, not classes"),
    ],
)
def test_refused(changes: dict[str, Any], error: type[SeerctlError], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message) as caught:
        load_task(*changed(tmp_path, **changes), "label")
    assert "\n" not in str(caught.value)


def test_no_such_column(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no column 'labl'\. Did you mean 'label'\?"):
        load_task(*pair(tmp_path), "labl")
    bare = write_features(tmp_path / "bare.h5", np.ones((3, 2), np.float32), {})
    with pytest.raises(UsageError, match="The shards had no metadata"):
        load_task(bare, bare, "label")


def test_a_single_class(tmp_path: Path) -> None:
    one = write_features(tmp_path / "one.h5", clouds(20)[0], {"label": ["same"] * 20})
    with pytest.raises(InputError, match="a single class, 'same'"):
        load_task(one, one, "label")


def test_rows_without_a_label_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = [None if row < 30 else f"c{row % 3}" for row in range(100)]
    task = load_task(*changed(tmp_path, labels=labels), "label")
    assert len(task.test) == 70
    assert task.test.origin["rows"] == 70
    assert task.test.keys[0] == b"000000000000014a-0000014a"
    assert "30 rows without a label are left out" in caplog.text
    assert task.warnings == tuple(record.getMessage() for record in caplog.records)


def test_leaks_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, test = changed(tmp_path, start=290)  # the last ten training rows
    task = load_task(train, test, "label")
    assert task.warnings == ("leak: 10 of 100 test pictures are among the training pictures, the scores are too good",)
    assert "leak" in caplog.text
    assert load_task(*pair(tmp_path / "clean"), "label").warnings == ()


def test_classes_match_by_name_not_by_code(tmp_path: Path) -> None:
    train = write_features(tmp_path / "a.h5", clouds(30)[0], {"label": ["ant", "bee", "cat"] * 10})
    test = write_features(tmp_path / "b.h5", clouds(20)[0], {"label": ["cat", "bee"] * 10}, start=30)
    task = load_task(train, test, "label")
    assert task.classes == ("ant", "bee", "cat")
    assert task.test.labels[:2].tolist() == [2, 1]


def test_whole_numbers_are_classes(tmp_path: Path) -> None:
    train = write_features(tmp_path / "a.h5", clouds(30)[0], {"year": [2, 10, 2] * 10})
    test = write_features(tmp_path / "b.h5", clouds(20)[0], {"year": [10.0, None] * 10}, start=30)
    task = load_task(train, test, "year")
    assert task.classes == ("2", "10")
    assert set(task.test.labels.tolist()) == {1}
