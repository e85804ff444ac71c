"""Some samples of a shard set, numbered anew: what a run reads that leaves the others out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seerctl.shards.index import Sample, ShardSet


class Samples(Protocol):
    """What a reading plan runs over: a shard set, or a part of one."""

    @property
    def location(self) -> str:
        """Where the set lies."""

    @property
    def sha256(self) -> str:
        """The hash of the set's index."""

    def __len__(self) -> int: ...

    def read(self, position: int) -> Sample:
        """Sample `position`."""

    def ahead(
        self, steps: Iterable[int], wanted: Callable[[int], NDArray[np.int64]], last: int | None = None
    ) -> Iterator[int]:
        """`steps`, while what they read (on this machine `wanted(step)`, before step `last`) is fetched, if need be."""

    def close(self) -> None:
        """Close what is open."""


@dataclass(frozen=True, slots=True, eq=False)
class Subset:
    """The samples at `positions` (M,) int64, rising, of `shards`; its sample i is theirs at positions[i]."""

    shards: ShardSet
    positions: NDArray[np.int64]

    @property
    def location(self) -> str:
        """Where the whole set lies."""
        return self.shards.location

    @property
    def sha256(self) -> str:
        """The hash of the whole set's index."""
        return self.shards.sha256

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, position: int) -> Sample:
        """Sample `position` of the part.

        Raises:
            InputError: as `ShardSet.read`.
            IndexError: outside [0, len(self)).
        """
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)}")
        return self.shards.read(int(self.positions[position]))

    def ahead(
        self, steps: Iterable[int], wanted: Callable[[int], NDArray[np.int64]], last: int | None = None
    ) -> Iterator[int]:
        """`steps`, as the set's."""
        return self.shards.ahead(steps, lambda step: self.positions[wanted(step)], last)

    def __copy__(self) -> Subset:
        """The same samples through descriptors of their own, as a copy of a shard set has them."""
        return Subset(copy.copy(self.shards), self.positions)

    def close(self) -> None:
        """Close the shard files."""
        self.shards.close()
