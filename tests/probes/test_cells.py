"""Cells: S2's own answers, areas alike, partitions that keep their bounds; distances against known ones."""

from __future__ import annotations

import numpy as np
import pytest

from seerctl.probes.cells import DEEPEST, _at_level, degrees, face_places, haversine, partition, vectors


def everywhere(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return degrees(np.random.default_rng(seed).normal(size=(count, 3)))


def test_known_distances() -> None:
    one = np.array([48.8566, 0.0, 0.0, 10.0])
    lon = np.array([2.3522, 0.0, 0.0, 179.9])
    other, other_lon = np.array([51.5074, 0.0, 90.0, 10.0]), np.array([-0.1278, 180.0, 45.0, -179.9])
    quarter = np.pi * 6371 / 2
    found = haversine(one, lon, other, other_lon)
    assert found[0] == pytest.approx(343.6, abs=0.5)  # Paris to London
    np.testing.assert_allclose(found[1:3], [2 * quarter, quarter])
    assert found[3] == pytest.approx(np.radians(0.2) * np.cos(np.radians(10)) * 6371, rel=1e-3)  # over the date line
    lat, lon = everywhere(100)
    back = degrees(vectors(lat, lon) * 7)
    np.testing.assert_allclose(back, (lat, lon))


@pytest.mark.parametrize(
    # Places and the centres of their cells of level 10, by the library s2cell 1.8.0.
    ("place", "centre"),
    [
        ((48.8584, 2.2945), (48.89690278940146, 2.325314334259185)),
        ((-33.8568, 151.2153), (-33.84263528013314, 151.18693254847938)),
        ((40.6892, -74.0445), (40.68930334547207, -74.07700996520525)),
    ],
)
def test_cells_are_those_of_s2(place: tuple[float, float], centre: tuple[float, float]) -> None:
    lat, lon = np.array([place[0], centre[0]]), np.array([place[1], centre[1]])
    face, where = face_places(vectors(lat, lon))
    ij = _at_level(where, 10)
    assert face[0] == face[1]
    np.testing.assert_array_equal(ij[0], ij[1])
    np.testing.assert_allclose(where[1] * 1024 - ij[1], 0.5, atol=1e-6)


def test_cells_of_a_level_are_alike_in_area() -> None:
    face, place = face_places(vectors(*everywhere(200_000)))
    ij = _at_level(place, 2)
    counts = np.unique(face * 16 + ij[:, 0] * 4 + ij[:, 1], return_counts=True)[1]
    assert len(counts) == 96
    assert counts.max() / counts.min() < 2.1 * 1.1


def test_a_partition_keeps_its_bounds() -> None:
    lat, lon = everywhere(3000)
    lat[:1500] = 47 + np.random.default_rng(1).normal(size=1500)  # a crowd
    lon[:1500] = 8 + np.random.default_rng(2).normal(size=1500)
    found = partition(lat, lon, 20, 150)
    assert found.counts.min() >= 20
    assert found.counts.max() <= 150
    assert found.counts.sum() == (found.codes >= 0).sum()
    np.testing.assert_array_equal(np.bincount(found.codes[found.codes >= 0]), found.counts)
    levels = [level for _, level, _, _ in found.cells]
    assert max(levels) > min(levels) + 2  # fine where the crowd is
    np.testing.assert_array_equal(found.nearest(lat, lon), found.codes)
    for code in range(len(found)):
        mine = found.codes == code
        mean = vectors(lat[mine], lon[mine]).mean(0)
        off = haversine(*degrees(mean[None]), found.latitude[[code]], found.longitude[[code]])
        assert off[0] < 1e-3
    again = partition(lat[::-1], lon[::-1], 20, 150)
    assert again.cells == found.cells


def test_one_crowded_place_does_not_cut_forever() -> None:
    found = partition(np.full(40, 12.5), np.full(40, -7.25), 1, 10)
    assert len(found) == 1
    assert found.cells[0][1] == DEEPEST
