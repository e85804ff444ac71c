"""What a probe works on: two feature files of one model and the labels of both, checked before any work is done.

`load_task` reads a classification. Other kinds of targets (see `targets`) are built from the same parts: `open_pair`,
`column_of`, `side_of`, `pair_warnings`.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.columns import Column, sort_names
from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.features.store import FeatureFile
from seerctl.files import sha256_file

CONTENT = re.compile(rb"[0-9a-f]{16}-[0-9a-f]{8}")  # our keys: their first half names the stored bytes
SCALE = ("parameters", "images_seen")  # of the model, where its features say so
MUST_AGREE = {"weights_sha256": "weights_sha256", "layer": "layer", "clean_preprocess": "preprocess"}

log = logging.getLogger("seerctl")


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One feature file with labels: features (N, D) float32, keys (N,) bytes, metadata, what a report says of it.

    labels: (N,) int64 codes of a classification; (N,) float64 numbers, or (N, C) int8 answers of several labels, of the
    tasks in `targets`.
    """

    features: NDArray[np.float32]
    labels: NDArray[Any]
    keys: NDArray[np.bytes_]
    columns: Mapping[str, Column]
    origin: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A classification: train on one side, score on the other. `classes` are those of the training side, sorted.

    more_inputs: what a report says of further feature files, by role.
    """

    target: str
    classes: tuple[str, ...]
    train: Side
    test: Side
    warnings: tuple[str, ...] = ()
    more_inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load_task(train: Path, test: Path, target: str) -> Task:
    """Open both files and match their labels by name. Rows without a label are left out, with a warning.

    Raises:
        UsageError: features of different models, layers or preprocessing; no column `target`, or one of other numbers
            than whole ones.
        InputError: a file that is no feature file, non-finite features, a single class, a test label that no training
            row has, or no labelled row.
    """
    warnings: list[str] = []
    with open_pair(train, test) as (one, two):
        train_target, test_target = _classes_column(one, target), _classes_column(two, target)
        classes, codes = _shared_classes(one.path, train_target)
        test_codes = _codes_of(two.path, test_target, classes, target)
        sides = (side_of(one, codes, codes >= 0, warnings), side_of(two, test_codes, test_codes >= 0, warnings))
        warnings += pair_warnings(one, two, *sides)
    say_all(warnings)
    return Task(target, classes, *sides, tuple(warnings))


@contextlib.contextmanager
def open_pair(train: Path, test: Path) -> Iterator[tuple[FeatureFile, FeatureFile]]:
    """Two feature files of one model and layer, opened.

    Raises:
        UsageError: features of different models, layers or preprocessing. InputError: a file that is no feature file.
    """
    with FeatureFile.open(train) as one, FeatureFile.open(test) as two:
        _check_pair(one, two)
        yield one, two


def pair_warnings(one: FeatureFile, two: FeatureFile, train: Side, test: Side) -> list[str]:
    """What makes scores of these two sides doubtful: shared pictures, corrupted training pictures."""
    warnings = _leak(train, test)
    if one.header.corruption and one.header.corruption != two.header.corruption:
        warnings.append(
            f"{one.path}: its pictures are corrupted by {one.header.corruption}, those of {two.path} are not"
        )  # fmt: skip
    return warnings


def say_all(warnings: Iterable[str]) -> None:
    """Log each as a warning; reports repeat them."""
    for warning in warnings:
        log.warning("%s", warning)


def _check_pair(train: FeatureFile, test: FeatureFile) -> None:
    if train.shape[1] != test.shape[1]:
        raise UsageError(
            f"{test.path}: features of {test.shape[1]} dimensions, those of {train.path} have {train.shape[1]}",
            "Extract both with the same model and layer",
        )
    for attribute, name in MUST_AGREE.items():  # corrupted views may be scored by what was learnt from clean ones
        one, two = getattr(train.header, attribute), getattr(test.header, attribute)
        if one != two:
            raise UsageError(
                f"{test.path}: its {name} is '{two[:60]}', that of {train.path} '{one[:60]}'",
                "Extract both with the same model, layer and size",
            )


def column_of(file: FeatureFile, name: str) -> Column:
    """The metadata column `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in file.columns:
        hint = did_you_mean(name, file.columns) if file.columns else "The shards had no metadata"
        raise UsageError(f"{file.path}: no column '{name}'", hint)
    return file.columns[name]


def _classes_column(file: FeatureFile, name: str) -> Column:
    column = column_of(file, name)
    if column.categories is None and column.values.dtype.kind == "f":
        there = column.values[~column.missing]
        if (there != np.floor(there)).any():
            raise UsageError(f"{file.path}: '{name}' holds fractions, not classes", "Name a column of labels")
    return column.coded()


def _shared_classes(path: Path, train: Column) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes that training rows have, sorted, and the rows' codes into them."""
    assert train.categories is not None
    used = {train.categories[code] for code in np.unique(train.values[train.values >= 0])}
    classes = tuple(sort_names(used))
    if len(classes) < 2:
        what = f"a single class, '{classes[0]}'" if classes else "no labelled row"
        raise InputError(f"{path}: {what}", "A probe needs two classes or more")
    place = {name: code for code, name in enumerate(classes)}
    table = np.array([*(place.get(name, -1) for name in train.categories), -1], dtype=np.int64)
    return classes, table[train.values]


def _codes_of(path: Path, test: Column, classes: tuple[str, ...], target: str) -> NDArray[np.int64]:
    assert test.categories is not None
    place = {name: code for code, name in enumerate(classes)}
    table = np.array([*(place.get(name, -2) for name in test.categories), -1], dtype=np.int64)
    codes: NDArray[np.int64] = table[test.values]
    unseen = np.unique(test.values[codes == -2])
    if len(unseen):
        names = ", ".join(f"'{test.categories[code]}'" for code in unseen[:5])
        raise InputError(
            f"{path}: {int((codes == -2).sum())} rows have a '{target}' that no training row has: {names}",
            "Train and test have to share their classes",
        )
    return codes


def side_of(file: FeatureFile, labels: NDArray[Any], labelled: NDArray[np.bool_], warnings: list[str]) -> Side:
    """The rows of `file` that are `labelled` (N,), with their `labels` (N, ...); how many are not goes to `warnings`.

    Raises:
        InputError: non-finite features, or no row is labelled.
    """
    features = file.features()
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        key = file.keys[int(np.argmin(finite))].decode("ascii", "replace")
        raise InputError(
            f"{file.path}: {int((~finite).sum())} rows have non-finite features, first of key {key}", "Extract it again"
        )
    if not labelled.any():
        raise InputError(f"{file.path}: no row has a label")
    if labelled.all():
        return Side(features, labels, file.keys, file.columns, origin_of(file, len(labels)))
    warnings.append(f"{file.path}: {int((~labelled).sum())} rows without a label are left out")
    rows = np.flatnonzero(labelled)
    columns = {name: column.take(rows) for name, column in file.columns.items()}
    return Side(features[rows], labels[rows], file.keys[rows], columns, origin_of(file, len(rows)))


def origin_of(file: FeatureFile, rows: int) -> dict[str, Any]:
    """What the report says of a feature file of which `rows` are used, hashes included."""
    return {
        "path": str(file.path), "sha256": sha256_file(file.path), "rows": rows, "dim": file.shape[1],
        "dtype": file.dtype, "model": file.header.model, "layer": file.header.layer,
        "weights_sha256": file.header.weights_sha256, "index_sha256": file.header.index_sha256,
        "preprocess": file.header.preprocess,
        **{name: file.header.lineage[name] for name in SCALE if name in file.header.lineage},
    }  # fmt: skip


def key_texts(keys: NDArray[np.bytes_]) -> NDArray[np.object_]:
    """Keys as text, as tables have them."""
    return np.array([key.decode("ascii", "replace") for key in keys], dtype=object)


def _leak(train: Side, test: Side) -> list[str]:
    """A warning when test pictures are training pictures too: by their bytes where keys are ours, else by key."""
    one, two = train.keys, test.keys
    what = "keys"
    if all(CONTENT.fullmatch(key) for key in (one[0], one[-1], two[0], two[-1])):
        one, two, what = one.astype("S16"), two.astype("S16"), "pictures"
    same = int(np.isin(two, one).sum())
    if not same:
        return []
    return [f"leak: {same} of {len(test)} test {what} are among the training {what}, the scores are too good"]
