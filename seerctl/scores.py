"""The file of full scores that goes with a predictions table: HDF5 `keys (N,)`, `scores (N, C)`, `classes (C,)`.

Rows are found by key, so that neither file has to be in the order of the other. A few rows are read at a time: the
whole may be larger than memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.features.store import plain_dataset, reading_hdf5
from seerctl.files import blame, commit

SCHEMA = "seerctl.scores/1"
BLOCK_BYTES = 32 << 20  # of scores that are read at once


@dataclass(frozen=True, slots=True, eq=False)
class FullScores:
    """The scores of every class for the N rows of a table.

    path: the file. classes: its C names. place: (M,) for each of its M rows the row of the table, -1 for none. rows: N.
    """

    path: Path
    classes: tuple[str, ...]
    place: NDArray[np.int64]
    rows: int

    def of(self, names: Sequence[str]) -> NDArray[np.float32]:
        """(N, len(names)) the scores of the classes `names`.

        Raises:
            UsageError: a name that the file does not have.
            InputError: the file is damaged, or a score is NaN.
        """
        columns = []
        for name in names:
            if name not in self.classes:
                raise UsageError(f"{self.path}: no scores of class '{name}'", did_you_mean(name, self.classes))
            columns.append(self.classes.index(name))
        found = np.empty((self.rows, len(columns)), dtype=np.float32)
        for rows, block in self._blocks():
            found[rows] = block[:, columns]
        return found

    def top(self, count: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """(N, count) the best classes of each row, codes into `classes`, and their scores; ties by class order.

        Raises:
            InputError: the file is damaged, or a score is NaN.
        """
        count = min(count, len(self.classes))
        codes, scores = np.empty((self.rows, count), dtype=np.int32), np.empty((self.rows, count))
        for rows, block in self._blocks():
            best = np.argsort(-block, axis=1, kind="stable")[:, :count]
            codes[rows] = best
            scores[rows] = np.take_along_axis(block, best, axis=1)
        return codes, scores

    def squared_errors(self, truth: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,) the sum over the classes of (score - truth)^2, with `truth` (N,) one code into `classes` a row."""
        found = np.empty(self.rows)
        for rows, block in self._blocks():
            wide = block.astype(np.float64)
            right = wide[np.arange(len(rows)), truth[rows]]
            found[rows] = (wide**2).sum(1) - right**2 + (right - 1.0) ** 2
        return found

    def _blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Rows of the table and their scores, a block of the file at a time."""
        with reading_hdf5(self.path), h5py.File(self.path, "r") as file:
            data = plain_dataset(self.path, file, "scores", 2)
            step = max(1, BLOCK_BYTES // (4 * len(self.classes)))
            for start in range(0, len(self.place), step):
                rows = self.place[start : start + step]
                block = np.asarray(data[start : start + step])[rows >= 0]
                if np.isnan(block).any():
                    raise InputError(f"{self.path}: NaN among the scores of rows {start + 1} to {start + len(rows)}")
                yield rows[rows >= 0], block


def open_scores(path: Path, keys: NDArray[np.object_]) -> FullScores:
    """The full scores in `path` for the rows `keys` (N,) of a table.

    Raises:
        InputError: not such a file, classes or keys that come twice, or a key that it does not have.
    """
    with reading_hdf5(path), h5py.File(path, "r") as file:
        data = _whole(path, plain_dataset(path, file, "scores", 2))
        classes, names = _texts(path, file, "classes"), _texts(path, file, "keys")
        if data.dtype.kind != "f" or data.shape != (len(names), len(classes)) or 0 in data.shape:
            raise InputError(
                f"{path}: 'scores' is {data.shape} of {data.dtype}, not floats of {len(names)} keys x {len(classes)} "
                "classes"
            )
    for what, listed in (("class", classes), ("key", names)):
        if len(set(listed)) != len(listed):
            twice, _ = Counter(listed).most_common(1)[0]
            raise InputError(f"{path}: {what} '{twice}' comes twice")
    wanted = {key: row for row, key in enumerate(keys)}
    place = np.array([wanted.get(name, -1) for name in names], dtype=np.int64)
    found = int((place >= 0).sum())
    if found != len(keys):
        there = set(names)
        absent = next(key for key in keys if key not in there)
        raise InputError(
            f"{path}: no scores for {len(keys) - found} of {len(keys)} rows, first of key '{absent}'",
            "Name the scores that were written with this table",
        )
    return FullScores(path, tuple(classes), place, len(keys))


def write_scores(
    path: Path, keys: Sequence[str] | NDArray[np.object_], classes: Sequence[str], scores: NDArray[Any]
) -> None:
    """Write a file of full scores, whole or not at all: scores (N, C) in the order of `keys` and `classes`."""
    if scores.shape != (len(keys), len(classes)):
        raise ValueError(f"scores of shape {scores.shape} for {len(keys)} keys and {len(classes)} classes")
    temporary = path.with_name(path.name + ".tmp")
    with blame(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with h5py.File(temporary, "w") as file:
                file.attrs["schema"] = SCHEMA
                text = h5py.string_dtype()
                file.create_dataset("keys", data=np.array(list(keys), dtype=object), dtype=text)
                file.create_dataset("classes", data=np.array(list(classes), dtype=object), dtype=text)
                file.create_dataset("scores", data=np.asarray(scores, dtype=np.float32))
            commit(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _texts(path: Path, file: h5py.File, name: str) -> list[str]:
    data = _whole(path, plain_dataset(path, file, name, 1))
    if h5py.check_string_dtype(data.dtype) is None:
        raise InputError(f"{path}: '{name}' holds {data.dtype}, not names")
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in data[:]]


def _whole(path: Path, data: h5py.Dataset) -> h5py.Dataset:
    """`data` if the file holds what its shape promises: a few bytes can declare terabytes, all of them zero."""
    if not data.compression and data.id.get_storage_size() < data.size * data.dtype.itemsize:
        raise InputError(f"{path}: '{data.name.lstrip('/')}' was never written in full")
    return data
