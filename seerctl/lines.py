"""The straight line through other models' accuracies under a shift, and how far a model lies above it.

Effective robustness: a model more accurate on clean pictures is expected to be more accurate on shifted ones, by a line
that other models lie on when both accuracies are drawn on the logit axis.

Source: R. Taori et al., arXiv 2007.00644.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seerctl.errors import InputError, UsageError
from seerctl.files import blame, read_json
from seerctl.stats import Estimate, Floats, t_quantile

MIN_BASELINES = 5


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


def above_line(line: Line, clean: Estimate, shifted: Estimate) -> Callable[[float], tuple[float, float]]:
    """Limits of `shifted` less what `line` expects at `clean`, by the level.

    The distances of three limits are combined by their root sum of squares: those of the shifted accuracy, of the
    clean one moved along the line, and of the line itself (Student's t). That clean and shifted accuracies are of the
    same rows would narrow them, and is left out.
    """
    expected = line.at(clean.value)
    middle = line.intercept + line.slope * logit(clean.value)

    def limits(alpha: float) -> tuple[float, float]:
        low, high = shifted.limits(alpha)
        along = sorted(line.at(limit) for limit in clean.limits(alpha))
        half = t_quantile(alpha, line.models - 2.0) * line.error(clean.value)
        under = math.hypot(expected - min(along[0], expected), expected - expit(middle - half))
        over = math.hypot(max(along[1], expected) - expected, expit(middle + half) - expected)
        value = shifted.value - expected
        return value - math.hypot(shifted.value - low, over), value + math.hypot(high - shifted.value, under)

    return limits
