"""What is in a set, counted while it is written: columns with their types and values, formats, sides."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SIDES = ("width", "height", "short", "long")
SHARES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
MAX_SHAPES = 4096  # counted together, so that one sample costs one step
MAX_VALUES = 1024  # more distinct values than this and a column is listed without them


def kind_of(value: object) -> str:
    """The JSON type of a column's value: boolean, integer, number, string or json (a list or table)."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "string" if isinstance(value, str) else "json"


def join_kinds(first: str, second: str) -> str:
    """The type of a column that holds both: equal ones stay, integer and number are number, else mixed."""
    if first == second:
        return first
    return "number" if {first, second} == {"integer", "number"} else "mixed"


@dataclass
class Column:
    """One column: how many samples have a value, its type, its distinct values while they are few, its range."""

    kind: str
    count: int = 0
    values: Counter[str] | None = field(default_factory=Counter)
    low: float | None = None
    high: float | None = None

    def add(self, value: Any) -> None:
        """Count one value (not None)."""
        self.count += 1
        if type(value) is str and self.kind == "string":  # labels: by far the most, and once for every sample
            self._tally(value)
            return
        kind = kind_of(value)
        self.kind = join_kinds(self.kind, kind)
        if kind in ("integer", "number"):
            self.low = value if self.low is None else min(self.low, value)
            self.high = value if self.high is None else max(self.high, value)
        if kind == "json":
            self.values = None
        else:
            self._tally(_text(value))

    def _tally(self, text: str) -> None:
        if self.values is not None:
            self.values[text] += 1
            if len(self.values) > MAX_VALUES:
                self.values = None

    def merge(self, other: Column) -> None:
        """Add what `other` counted."""
        self.kind = join_kinds(self.kind, other.kind)
        self.count += other.count
        self.low = min((low for low in (self.low, other.low) if low is not None), default=None)
        self.high = max((high for high in (self.high, other.high) if high is not None), default=None)
        merged = None if self.values is None or other.values is None else self.values + other.values
        self.values = None if merged is None or len(merged) > MAX_VALUES else merged

    def to_json(self) -> dict[str, Any]:
        """The entry of the index."""
        entry: dict[str, Any] = {"type": self.kind, "count": self.count}
        if self.low is not None:
            entry |= {"min": self.low, "max": self.high}
        if self.values is not None:
            entry["values"] = {value: self.values[value] for value in sorted(self.values)}
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Column:
        """The inverse of `to_json`."""
        values = Counter(entry["values"]) if "values" in entry else None
        return cls(entry["type"], entry["count"], values, entry.get("min"), entry.get("max"))


def _text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


@dataclass
class Summary:
    """Counts over samples. `sides`: how many samples have each width, height, short and long side, in pixels as stored,
    before orientation. They are counted together at first: `formats`, `modes` and `sides` are right after `fold`."""

    columns: dict[str, Column] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    sides: dict[str, Counter[int]] = field(default_factory=lambda: {side: Counter() for side in SIDES})
    _shapes: Counter[tuple[str, str, int, int]] = field(default_factory=Counter, repr=False)

    def add(self, meta: Mapping[str, Any]) -> None:
        """Count one sample by its meta."""
        self._shapes[meta["format"], meta["mode"], meta["width"], meta["height"]] += 1
        if len(self._shapes) > MAX_SHAPES:
            self.fold()
        for name, value in meta["columns"].items():
            if value is not None:
                column = self.columns.get(name)
                if column is None:
                    column = self.columns[name] = Column(kind_of(value))
                column.add(value)

    def fold(self) -> None:
        """Bring `formats`, `modes` and `sides` up to date."""
        for (form, mode, width, height), count in self._shapes.items():
            self.formats[form] += count
            self.modes[mode] += count
            for side, length in zip(SIDES, (width, height, min(width, height), max(width, height)), strict=True):
                self.sides[side][length] += count
        self._shapes.clear()

    def merge(self, other: Summary) -> None:
        """Add what `other` counted."""
        self.fold()
        other.fold()
        self.formats += other.formats
        self.modes += other.modes
        for side, counts in other.sides.items():
            self.sides[side] += counts
        for name, column in other.columns.items():
            if name in self.columns:
                self.columns[name].merge(column)
            else:
                self.columns[name] = column

    def to_json(self) -> dict[str, Any]:
        """The keys `columns`, `formats`, `modes`, `sides` and `sizes` of the index."""
        self.fold()
        return {
            "columns": {name: self.columns[name].to_json() for name in sorted(self.columns)},
            "formats": {name: self.formats[name] for name in sorted(self.formats)},
            "modes": {name: self.modes[name] for name in sorted(self.modes)},
            "sides": {side: _lengths(self.sides[side]) for side in ("short", "long")},
            "sizes": {side: _lengths(self.sides[side]) for side in ("width", "height")},
        }

    @classmethod
    def from_json(cls, index: Mapping[str, Any]) -> Summary:
        """The inverse of `to_json`."""
        told = {**index["sides"], **index.get("sizes", {})}
        return cls(
            {name: Column.from_json(entry) for name, entry in index["columns"].items()},
            Counter(index["formats"]),
            Counter(index.get("modes", {})),  # not in indexes before modes and sizes were counted
            {side: Counter({int(length): n for length, n in told.get(side, {}).items()}) for side in SIDES},
        )


def _lengths(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(length): counts[length] for length in sorted(counts)}


def quantiles(sides: Mapping[int, int]) -> dict[str, int]:
    """The quantiles `SHARES` of counted sides, each the least side that such a share of the samples does not exceed; at
    least one is needed."""
    lengths = sorted(sides)
    reached = list(itertools.accumulate(sides[length] for length in lengths))
    return {
        name: lengths[bisect.bisect_left(reached, max(1, math.ceil(share * reached[-1])))]
        for name, share in SHARES.items()
    }
