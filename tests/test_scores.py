"""The file of full scores: written, matched to a table by key, and every way it can be wrong."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from seerctl import scores as module
from seerctl.errors import InputError, UsageError
from seerctl.scores import open_scores, write_scores

KEYS = [f"k{number}" for number in range(7)]
CLASSES = ["ant", "bee", "čáp"]


def table(tmp_path: Path, keys: list[str] = KEYS) -> tuple[Path, np.ndarray]:
    scores = np.random.default_rng(0).random((len(keys), 3)).astype(np.float32)
    write_scores(tmp_path / "s.h5", keys, CLASSES, scores)
    return tmp_path / "s.h5", scores


def test_rows_are_found_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scores = table(tmp_path)
    monkeypatch.setattr(module, "BLOCK_BYTES", 24)  # two rows at a time
    found = open_scores(path, np.array(["k5", "k0", "k3"], dtype=object))
    assert found.classes == tuple(CLASSES)
    np.testing.assert_array_equal(found.of(["čáp", "ant"]), scores[[5, 0, 3]][:, [2, 0]])
    codes, best = found.top(2)
    np.testing.assert_array_equal(codes, np.argsort(-scores[[5, 0, 3]], 1)[:, :2])
    np.testing.assert_allclose(best[:, 0], scores[[5, 0, 3]].max(1))
    truth = np.eye(3)[[1, 0, 2]]
    np.testing.assert_allclose(found.squared_errors(np.array([1, 0, 2])), ((scores[[5, 0, 3]] - truth) ** 2).sum(1))
    with pytest.raises(UsageError, match="no scores of class 'ants'"):
        found.of(["ants"])


def test_what_is_refused(tmp_path: Path) -> None:
    path, scores = table(tmp_path)
    with pytest.raises(InputError, match="no scores for 1 of 2 rows, first of key 'k9'"):
        open_scores(path, np.array(["k1", "k9"], dtype=object))
    with pytest.raises(InputError, match="no such file"):
        open_scores(tmp_path / "none.h5", np.array(KEYS, dtype=object))
    write_scores(path, ["k0", "k0"], CLASSES, scores[:2])
    with pytest.raises(InputError, match="key 'k0' comes twice"):
        open_scores(path, np.array(["k0"], dtype=object))
    write_scores(path, ["k0"], ["a", "b", "a"], scores[:1])
    with pytest.raises(InputError, match="class 'a' comes twice"):
        open_scores(path, np.array(["k0"], dtype=object))
    write_scores(path, ["k0"], CLASSES, np.array([[0.5, np.nan, 0.1]]))
    with pytest.raises(InputError, match="NaN among the scores of rows 1 to 1"):
        open_scores(path, np.array(["k0"], dtype=object)).of(["ant"])
    with pytest.raises(ValueError, match="shape"):
        write_scores(path, ["k0"], CLASSES, np.zeros((2, 3)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.h5"]


def test_files_that_lie(tmp_path: Path) -> None:
    keys = np.array(KEYS, dtype=object)
    path = tmp_path / "s.h5"
    for make, message in (
        (lambda f: f.create_dataset("scores", (10**11, 10**6), "f4", chunks=(256, 10**3)), "never written in full"),
        (lambda f: f.create_dataset("scores", data=np.zeros((7, 2), "f4")), "not floats of 7 keys x 3 classes"),
        (lambda f: f.create_dataset("scores", data=np.zeros((7, 3), "i4")), "not floats"),
        (lambda f: f.create_dataset("scores", (7, 3), "f4", external=[("/etc/passwd", 0, 999)]), "not a plain array"),
        (lambda f: f.__setitem__("scores", h5py.ExternalLink("other.h5", "x")), "not a plain array"),
        (lambda f: None, "it has no 'scores'"),
    ):
        with h5py.File(path, "w") as file:
            file["keys"], file["classes"] = KEYS, CLASSES
            make(file)
        with pytest.raises(InputError, match=message):
            open_scores(path, keys)
    with h5py.File(path, "w") as file:
        file["keys"], file["classes"], file["scores"] = KEYS, [1, 2, 3], np.zeros((7, 3))
    with pytest.raises(InputError, match="'classes' holds int64, not names"):
        open_scores(path, keys)
    path.write_bytes(b"not hdf5")
    with pytest.raises(InputError, match="not an HDF5 file"):
        open_scores(path, keys)
