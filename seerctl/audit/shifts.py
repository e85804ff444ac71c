"""Tables of predictions on shifted pictures beside those on the clean ones: reading and pairing."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.groups import Recipe, derive, sources
from seerctl.columns import Column
from seerctl.errors import InputError, UsageError
from seerctl.files import blame, read_json
from seerctl.predictions import Predictions, read_predictions
from seerctl.stats import Floats
from seerctl.tables import check_suffix, open_table

CORRUPTION = "corruption"  # the column that `extract --corrupt` writes: "fog:3" in every row
MIN_BASELINES = 5
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


# ---------------------------------------------------------------------------------------------- lines of other models


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """The straight line through other models' accuracies, both on the logit axis: shifted = intercept + slope clean.

    models: how many. deviation: residual standard deviation. mean, spread: mean of the clean logits and the sum of
    their squared distances from it.
    """

    models: int
    intercept: float
    slope: float
    deviation: float
    mean: float
    spread: float

    def at(self, clean: float) -> float:
        """The accuracy that the line expects under the shift."""
        return expit(self.intercept + self.slope * logit(clean))

    def error(self, clean: float) -> float:
        """The standard error of the line at `clean`, on the logit axis."""
        return self.deviation * math.sqrt(1.0 / self.models + (logit(clean) - self.mean) ** 2 / self.spread)


def logit(share: float) -> float:
    """ln(p / (1 - p)); 0 and 1 are taken as one in a million from the end."""
    share = min(1.0 - 1e-6, max(1e-6, share))
    return math.log(share / (1.0 - share))


def expit(value: float) -> float:
    """The inverse of `logit`."""
    return 1.0 / (1.0 + math.exp(-value)) if value > -700 else 0.0


def read_lines(path: Path) -> dict[str | None, Line]:
    """Lines by shift (None: for whatever shift is asked about) from a csv or JSON list of `clean, shifted[, shift]`.

    Raises:
        InputError: not such a file, or an accuracy that is not a fraction.
        UsageError: fewer than five models for a shift, or models of one clean accuracy.
    """
    pairs: dict[str | None, list[tuple[float, float]]] = {}
    for number, row in enumerate(_rows(path), 1):
        pair = tuple(_fraction(path, number, row, name) for name in ("clean", "shifted"))
        pairs.setdefault(str(row["shift"]) if row.get("shift") else None, []).append((pair[0], pair[1]))
    if not pairs:
        raise InputError(f"{path}: no baseline models")
    return {shift: _line(path, shift, np.array(found)) for shift, found in pairs.items()}


def _rows(path: Path) -> list[Mapping[str, Any]]:
    if path.suffix == ".json":
        rows = read_json(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: not a JSON list of objects", 'Write [{"clean": 0.76, "shifted": 0.63}, ...]')
        return rows
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with blame(path), path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a csv of clean,shifted ({error})") from None


def _fraction(path: Path, number: int, row: Mapping[str, Any], name: str) -> float:
    try:
        value = float(row.get(name) or "nan")
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(row.get(name), bool) or not 0.0 < value < 1.0:
        raise InputError(f"{path}: row {number}: '{name}' is {row.get(name)!r}, not an accuracy between 0 and 1")
    return value


def _line(path: Path, shift: str | None, pairs: Floats) -> Line:
    of = "" if shift is None else f" for '{shift}'"
    if len(pairs) < MIN_BASELINES:
        raise UsageError(f"{path}: {len(pairs)} baseline models{of}", f"A line needs {MIN_BASELINES} or more")
    x, y = np.log(pairs / (1.0 - pairs)).T
    mean, spread = float(x.mean()), float(((x - x.mean()) ** 2).sum())
    if spread < 1e-9:
        raise UsageError(f"{path}: the baseline models{of} have one clean accuracy", "A line needs different ones")
    slope = float(((x - mean) * y).sum() / spread)
    intercept = float(y.mean()) - slope * mean
    residual = y - intercept - slope * x
    return Line(len(pairs), intercept, slope, math.sqrt(float(residual @ residual) / (len(pairs) - 2)), mean, spread)
