"""Feature files and shard sets of pictures made without a model: small, quick, with known contents."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.features.layout import Header
from seerctl.features.writer import FeatureWriter, finish, part_of
from tests.pictures import draw
from tests.streams import meta_of, shards_of, stream_of

HEADER = Header("model", "a" * 64, "b" * 64, "avgpool", "pixels rgb-1", {"made_by": "extract", "batch": 64})


def key(number: int) -> str:
    """A key of our form that differs in both halves."""
    return f"{number:016x}-{number:08x}"


def header(**changes: Any) -> Header:
    """`HEADER` with some attributes changed."""
    fields = {name: getattr(HEADER, name) for name in HEADER.__slots__}
    return Header(**{**fields, **changes})


def write_features(
    path: Path,
    features: NDArray[Any],
    columns: Mapping[str, Sequence[Any]],
    *,
    start: int = 0,
    batch: int = 100,
    **changes: Any,
) -> Path:
    """A finished feature file: row i has key number `start` + i and the i-th value of each column."""
    made, rows = header(**changes), len(features)
    part = part_of(path)
    writer = FeatureWriter(part, made, rows=rows, dim=features.shape[1], dtype=features.dtype.name)
    for first in range(0, rows, batch):
        span = range(first, min(first + batch, rows))
        metadata = [{name: values[row] for name, values in columns.items()} for row in span]
        writer.append(features[span.start : span.stop], [key(start + row) for row in span], metadata)
    writer.close()
    finish(path, [part], made, rows)
    return path


def clouds(
    rows: int, classes: int = 3, dim: int = 16, seed: int = 0, spread: float = 1.0
) -> tuple[NDArray[np.float32], list[str]]:
    """Points around one centre for each class, and the names c0, c1, ... of their classes."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = generator.integers(0, classes, rows)
    points = centres[labels] + spread * generator.normal(size=(rows, dim))
    return points.astype(np.float32), [f"c{label}" for label in labels]


def pair(where: Path, *, rows: int = 300, test: int = 100, **cloud: Any) -> tuple[Path, Path]:
    """A training and a test file of one model, with the columns label and group."""
    paths = []
    for name, count, seed, start in (("train.h5", rows, 1, 0), ("test.h5", test, 2, rows)):
        points, labels = clouds(count, seed=seed, **cloud)
        groups = [("old", "young")[row % 2] for row in range(count)]
        paths.append(write_features(where / name, points, {"label": labels, "group": groups}, start=start))
    return paths[0], paths[1]


def picture_shards(where: Path, count: int, **options: Any) -> Path:
    """A shard set of `count` drawn pictures of several shapes, with the columns label, number and rare."""
    samples = []
    for number in range(count):
        file = io.BytesIO()
        draw(number, 40 + number % 3 * 8, 36 + number % 5 * 6).save(file, "JPEG", quality=90)
        columns = {"label": "xyz"[number % 3], "number": number / 2, **({"rare": "yes"} if number % 7 == 3 else {})}
        samples.append((file.getvalue(), meta_of(file.getvalue(), f"{number}.jpg", columns)))
    shards_of(where, stream_of(samples), **options)
    return where
