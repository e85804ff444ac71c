"""Metadata columns: one value per row, as numbers or as codes into a table of names."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT_INTEGER = 2**53  # beyond it a float64 no longer holds every integer


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One value per row.

    values: (N,) int64 or float64 numbers (missing: NaN), or, when `categories` is there, int32 codes (missing: -1).
    """

    values: NDArray[Any]
    categories: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def missing(self) -> NDArray[np.bool_]:
        """(N,) True where the row has no value."""
        if self.categories is not None:
            return np.asarray(self.values < 0)
        if self.values.dtype.kind == "f":
            return np.asarray(np.isnan(self.values))
        return np.zeros(len(self.values), dtype=np.bool_)

    def take(self, rows: NDArray[Any]) -> Column:
        """The column at `rows` (indices or a mask)."""
        return Column(self.values[rows], self.categories)

    def coded(self) -> Column:
        """The column as codes; numbers become names in numerical order ("3", "2.5")."""
        if self.categories is not None:
            return self
        there = ~self.missing
        numbers, inverse = np.unique(self.values[there], return_inverse=True)
        codes = np.full(len(self.values), -1, dtype=np.int32)
        codes[there] = inverse
        return Column(codes, tuple(number_text(number) for number in numbers.tolist()))

    def texts(self) -> list[str]:
        """Every value as text, "" where it is missing."""
        coded = self.coded()
        names = np.array([*(coded.categories or ()), ""], dtype=object)  # code -1 is the last name
        return list(names[coded.values])


class Coder(dict[str, int]):
    """Names to codes in order of first appearance: `coder[name]` makes up a new code for a new name."""

    def __missing__(self, name: str) -> int:
        code = self[name] = len(self)
        return code

    def encode(self, names: Iterable[str]) -> array[int]:
        """Codes of `names`, at the speed of one dictionary look-up each."""
        return array("i", map(self.__getitem__, names))


class ColumnBuilder:
    """A column from values of any JSON type, one `append` a row, 12 bytes a row whatever the values.

    Numbers stay numbers as long as every value is one; booleans, lists and tables become their JSON text.
    """

    def __init__(self) -> None:
        self.coder = Coder()
        self.codes = array("i")  # code of a name, -1 missing, -2 a number
        self.numbers = array("d")
        self.integers = True

    def append(self, value: Any) -> None:
        """Add the next row's value; None and NaN are missing."""
        number, code = math.nan, -1
        if isinstance(value, str):
            code = self.coder[value] if value else -1
        elif isinstance(value, (bool, list, tuple, dict)):
            code = self.coder[json.dumps(value, ensure_ascii=False, sort_keys=True)]
        elif isinstance(value, int) and abs(value) > EXACT_INTEGER:
            code = self.coder[str(value)]
        elif isinstance(value, (int, float)) and math.isfinite(value):
            number, code = float(value), -2
            self.integers = self.integers and isinstance(value, int)
        elif isinstance(value, float) and math.isinf(value):
            code = self.coder[str(value)]
        self.codes.append(code)
        self.numbers.append(number)

    def fill(self, rows: int) -> None:
        """Mark rows as missing until there are `rows` of them."""
        absent = rows - len(self.codes)
        if absent > 0:
            self.codes.extend(array("i", [-1]) * absent)
            self.numbers.extend(array("d", [math.nan]) * absent)

    def finish(self) -> Column:
        """The column; its categories are sorted, so that they do not depend on the order of the rows."""
        codes = np.frombuffer(self.codes, dtype=np.int32).copy()
        numbers = np.frombuffer(self.numbers, dtype=np.float64).copy()
        if not self.coder and (codes == -2).any():
            whole = self.integers and not (codes == -1).any()
            return Column(numbers.astype(np.int64) if whole else numbers)
        for row in np.flatnonzero(codes == -2):  # a column of names and numbers: all of it is names
            codes[row] = self.coder[number_text(float(numbers[row]))]
        return relabel(codes, [_storable(name) for name in self.coder])


def columns_from_rows(rows: Iterable[dict[str, Any]], names: Iterable[str] = ()) -> dict[str, Column]:
    """Columns from one dictionary a row; `names` come first and exist even when no row has them."""
    builders = {name: ColumnBuilder() for name in names}
    count = 0
    for row in rows:
        for name, value in row.items():
            builder = builders.setdefault(name, ColumnBuilder())
            builder.fill(count)
            builder.append(value)
        count += 1
    for builder in builders.values():
        builder.fill(count)
    return {name: builder.finish() for name, builder in builders.items()}


def relabel(codes: NDArray[Any], names: Sequence[str]) -> Column:
    """Codes into unsorted `names` as a column with sorted categories (missing stays -1)."""
    ordered = sort_names(names)
    place = {name: code for code, name in enumerate(ordered)}
    table = np.array([*(place[name] for name in names), -1], dtype=np.int32)  # code -1 finds the last entry
    return Column(table[codes], tuple(ordered))


def sort_names(names: Iterable[str]) -> list[str]:
    """Unique names: as numbers when all are whole numbers ("2" before "10"), else by code point."""
    unique = set(names)
    if unique and all(_whole(name) for name in unique):
        return sorted(unique, key=lambda name: (int(name), name))
    return sorted(unique)


def _storable(name: str) -> str:
    """A name that HDF5 and UTF-8 can hold: NUL and lone surrogates become the replacement character."""
    return name.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _whole(name: str) -> bool:
    digits = name[1:] if name.startswith("-") else name
    return digits.isascii() and digits.isdigit() and len(digits) < 19


def number_text(number: float) -> str:
    """A number as people write it: "3" for 3.0, the shortest exact text else."""
    return str(int(number)) if float(number).is_integer() and abs(number) < EXACT_INTEGER else repr(float(number))
