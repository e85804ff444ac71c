"""Tables of predictions on shifted pictures beside those on the clean ones: reading and pairing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.groups import Recipe, derive, sources
from seerctl.columns import Column
from seerctl.errors import InputError, UsageError
from seerctl.files import blame
from seerctl.predictions import Predictions, read_predictions
from seerctl.tables import check_suffix, open_table

CORRUPTION = "corruption"  # the column that `extract --corrupt` writes: "fog:3" in every row
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Clean:
    """The rows with a label of the table on clean pictures: keys (N,), labels (N,) as names, right (N,), columns."""

    path: Path
    keys: NDArray[np.object_]
    labels: NDArray[np.object_]
    right: Mask
    predicted: NDArray[np.int32]
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """A table on other pictures. paired: row i is row i of the clean table. right: (M,); columns: of its own rows.

    family: what it is one severity of ("fog" of "fog:3"), else its name.
    """

    name: str
    path: Path
    paired: bool
    right: Mask
    columns: Mapping[str, Column]

    @property
    def family(self) -> str:
        """The corruption without its severity."""
        family, _, severity = self.name.partition(":")
        return family if severity.isdigit() else self.name


def read_clean(path: Path, columns: Sequence[str], recipes: Mapping[str, Recipe]) -> Clean:
    """The clean table with `columns` (some of them made by `recipes`), its rows without a label left out.

    Raises:
        UsageError, InputError: as `read_predictions` and `groups.derive`.
    """
    table, taken, kept = _read(path, columns, recipes)
    return Clean(
        path, table.keys[kept], _labels(table)[kept], (table.label == table.prediction)[kept], table.prediction[kept],
        taken,
    )  # fmt: skip


def _read(
    path: Path, columns: Sequence[str], recipes: Mapping[str, Recipe]
) -> tuple[Predictions, dict[str, Column], NDArray[np.intp]]:
    """A table, its columns at the rows that have a label, and these rows."""
    table = read_predictions(path, sources(columns, recipes))
    kept = np.flatnonzero(table.labelled)
    made = derive(table.columns, columns, recipes, str(path))
    return table, {name: column.take(kept) for name, column in made.items()}, kept


def read_shift(path: Path, clean: Clean) -> Shift:
    """The table of a corrupted or otherwise shifted view of the clean table's pictures, in the order of its rows.

    Raises:
        InputError: it has other keys, or other labels for them.
    """
    table = read_predictions(path, _names(path, [CORRUPTION]))
    kept = np.flatnonzero(table.labelled)
    place = {key: row for row, key in zip(kept.tolist(), table.keys[kept], strict=True)}
    rows = [place.get(key, -1) for key in clean.keys]
    missing = rows.count(-1)
    if missing or len(place) != len(rows):
        raise InputError(
            f"{path}: not the rows of {clean.path}: {missing} of its {len(rows):,} keys are missing, "
            f"{len(place) - len(rows) + missing} are not in it",
            "Predict the same test set twice, clean and corrupted",
        )
    order = np.array(rows, dtype=np.intp)
    other = np.flatnonzero(_labels(table)[order] != clean.labels)
    if len(other):
        raise InputError(
            f"{path}: {len(other)} rows have another label than in {clean.path}, first of key {clean.keys[other[0]]}"
        )
    right = (table.label == table.prediction)[order]
    return Shift(_name(path, table), path, True, right, clean.columns)


def read_other(path: Path, columns: Sequence[str], recipes: Mapping[str, Recipe]) -> Shift:
    """The table of another data set with the same task: nothing pairs its rows with the clean ones.

    Raises:
        UsageError, InputError: as `read_predictions` and `groups.derive`.
    """
    table, taken, kept = _read(path, columns, recipes)
    return Shift(path.stem, path, False, (table.label == table.prediction)[kept], taken)


def _names(path: Path, wanted: Iterable[str]) -> list[str]:
    """Those of `wanted` that the table has."""
    check_suffix(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with blame(path):
        header, _ = open_table(path)
    return [name for name in wanted if name in header]


def _labels(table: Predictions) -> NDArray[np.object_]:
    return np.array([*table.classes, None], dtype=object)[table.label]


def _name(path: Path, table: Predictions) -> str:
    """The corruption that every row names, else the file's name ("fog-3" as "fog:3")."""
    column = table.columns.get(CORRUPTION)
    named = set(column.texts()) if column is not None else set()
    if len(named) == 1 and "" not in named:
        return named.pop()
    family, dash, severity = path.stem.rpartition("-")
    return f"{family}:{severity}" if dash and family and severity in "12345" else path.stem


def check_names(shifts: Sequence[Shift]) -> None:
    """Refuse two tables of one shift.

    Raises:
        UsageError: so it is.
    """
    seen: dict[str, Path] = {}
    for shift in shifts:
        if shift.name in seen:
            raise UsageError(f"{shift.path}: '{shift.name}' again, it is that of {seen[shift.name]} already")
        seen[shift.name] = shift.path
