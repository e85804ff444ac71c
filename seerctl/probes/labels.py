"""Labels of rows that may have several, matched to known classes by name or by a class map."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.columns import sort_names
from seerctl.errors import InputError
from seerctl.features.store import FeatureFile
from seerctl.files import blame, read_json
from seerctl.probes.task import column_of
from seerctl.tables import check_suffix, open_table

ClassMap = Mapping[str, tuple[str, ...]]  # a label of a test set -> the classes that it is (any of them counts)


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Labels of N rows: row i has the classes `sets[values[i]]`, codes into `classes`; none where values[i] is -1.

    values: (N,) int32. sets: the distinct sets of codes. known: (N,) rows that have any. several: whether lists are
    among them.
    """

    classes: tuple[str, ...]
    values: NDArray[np.int32]
    sets: tuple[tuple[int, ...], ...]
    several: bool

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) the rows that have a label."""
        some = np.array([*(bool(one) for one in self.sets), False])
        return np.asarray(some[self.values])

    def first(self) -> NDArray[np.int64]:
        """(N,) the first label of each row, -1 where there is none."""
        return np.array([*(one[0] if one else -1 for one in self.sets), -1], dtype=np.int64)[self.values]

    def take(self, rows: NDArray[Any]) -> Labels:
        """The labels of some rows."""
        return Labels(self.classes, self.values[rows], self.sets, self.several)

    def present(self) -> NDArray[np.bool_]:
        """(C,) the classes that any row has."""
        found = np.zeros(len(self.classes), dtype=np.bool_)
        for value in np.unique(self.values[self.values >= 0]):
            found[list(self.sets[value])] = True
        return found

    def among(self, codes: NDArray[Any]) -> NDArray[np.bool_]:
        """(N, K) whether each of `codes` ((N, K), or (1, K) for all rows) is a label of its row."""
        table = np.zeros((len(self.sets) + 1, len(self.classes)), dtype=np.bool_)
        for place, one in enumerate(self.sets):
            table[place, list(one)] = True
        return np.asarray(table[self.values[:, None], codes])


def read_labels(
    file: FeatureFile, target: str, classes: tuple[str, ...] | None = None, renamed: ClassMap | None = None
) -> Labels:
    """The labels in the column `target`, of which the classes (those named, or all there are) are known.

    A value that is a JSON list holds several. With a class map rows whose labels are none of the classes have no label;
    without one they are an error, as is a set with no label at all.

    Raises:
        UsageError: no such column. InputError: labels that are no classes.
    """
    column = column_of(file, target).coded()
    names = [_names(text) for text in column.categories or ()]
    if renamed is not None:
        names = [tuple(to for name in one for to in renamed.get(name, (name,))) for one in names]
    used = np.unique(column.values[column.values >= 0])
    known = classes or tuple(sort_names(name for place in used for name in names[place]))
    place = {name: code for code, name in enumerate(known)}
    sets = tuple(tuple(dict.fromkeys(place[name] for name in one if name in place)) for one in names)
    several = any((text or "").startswith("[") for text in column.categories or ())
    labels = Labels(known, column.values.astype(np.int32), sets, several)
    strange = [names[value][0] for value in used if names[value] and not sets[value]]
    if not labels.known.any():
        raise InputError(
            f"{file.path}: no '{target}' is one of the {len(known)} classes, such as "
            f"'{strange[0] if strange else known[0]}'",
            "Rename them with a class map (--map)",
        )
    if strange and renamed is None and not several:
        rows = int(np.isin(column.values, [v for v in used if names[v] and not sets[v]]).sum())
        raise InputError(
            f"{file.path}: {rows} rows have a '{target}' that is no class: "
            + ", ".join(f"'{name}'" for name in strange[:5]),
            "Rename or leave them out with a class map (--map)",
        )
    return labels


def _names(text: str) -> tuple[str, ...]:
    """The labels that a column's value holds: those of a JSON list, else the value itself."""
    if not text.startswith("["):
        return (text,)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return (text,)
    return tuple(str(name) for name in found if not isinstance(name, (list, dict)))


def read_class_map(path: Path) -> dict[str, tuple[str, ...]]:
    """A class map: JSON `{"label": "class" or ["class", ...]}`, or a table (csv, jsonl, parquet) `label,class`.

    In a table a label may come several times; a label without a class ("" or []) is left out of the score.

    Raises:
        InputError: no such file, or none of these. UsageError: an unknown suffix.
    """
    if path.suffix == ".json":
        found = read_json(path)
        if not isinstance(found, dict) or not found or not all(_is_name(value) for value in found.values()):
            raise InputError(f"{path}: no class map", 'Write {"label": "class", "other": ["one", "two"]}')
        return {label: (value,) if isinstance(value, str) else tuple(value) for label, value in found.items()}
    check_suffix(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    made: dict[str, tuple[str, ...]] = {}
    with blame(path):
        header, blocks = open_table(path)
        if missing := [name for name in ("label", "class") if name not in header]:
            raise InputError(f"{path}: no column '{missing[0]}'", "A class map has label,class")
        for block in blocks(("label", "class")):
            for label, name in zip(block["label"], block["class"], strict=True):
                made[str(label)] = (*made.get(str(label), ()), *([str(name)] if name not in (None, "") else []))
    if not made:
        raise InputError(f"{path}: an empty class map")
    return made


def _is_name(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))
