"""Geolocalisation: guesses of planted places, accuracies by hand, missing and impossible coordinates."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from seerctl.errors import InputError, UsageError
from seerctl.probes.cells import haversine
from seerctl.probes.geo import geo, load_geo, metrics_of
from seerctl.probes.registry import run_protocol
from seerctl.stats import median_interval
from tests.feature_files import clouds, write_features

CITIES = np.array([[47.37, 8.54], [-33.86, 151.21], [19.43, -99.13], [1.35, 103.82]])


def file(where: Path, rows: int, seed: int, start: int, **changes: list[object]) -> Path:
    """Pictures of four cities, a few kilometres around each, that look alike within a city."""
    points, labels = clouds(rows, classes=4, seed=seed, spread=0.5)
    jitter = np.random.default_rng(seed + 10).normal(size=(rows, 2)) * 0.03
    places = CITIES[[int(label[1:]) for label in labels]] + jitter
    columns = {"latitude": places[:, 0].tolist(), "longitude": places[:, 1].tolist(), **changes}
    return write_features(where, points, columns, start=start)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return file(tmp_path / "a.h5", 200, 1, 0), file(tmp_path / "b.h5", 80, 2, 500)


@pytest.mark.parametrize("mode", ["cells", "nearest"])
def test_planted_places_are_found(mode: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    result = geo(load_geo(*files), mode, [1e-2], least=10, most=100)  # type: ignore[arg-type]
    metrics = result.report["metrics"]
    assert metrics["acc_200km"]["value"] > 0.97
    assert metrics["acc_25km"]["value"] > 0.9
    assert metrics["median_km"]["value"] < 10
    assert metrics["median_km"]["unit"] == "km"
    assert [m["low"] <= m["value"] <= m["high"] for m in metrics.values()] == [True] * 6
    result.save_places(tmp_path / "places.csv")
    with (tmp_path / "places.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 80
    off = np.array([float(row["km"]) for row in rows])
    assert metrics["acc_25km"]["value"] == pytest.approx((off <= 25).mean())
    by_hand = haversine(*(np.array([float(r[n]) for r in rows]) for n in (
        "latitude", "longitude", "guessed_latitude", "guessed_longitude")))  # fmt: skip
    np.testing.assert_allclose(off, by_hand, atol=1e-2)
    if mode == "cells":
        assert result.report["settings"]["cells"] == 4


def test_accuracies_and_median_by_hand() -> None:
    off = np.array([0.5, 1.0, 24.0, 26.0, 199.0, 800.0, 2400.0, 3000.0])
    found = metrics_of(off)
    assert [found[f"acc_{km}km"]["value"] for km in (1, 25, 200, 750, 2500)] == [2 / 8, 3 / 8, 5 / 8, 5 / 8, 7 / 8]
    assert found["median_km"]["value"] == 112.5
    assert (found["median_km"]["low"], found["median_km"]["high"]) == (0.5, 3000.0)  # (1, 8): 99.2 %; (2, 7): 93.0 %
    few = median_interval(np.array([1.0, 2.0, 3.0]))
    assert (few.low, few.high) == (-np.inf, np.inf)


def test_rows_without_a_place_are_left_out(tmp_path: Path, files: tuple[Path, Path]) -> None:
    holes = [None if row % 4 == 0 else 10.0 for row in range(80)]
    some = file(tmp_path / "c.h5", 80, 3, 900, longitude=holes)
    report = run_protocol("geo", {"train": files[0], "test": some}, None, {"mode": "nearest"}).report
    assert report["test"]["rows"] == 60
    assert "20 rows without a label are left out" in report["warnings"][0]
    texts = file(tmp_path / "d.h5", 80, 3, 900, latitude=["12.5", "-3"] * 40)
    assert len(load_geo(files[0], texts).test) == 80


def test_bad_input(tmp_path: Path, files: tuple[Path, Path]) -> None:
    far = file(tmp_path / "far.h5", 3, 3, 900, latitude=[1.0, 91.0, -95.0])
    with pytest.raises(InputError, match=r"2 rows have a 'latitude' beyond 90 degrees, first 91"):
        load_geo(files[0], far)
    words = file(tmp_path / "w.h5", 3, 3, 900, longitude=["east", "west", "east"])
    with pytest.raises(UsageError, match="'longitude' holds text, not degrees"):
        load_geo(files[0], words)
    with pytest.raises(UsageError, match=r"no column 'lat'. Known: latitude, longitude"):
        load_geo(*files, latitude="lat")
    with pytest.raises(InputError, match=r"200 training pictures make 0 cells of 500 to 1000.*--mode nearest"):
        geo(load_geo(*files), least=500)
    with pytest.raises(UsageError, match="at least 20 and at most 10"):
        geo(load_geo(*files), least=20, most=10)
    nowhere = file(tmp_path / "n.h5", 4, 3, 900, latitude=[None] * 4)
    with pytest.raises((InputError, UsageError), match=r"n.h5"):
        load_geo(files[0], nowhere)
