"""Geolocalisation from features: where on earth was it taken, and how many kilometres is the guess off?

Two ways of guessing. cells: the training pictures' places are cut into cells (see `cells`), a linear classifier tells
the cell, the guess is the mean place of its training pictures. nearest: the place of the most similar training picture
by cosine.

Metrics: acc_1km, acc_25km, acc_200km, acc_750km, acc_2500km (street, city, region, country, continent), the shares of
guesses at most that far off on a great circle (radius 6371 km), and median_km.

Sources: J. Hays, A. Efros, CVPR 2008 (Im2GPS); N. Vo et al., ICCV 2017 (the five distances, nearest neighbours).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seerctl.errors import InputError, UsageError
from seerctl.features.store import FeatureFile
from seerctl.files import atomic_write
from seerctl.probes.cells import EARTH_KM, Partition, haversine, partition
from seerctl.probes.classifier import PENALTIES, VALIDATION, fit_classifier
from seerctl.probes.knn import BANK_ROWS, neighbours, unit
from seerctl.probes.report import ALPHA, ProbeResult, make_report, metric
from seerctl.probes.task import Side, column_of, key_texts, open_pair, pair_warnings, say_all, side_of
from seerctl.stats import Floats, median_interval, wilson

DISTANCES = {1: "street", 25: "city", 200: "region", 750: "country", 2500: "continent"}
LEAST, MOST = 50, 1000
METRICS = ("acc_25km", *(f"acc_{km}km" for km in DISTANCES), "median_km")
Mode = Literal["cells", "nearest"]


@dataclass(frozen=True, slots=True, eq=False)
class GeoTask:
    """Two sides with places: labels are (N, 2) degrees, latitude and longitude."""

    train: Side
    test: Side
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class GeoResult(ProbeResult):
    """A finished probe. places: of each test row key, place, guess and distance, for a table."""

    places: Sequence[Mapping[str, Any]] = ()

    def save_places(self, path: Path) -> None:
        """Write the guesses as csv, whole or not at all."""
        with atomic_write(path, "w") as file:
            writer = csv.DictWriter(file, list(self.places[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.places)


def load_geo(train: Path, test: Path, latitude: str = "latitude", longitude: str = "longitude") -> GeoTask:
    """Two feature files with the columns `latitude` and `longitude`, in degrees; rows without a place are left out.

    Raises:
        UsageError: features of different models, no such column, or one of text.
        InputError: damaged files, non-finite features, degrees out of range, or no row with a place.
    """
    warnings: list[str] = []
    with open_pair(train, test) as (one, two):
        places = [_places(file, latitude, longitude) for file in (one, two)]
        sides = [
            side_of(file, place, np.isfinite(place[:, 0] + place[:, 1]), warnings)
            for file, place in zip((one, two), places, strict=True)
        ]
        warnings += pair_warnings(one, two, *sides)
    say_all(warnings)
    return GeoTask(sides[0], sides[1], tuple(warnings))


def _places(file: FeatureFile, latitude: str, longitude: str) -> Floats:
    """(N, 2) degrees; NaN where one is missing."""
    found = np.full((len(file), 2), np.nan)
    for axis, (name, most) in enumerate(((latitude, 90.0), (longitude, 180.0))):
        found[:, axis] = _numbers(file, name)
        wrong = np.abs(found[:, axis]) > most
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{file.path}: {int(wrong.sum())} rows have a '{name}' beyond {most:g} degrees, first "
                f"{found[row, axis]:g} of key {file.keys[row].decode('ascii', 'replace')}",
                "Give degrees, latitude from -90 to 90 and longitude from -180 to 180",
            )
    return found


def _numbers(file: FeatureFile, name: str) -> Floats:
    column = column_of(file, name)
    if column.categories is None:
        return column.values.astype(np.float64)
    try:
        numbers = np.array([*map(float, column.categories), np.nan])
    except ValueError as error:
        raise UsageError(
            f"{file.path}: '{name}' holds text, not degrees ({error})", "Name a column of numbers"
        ) from None
    if np.isinf(numbers).any():
        raise InputError(f"{file.path}: '{name}' holds an infinite number")
    return np.asarray(numbers[column.values])


def geo(
    task: GeoTask, mode: Mode = "cells", penalties: Sequence[float] = PENALTIES, *, least: int = LEAST,
    most: int = MOST, validation: float = VALIDATION, seed: int = 0, device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> GeoResult:  # fmt: skip
    """Guess the place of every test row. least, most: training pictures in a cell.

    Raises:
        UsageError: cells that cannot be: least or most below 1, or least beyond most.
        InputError: fewer than two cells.
    """
    if mode == "nearest":
        rows = _nearest(task, device, progress)
        guess, settings, codes = task.train.labels[rows], {"similarity": "cosine"}, None
    else:
        cells = learn_cells(task.train.labels, least, most)
        inside = cells.codes >= 0
        fitted = fit_classifier(
            task.train.features[inside], cells.codes[inside], len(cells), penalties,
            validation=validation, seed=seed, device=device, progress=progress,
        )  # fmt: skip
        codes = fitted.logits(task.test.features).argmax(1)
        guess = np.stack([cells.latitude, cells.longitude], axis=1)[codes]
        settings = {**fitted.settings, **_cell_settings(cells, least, most, inside)}
    off = haversine(*task.test.labels.T, *guess.T)
    report = make_report(
        "geo", {"mode": mode, "earth_km": EARTH_KM, "device": device, **settings}, metrics_of(off),
        {"train": task.train.origin, "test": task.test.origin}, warnings=task.warnings,
    )  # fmt: skip
    return GeoResult(report, places=_table(task.test, guess, off, codes))


def metrics_of(off: Floats) -> dict[str, Any]:
    """Shares of guesses within each distance, and the median, from kilometres (N,)."""
    n = len(off)
    found = {f"acc_{km}km": metric(wilson((off <= km).sum(), n, ALPHA), n) for km in DISTANCES}
    return {**found, "median_km": metric(median_interval(off, ALPHA), n, unit="km", better="lower")}


def learn_cells(places: Floats, least: int, most: int) -> Partition:
    """The cells of training places (N, 2) in degrees.

    Raises:
        UsageError: least or most below 1, or least beyond most. InputError: fewer than two cells.
    """
    if not 1 <= least <= most:
        raise UsageError(f"geo: cells of at least {least} and at most {most} pictures", "Write --least 50 --most 1000")
    found = partition(places[:, 0], places[:, 1], least, most)
    if len(found) < 2:
        raise InputError(
            f"geo: {len(places)} training pictures make {len(found)} cells of {least} to {most} pictures",
            "Lower --least and --most, or take --mode nearest",
        )
    return found


def _cell_settings(cells: Partition, least: int, most: int, inside: NDArray[np.bool_]) -> dict[str, Any]:
    levels = [level for _, level, _, _ in cells.cells]
    return {
        "cells": len(cells), "least": least, "most": most, "levels": [min(levels), max(levels)],
        "left_out": int((~inside).sum()),
    }  # fmt: skip


def _nearest(task: GeoTask, device: str, progress: Callable[[int], None] | None) -> NDArray[np.int64]:
    bank, found = unit(task.train.features, device), []
    step = max(1, (1 << 26) // min(BANK_ROWS, len(bank)))
    for start in range(0, len(task.test), step):
        queries = unit(task.test.features[start : start + step], device)
        found.append(neighbours(queries, bank, 1)[1][:, 0])
        if progress is not None:
            progress(len(queries))
    return np.concatenate(found)


def _table(side: Side, guess: Floats, off: Floats, codes: NDArray[Any] | None) -> list[dict[str, Any]]:
    rows = zip(key_texts(side.keys), side.labels.tolist(), guess.tolist(), off.tolist(), strict=True)
    return [
        {
            "key": key, "latitude": place[0], "longitude": place[1], "guessed_latitude": round(said[0], 6),
            "guessed_longitude": round(said[1], 6), "km": round(km, 3),
            **({} if codes is None else {"cell": int(codes[row])}),
        }
        for row, (key, place, said, km) in enumerate(rows)
    ]  # fmt: skip
