"""Pictures that look the same in two shard sets (a training against a test set), or within one: every pair by name."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from seerctl.shards.duplicates import DISTANCE, NearPairs, hash_set, near_pairs
from seerctl.shards.index import ShardSet
from seerctl.shards.perceptual import HASHED, ImageHashes
from seerctl.shards.setwriter import keys_of

_REMEMBERED = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The pairs between `one` and `two` (the same object: within it), by hash, and of pictures without one by bytes."""

    one: ShardSet
    two: ShardSet
    near: NearPairs
    same: list[tuple[int, int]]
    keys: tuple[list[bytes], list[bytes]]

    @property
    def count(self) -> int:
        """How many pairs."""
        return self.near.count + len(self.same)

    @property
    def concerned(self) -> int:
        """How many pictures of the second set are in a pair."""
        return len(self.near.nearest().keys() | {j for pair in self.same for j in (pair if self.within else pair[1:])})

    @property
    def within(self) -> bool:
        """Whether the pairs are within one set."""
        return self.one is self.two

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each pair: `key, source` in the first set, `other, other_source` in the second, the differing bits of their
        hashes, and whether their bytes are the same."""
        first, second = _sources(self.one), _sources(self.two)
        pairs = self.near.pairs()
        for i, j, distance in itertools.chain(pairs, ((i, j, 0) for i, j in self.same)):
            key, other = self.keys[0][i], self.keys[1][j]
            yield {
                "key": _text(key), "source": first(i), "other": _text(other), "other_source": second(j),
                "distance": distance, "same_bytes": key[:8] == other[:8],
            }  # fmt: skip


def find_pairs(
    one: ShardSet,
    two: ShardSet,
    distance: int = DISTANCE,
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Listing:
    """Every pair of pictures within `distance` bits; where `two` is `one`, those within it.

    Raises:
        InputError: a set is damaged.
        UsageError: so many pairs that they are no duplicates.
    """
    keys = list(keys_of(one))
    hashes = hash_set(one, jobs, progress)
    if two is one:
        return Listing(one, one, near_pairs(hashes, None, distance), _equal((keys, hashes), None), (keys, keys))
    others = list(keys_of(two)), hash_set(two, jobs, progress)
    near = near_pairs(hashes, others[1], distance)
    return Listing(one, two, near, _equal((keys, hashes), others), (keys, others[0]))


Side = tuple[list[bytes], ImageHashes]


def _equal(one: Side, two: Side | None) -> list[tuple[int, int]]:
    """Pairs of pictures without a hash whose bytes are the same."""
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in np.flatnonzero(one[1].status != HASHED).tolist():
        places[one[0][row][:8]].append(row)
    if two is None:
        return [pair for rows in places.values() for pair in itertools.combinations(rows, 2)]
    rows = np.flatnonzero(two[1].status != HASHED).tolist()
    return [(i, j) for j in rows for i in places.get(two[0][j][:8], ())]


def _text(packed: bytes) -> str:
    digits = packed.hex()
    return f"{digits[:16]}-{digits[16:]}"


def _sources(shards: ShardSet) -> Callable[[int], str]:
    @lru_cache(_REMEMBERED)
    def source(position: int) -> str:
        return str(shards.read(position).meta["source"])

    return source
