"""Places on the globe: vectors, great-circle distances, and cells that are small where there are many pictures.

The cells are those of S2's definition: the sphere is projected onto the six faces of a cube, and each face is cut into
quarters again and again; S2's quadratic projection makes cells of one level alike in area within a factor of 2.1. A
cell is named by its face, its level and its place (i, j) on the face at that level.

An adaptive partition starts from the six faces and quarters every cell that holds more than `most` pictures; cells with
fewer than `least` are dropped and their pictures not learnt from. SEER's geolocalisation was trained on three such
partitions, of 3298, 7202 and 12893 cells.

Sources: S2 Geometry (s2geometry.io), "S2 Cells" (projection); T. Weyand et al., ECCV 2016 (PlaNet, adaptive cells);
E. Mueller-Budack et al., ECCV 2018 (the three partitions).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seerctl.stats import Floats

EARTH_KM = 6371.0
DEEPEST = 30  # level of S2's smallest cells, about a square centimetre
Cell = tuple[int, int, int, int]  # face, level, i, j


def vectors(latitude: Floats, longitude: Floats) -> Floats:
    """(N, 3) points on the unit sphere of degrees (N,)."""
    lat, lon = np.radians(latitude), np.radians(longitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def degrees(points: Floats) -> tuple[Floats, Floats]:
    """Latitudes and longitudes (N,) of vectors (N, 3) of any length."""
    return (
        np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))),
        np.degrees(np.arctan2(points[:, 1], points[:, 0])),
    )


def haversine(lat1: Floats, lon1: Floats, lat2: Floats, lon2: Floats) -> Floats:
    """Great-circle distances in km of points in degrees, on a sphere of radius 6371 km."""
    one, two = np.radians(lat1), np.radians(lat2)
    across = np.radians(np.asarray(lon2) - np.asarray(lon1))
    a = np.sin((two - one) / 2.0) ** 2 + np.cos(one) * np.cos(two) * np.sin(across / 2.0) ** 2
    return np.asarray(2.0 * EARTH_KM * np.arcsin(np.sqrt(np.clip(a, 0.0, 1.0))))


def face_places(points: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The face (N,) of each unit vector (N, 3), and its place (N, 2) on it, 0 to 1 each way (S2's s and t).

    Faces 0, 1, 2 are those around +x, +y, +z, faces 3, 4, 5 those around -x, -y, -z.
    """
    axis = np.abs(points).argmax(1)
    rows = np.arange(len(points))
    depth = points[rows, axis]
    face = axis + np.where(depth < 0, 3, 0)
    x, y, z = (points / depth[:, None]).T
    # https://github.com/google/s2geometry/blob/master/src/s2/s2coords.h (ValidFaceXYZtoUV)
    u = np.choose(face, [y, -x, -x, z, z, -y])
    v = np.choose(face, [z, z, -y, y, -x, -x])
    uv = np.stack([u, v], axis=1)
    return face.astype(np.int64), _quadratic(uv)


def _quadratic(uv: Floats) -> Floats:
    grown = 0.5 * np.sqrt(1.0 + 3.0 * np.abs(uv))
    return np.where(uv >= 0, grown, 1.0 - grown)


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """Cells learnt from pictures: names, how many pictures each holds, and the mean place of those, in degrees.

    codes: (N,) the cell of each picture it was learnt from, -1 for a dropped one.
    """

    cells: tuple[Cell, ...]
    counts: NDArray[np.int64]
    latitude: Floats
    longitude: Floats
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cells)

    def nearest(self, latitude: Floats, longitude: Floats) -> NDArray[np.int64]:
        """(N,) the cell that each place lies in, -1 where it lies in none."""
        face, place = face_places(vectors(latitude, longitude))
        found = np.full(len(face), -1, dtype=np.int64)
        levels = sorted({level for _, level, _, _ in self.cells})
        known = {cell: code for code, cell in enumerate(self.cells)}
        for level in levels:
            ij = _at_level(place, level)
            for row in np.flatnonzero(found < 0):
                found[row] = known.get((int(face[row]), level, int(ij[row, 0]), int(ij[row, 1])), -1)
        return found


def partition(latitude: Floats, longitude: Floats, least: int, most: int) -> Partition:
    """Cells of at most `most` and at least `least` of the pictures at these degrees (N,)."""
    points = vectors(latitude, longitude)
    face, place = face_places(points)
    codes = np.full(len(face), -1, dtype=np.int64)
    cells: list[Cell] = []
    for cell, rows in _leaves(face, place, most):
        if len(rows) >= least:
            codes[rows] = len(cells)
            cells.append(cell)
    inside = codes >= 0
    sums = np.stack([np.bincount(codes[inside], points[inside, axis], len(cells)) for axis in range(3)], axis=1)
    lat, lon = degrees(sums.astype(np.float64))
    return Partition(tuple(cells), np.bincount(codes[inside], minlength=len(cells)), lat, lon, codes)


def _leaves(face: NDArray[np.int64], place: Floats, most: int) -> Iterator[tuple[Cell, NDArray[np.intp]]]:
    """Cells in the order of their names, with the rows in them: at most `most`, but for cells of the deepest level."""
    waiting = [((int(one), 0, 0, 0), np.flatnonzero(face == one)) for one in range(5, -1, -1)]
    while waiting:
        (one, level, i, j), rows = waiting.pop()
        if not len(rows):
            continue
        if len(rows) <= most or level == DEEPEST:
            yield (one, level, i, j), rows
            continue
        inside = _at_level(place[rows], level + 1)
        for a in (1, 0):
            for b in (1, 0):
                here = (inside[:, 0] == 2 * i + a) & (inside[:, 1] == 2 * j + b)
                waiting.append(((one, level + 1, 2 * i + a, 2 * j + b), rows[here]))


def _at_level(place: Floats, level: int) -> NDArray[np.int64]:
    """(N, 2) where places (N, 2) lie among the 2^level steps of each side."""
    steps = 1 << level
    return np.clip((place * steps).astype(np.int64), 0, steps - 1)
