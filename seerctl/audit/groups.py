"""Groups out of raw columns: numbers in bins, names under new names, and the ready ones of the SEER papers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np

from seerctl.columns import Column, number_text
from seerctl.errors import InputError, did_you_mean

# Age groups of the fairness indicators (arXiv 2202.07603); income: round(ln(income) / 3) is 1, 2 or 3 (Dollar Street).
READY_BINS: dict[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "age": ((18.0, 30.0, 45.0, 70.0), ("<18", "18-29", "30-44", "45-69", "70+")),
    "income": ((math.exp(4.5), math.exp(7.5)), ("low", "medium", "high")),
}
_ROMAN = ("I", "II", "III", "IV", "V", "VI")
# Fitzpatrick skin types: 1 to 3 are the lighter, 4 to 6 the darker ones.
READY_MAPS: dict[str, dict[str, str]] = {
    "fitzpatrick": {
        name: "lighter" if place < 3 else "darker"
        for place, roman in enumerate(_ROMAN)
        for name in (str(place + 1), roman, roman.lower())
    }
}


@dataclass(frozen=True, slots=True)
class Bin:
    """A numeric column in bins, edges[i] <= value < edges[i + 1].

    labels: one a bin, those below the first and from the last edge on included; one or two fewer leave out the lowest,
    or the lowest and the highest, whose rows then have no value. ready: "age" or "income" in place of edges. name: the
    new column, by default it replaces `column`.
    """

    column: str
    edges: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    ready: Literal["age", "income"] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.column:
            raise ValueError("'column' is empty")
        if (self.ready is None) == (not self.edges) or (self.ready and self.labels):
            raise ValueError("either 'edges' (and 'labels') or 'ready' has to be there")
        if any(not math.isfinite(edge) for edge in self.edges) or any(b <= a for a, b in pairwise(self.edges)):
            raise ValueError("'edges' have to be finite and to grow")
        bins = len(self.edges) + 1
        if self.labels and not max(1, bins - 2) <= len(self.labels) <= bins:
            raise ValueError(f"{len(self.edges)} edges make {bins} bins, 'labels' has {len(self.labels)}")
        if not all(self.labels) or len(set(self.labels)) != len(self.labels):
            raise ValueError("'labels' have to be there and to differ")

    def bins(self) -> tuple[tuple[float, ...], tuple[str | None, ...]]:
        """Edges, and the name of each of their bins (None: left out)."""
        if self.ready is not None:
            return READY_BINS[self.ready]
        texts = [number_text(edge) for edge in self.edges]
        names = [f"<{texts[0]}", *(f"[{a},{b})" for a, b in pairwise(texts)), f">={texts[-1]}"]
        if not self.labels:
            return self.edges, tuple(names)
        short = len(names) - len(self.labels)
        return self.edges, (*[None][: min(short, 1)], *self.labels, *[None][: max(short - 1, 0)])

    def apply(self, column: Column, where: str) -> Column:
        """The bins of a column.

        Raises:
            InputError: a value that is not a number.
        """
        edges, names = self.bins()
        coded = column.coded()
        kept = [name for name in names if name is not None]
        codes = np.array([-1 if name is None else kept.index(name) for name in names], dtype=np.int32)
        numbers = [_number(text, where, self.column) for text in coded.categories or ()]
        table = [int(codes[np.searchsorted(edges, number, side="right")]) for number in numbers]
        return Column(np.array([*table, -1], dtype=np.int32)[coded.values], tuple(kept))


@dataclass(frozen=True, slots=True)
class Map:
    """A column with other names for its values, so that several become one group.

    values: old to new. ready: "fitzpatrick" in place of them. other: the name of all values that are not listed; none:
    their rows have no value. name: the new column, by default it replaces `column`.
    """

    column: str
    values: Mapping[str, str] = field(default_factory=dict)
    ready: Literal["fitzpatrick"] | None = None
    other: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.column:
            raise ValueError("'column' is empty")
        if (self.ready is None) == (not self.values):
            raise ValueError("either 'values' or 'ready' has to be there")
        if not all(self.values.values()) or self.other == "":
            raise ValueError("a value has to get a name")

    def apply(self, column: Column, where: str) -> Column:
        """The column under its new names.

        Raises:
            InputError: no value of the column is one of those that get a name.
        """
        table = READY_MAPS[self.ready] if self.ready else self.values
        coded = column.coded()
        names = coded.categories or ()
        if names and not any(name in table for name in names):
            raise InputError(f"{where}: no value of '{self.column}' is one of {', '.join(table)}")
        kept = list(dict.fromkeys([*table.values(), *([self.other] if self.other else [])]))
        new = [table.get(name, self.other) for name in names]
        codes = [-1 if name is None else kept.index(name) for name in new]
        return Column(np.array([*codes, -1], dtype=np.int32)[coded.values], tuple(kept))


Recipe = Bin | Map


def recipes_of(recipes: Iterable[Recipe]) -> dict[str, Recipe]:
    """Recipes by the column they make.

    Raises:
        ValueError: two make the same column.
    """
    found: dict[str, Recipe] = {}
    for recipe in recipes:
        name = recipe.name or recipe.column
        if name in found:
            raise ValueError(f"column '{name}' is made twice, by [[bin]] or [[map]]")
        found[name] = recipe
    return found


def sources(names: Iterable[str], recipes: Mapping[str, Recipe]) -> list[str]:
    """The columns that a table needs so that `derive` finds `names`."""
    return list(dict.fromkeys(recipes[name].column if name in recipes else name for name in names))


def derive(
    columns: Mapping[str, Column], names: Sequence[str], recipes: Mapping[str, Recipe], where: str
) -> dict[str, Column]:
    """`columns` and, over them, those of `names` that a recipe makes.

    Raises:
        InputError: a column that is not there, or whose values do not fit its recipe.
    """
    made: dict[str, Column] = {}
    for name in names:
        if name in recipes:
            recipe = recipes[name]
            if recipe.column not in columns:
                raise InputError(f"{where}: no column '{recipe.column}'", did_you_mean(recipe.column, columns))
            made[name] = recipe.apply(columns[recipe.column], where)
    return {**columns, **made}


def _number(text: str, where: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise InputError(f"{where}: column '{column}' holds '{text}', not a number", "Bins are for numbers")
    return value
