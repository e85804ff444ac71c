"""Feature files as one vector of length 1 a picture: regions summed, whitened where asked, ready to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.columns import Column
from seerctl.errors import InputError
from seerctl.features.store import FeatureFile
from seerctl.probes.task import open_pair, origin_of
from seerctl.probes.whitening import FLOOR, Features, Whitening, descriptors, region_vectors


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """One feature file: vectors (N, K) float32 of length 1, keys (N,) bytes, metadata, what a report says of it."""

    path: Path
    vectors: Features
    keys: NDArray[np.bytes_]
    columns: Mapping[str, Column]
    origin: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """A whitening, and what a report says of the features that it was learnt on."""

    whitening: Whitening
    keys: NDArray[np.bytes_]
    origin: Mapping[str, Any]


def learn_whitening(path: Path, like: Path, components: int) -> Learnt:
    """Whitening of (the regions of) the features in `path`, which have to be made as those in `like` are.

    Raises:
        UsageError: features of different models, layers or preprocessing.
        InputError: a file that is no feature file, non-finite features, or features that do not differ.
    """
    with open_pair(like, path) as (_, file):
        regions = regions_of(file)
        vectors = region_vectors(finite(file), regions)
        there = vectors.any(axis=1) | (regions == 1)  # whole pictures are filled up with regions of zeros
        found = Whitening.fit(vectors if there.all() else vectors[there], components)
        return Learnt(found, file.keys, origin_of(file, len(file)))


def load_vectors(path: Path, like: Path | None = None, learnt: Learnt | None = None) -> Vectors:
    """The vectors of a feature file, which have to be made as those in `like` are.

    Only the vectors are held: a file of a million pictures with regions needs no more memory than its result.

    Raises:
        UsageError: features of different models, layers or preprocessing.
        InputError: a file that is no feature file, or non-finite features.
    """
    with open_pair(like or path, path) as (_, file):
        regions = regions_of(file)
        blocks = [
            descriptors(_finite_block(file, block), regions, None if learnt is None else learnt.whitening)
            for block in file.blocks()
        ]
        return Vectors(path, np.concatenate(blocks), file.keys, file.columns, origin_of(file, len(file)))


def finite(file: FeatureFile) -> Features:
    """All features of a file.

    Raises:
        InputError: some are not finite.
    """
    return _finite_block(file, file.features())


def _finite_block(file: FeatureFile, block: Features) -> Features:
    if not np.isfinite(block).all():
        raise InputError(f"{file.path}: some rows have non-finite features", "Extract it again")
    return block


def regions_of(file: FeatureFile) -> int:
    """How many vectors a row of the file holds: 1, or the regions of a layer such as `res4:regions3`."""
    return max(1, file.header.regions)


def whitening_settings(learnt: Learnt | None, asked: int) -> dict[str, Any]:
    """What a report says of the whitening."""
    if learnt is None:
        return {"whitening": None}
    return {"whitening": {"components": learnt.whitening.components, "asked": asked, "floor": FLOOR}}


def whitening_warnings(learnt: Learnt | None, asked: int, *sides: Vectors) -> list[str]:
    """What makes a whitening doubtful: fewer directions than asked for, or learnt on what is searched."""
    if learnt is None:
        return []
    found = []
    if learnt.whitening.components < asked:
        found.append(
            f"whitening: {learnt.whitening.components} components instead of {asked}, from "
            f"{learnt.origin['rows']} pictures of {learnt.origin['dim']} values"
        )
    shared = int(np.isin(np.concatenate([side.keys for side in sides]), learnt.keys).sum())
    if shared:
        found.append(f"whitening: {shared} pictures that it was learnt on are searched for or among")
    return found


def own_rows(queries: Vectors, index: Vectors) -> NDArray[np.intp]:
    """(Q,) of each query the row of the index with its key, or -1."""
    place = {bytes(key): row for row, key in enumerate(index.keys)}
    return np.array([place.get(bytes(key), -1) for key in queries.keys], dtype=np.intp)
