"""Targets that are no single class: numbers, and several labels a row.

Several labels come in one of three forms, which may be mixed in a list of columns:
- a column whose values are JSON lists of names, as `ingest` keeps them and predictions tables write them:
  `["cat", "dog"]`; `[]` is a row that has none of the classes, an empty value a row of which nothing is known;
- with several columns, one of plain names: each becomes the class `column=name`;
- with several columns, one of numbers out of -1, 0 and 1 (attributes, as CelebA has them): the class `column`, 1 is
  yes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seerctl.columns import Column, sort_names
from seerctl.errors import InputError, UsageError
from seerctl.features.store import FeatureFile
from seerctl.predictions import Truth, as_list
from seerctl.probes.task import Side, column_of, open_pair, pair_warnings, say_all, side_of

Answers = NDArray[np.int8]  # (N, C): 1 yes, 0 no, -1 unknown


@dataclass(frozen=True, slots=True, eq=False)
class NumberTask:
    """A regression: `labels` of both sides are (N,) float64."""

    target: str
    train: Side
    test: Side
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class LabelsTask:
    """Several labels a row: `labels` of both sides are `Answers`. `classes` are those with a positive training row."""

    target: str
    classes: tuple[str, ...]
    train: Side
    test: Side
    warnings: tuple[str, ...] = ()


def load_numbers(train: Path, test: Path, target: str) -> NumberTask:
    """Open both files with numbers as targets; rows without one are left out, with a warning.

    Raises:
        UsageError: as `load_task`, or a column that holds names that are no numbers.
        InputError: as `load_task`, or training rows that all have the same number.
    """
    warnings: list[str] = []
    with open_pair(train, test) as (one, two):
        sides = []
        for file in (one, two):
            values = _numbers(file, target)
            sides.append(side_of(file, values, np.isfinite(values), warnings))
        if np.ptp(sides[0].labels) == 0:
            raise InputError(f"{train}: every row has {sides[0].labels[0]:g} as '{target}'", "Nothing can be learnt")
        warnings += pair_warnings(one, two, *sides)
    say_all(warnings)
    return NumberTask(target, sides[0], sides[1], tuple(warnings))


def _numbers(file: FeatureFile, target: str) -> NDArray[np.float64]:
    column = column_of(file, target)
    if column.categories is None:
        return column.values.astype(np.float64)
    try:
        table = np.array([*map(float, column.categories), np.nan])
    except ValueError:
        raise UsageError(f"{file.path}: '{target}' holds names, not numbers", "Probe it with linear or knn") from None
    numbers: NDArray[np.float64] = table[column.values]
    return numbers


def load_labels(
    train: Path, test: Path, target: str | Sequence[str], *, ignore: str | None = None, negatives: str | None = None
) -> LabelsTask:
    """Open both files with several labels a row.

    target: one column or several (see the module). ignore: a column of lists: classes that the row is neither positive
    nor negative for (VOC's difficult ones). negatives: a column of lists: then only these are known to be absent, and
    all others that are not positive are unknown (OpenImages' verified labels).

    Raises:
        UsageError: no such column. InputError: as `load_task`, no class with a positive row, or none in the test rows.
    """
    targets = [target] if isinstance(target, str) else list(target)
    warnings: list[str] = []
    with open_pair(train, test) as (one, two):
        found = [_positives(file, targets) for file in (one, two)]
        classes = _classes(one.path, found[0])
        sides = []
        for file, (names, known) in zip((one, two), found, strict=True):
            answers = _answers(file, names, classes, ignore, negatives)
            sides.append(side_of(file, answers, known, warnings))
        warnings += [*pair_warnings(one, two, *sides), *_unseen(two.path, found[1], classes)]
        if not (sides[1].labels == 1).any():
            raise InputError(f"{test}: no row has any of the {len(classes)} classes of {train}")
    say_all(warnings)
    return LabelsTask(", ".join(targets), classes, sides[0], sides[1], tuple(warnings))


Named = tuple[list[list[str]], NDArray[np.bool_]]  # the labels of each row, and whether anything is known of it


def _positives(file: FeatureFile, targets: Sequence[str]) -> Named:
    rows: list[list[str]] = [[] for _ in range(len(file))]
    known = np.zeros(len(file), dtype=np.bool_)
    for target in targets:
        names, there = _names(column_of(file, target), target, alone=len(targets) == 1)
        known |= there
        for row, more in zip(rows, names, strict=True):
            row.extend(more)
    return rows, known


def _names(column: Column, target: str, *, alone: bool) -> tuple[list[list[str]], NDArray[np.bool_]]:
    there = ~column.missing
    if column.categories is None and not alone and set(np.unique(column.values[there])) <= {-1, 0, 1}:
        return [[target] if value == 1 else [] for value in column.values], there
    coded = column.coded()
    assert coded.categories is not None
    table: list[list[str]] = []
    for text in coded.categories:
        listed = as_list(text)
        table.append(listed if listed is not None else [text if alone else f"{target}={text}"])
    return [table[code] if code >= 0 else [] for code in coded.values], there


def _classes(path: Path, found: Named) -> tuple[str, ...]:
    classes = tuple(sort_names(name for names in found[0] for name in names))
    if not classes:
        raise InputError(f"{path}: no row has a label")
    return classes


def _answers(
    file: FeatureFile, names: list[list[str]], classes: Sequence[str], ignore: str | None, negatives: str | None
) -> Answers:
    place = {name: code for code, name in enumerate(classes)}
    answers = np.full((len(names), len(classes)), 0 if negatives is None else -1, dtype=np.int8)
    for column, value in ((negatives, 0), (ignore, -1)):
        if column is not None:
            _fill(answers, _lists(file, column), place, value)
    _fill(answers, names, place, 1)
    return answers


def _lists(file: FeatureFile, column: str) -> list[list[str]]:
    return _names(column_of(file, column), column, alone=True)[0]


def _fill(answers: Answers, names: Sequence[Sequence[str]], place: Mapping[str, int], value: int) -> None:
    for row, more in enumerate(names):
        for name in more:
            if name in place:
                answers[row, place[name]] = value


def _unseen(path: Path, found: Named, classes: Sequence[str]) -> list[str]:
    unseen = sort_names({name for names in found[0] for name in names} - set(classes))
    if not unseen:
        return []
    return [f"{path}: {len(unseen)} labels that no training row has are left out, such as '{unseen[0]}'"]


def truth_of(answers: Answers) -> Truth:
    """The positives of each row, as predictions tables hold them."""
    rows, codes = np.nonzero(answers == 1)
    counts = np.bincount(rows, minlength=len(answers))
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Truth(starts, codes.astype(np.int32), np.ones(len(answers), dtype=np.bool_))
