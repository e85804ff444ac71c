"""Pictures that look the same: every pair of 64-bit hashes within a Hamming distance, exactly, in bounded memory.

Search: the 64 bits are dealt into `distance` + 2 bands, of which at least two are equal in any pair within `distance`
(each differing bit spoils one band at most). For every two bands the hashes are sorted by their bits, and only those
equal in both are compared: 15 tables with keys of 20 to 22 bits for distance 4. Hashes of real pictures cluster, so
equal hashes are taken together first, and a bucket that is still large is searched in the same way by its other bits.
A pair counts in the first table that shows it, so that nothing has to be remembered to report it once.

`NearIndex` answers one hash at a time, for `shard --dedup near`: `distance` + 1 bands, of which one is equal.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seerctl.errors import UsageError
from seerctl.shards.perceptual import Hash64, ImageHashes, hash_set, image_hash

__all__ = ["DISTANCE", "Groups", "ImageHashes", "NearIndex", "NearPairs", "hash_set", "image_hash", "near_pairs"]

DISTANCE = 4
MAX_DISTANCE = 14
MAX_PAIRS = 50_000_000  # of distinct hashes: 17 bytes each
_BRUTE = 512  # members that are simply compared with each other
_SHIFTED = 256  # members of buckets that are compared all at once
_BLOCK = 1 << 21  # comparisons at once

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Positions by distinct hash: those of hash u are order[starts[u] : starts[u + 1]], ascending."""

    order: Rows
    starts: Rows

    @property
    def sizes(self) -> Rows:
        """(U,) how many positions have each hash."""
        return np.diff(self.starts)

    def of(self, value: int) -> Rows:
        """The positions that have hash number `value`."""
        return self.order[self.starts[value] : self.starts[value + 1]]


@dataclass(frozen=True, slots=True, eq=False)
class NearPairs:
    """Every pair within the distance, by distinct hash.

    values: (U,) uint64, ascending. left, right: (P,) indices into `values`, left < right, of different hashes that are
    near; distance: (P,) uint8. one, two: the positions that have each hash, in the first and in the second set (the
    same object when there is but one): positions of one hash are pairs at distance 0 without being listed.
    """

    values: Hash64
    left: Rows
    right: Rows
    distance: NDArray[np.uint8]
    one: Groups
    two: Groups

    @property
    def count(self) -> int:
        """The number of pairs of positions, those at distance 0 included."""
        a, b = self.one.sizes, self.two.sizes
        if self.one is self.two:
            return int((a * (a - 1) // 2).sum() + (a[self.left] * a[self.right]).sum())
        return int((a * b).sum() + (a[self.left] * b[self.right] + a[self.right] * b[self.left]).sum())

    def pairs(self) -> Iterator[tuple[int, int, int]]:
        """(position in the first set, in the second, distance) of every pair; with one set, the lower position first.

        A hash that n positions share gives n * n pairs: look at `count` before asking for all.
        """
        single = self.one is self.two
        for value in np.flatnonzero((self.one.sizes > 0) & (self.two.sizes > single)).tolist():
            mine, other = self.one.of(value).tolist(), self.two.of(value).tolist()
            couples = itertools.combinations(mine, 2) if single else itertools.product(mine, other)
            yield from ((i, j, 0) for i, j in couples)
        for left, right, distance in zip(self.left.tolist(), self.right.tolist(), self.distance.tolist(), strict=True):
            for a, b in ((left, right),) if single else ((left, right), (right, left)):
                for i, j in itertools.product(self.one.of(a).tolist(), self.two.of(b).tolist()):
                    yield (min(i, j), max(i, j), distance) if single else (i, j, distance)

    def nearest(self) -> dict[int, tuple[int, int]]:
        """For each position of the second set with a near one in the first: (that position, distance).

        The nearest; of several the first hash in order, then the lowest position. With one set a position's own does
        not count.
        """
        best = np.full(len(self.values), 255, np.uint8)
        other = np.full(len(self.values), -1, np.int64)
        here = self.one.sizes > (1 if self.one is self.two else 0)
        best[here], other[here] = 0, np.flatnonzero(here)
        there = self.one.sizes > 0
        for mine, near in ((self.left, self.right), (self.right, self.left)):
            usable = np.flatnonzero(there[near] & (self.distance < best[mine]))
            order = usable[np.lexsort((near[usable], self.distance[usable]))][::-1]
            best[mine[order]], other[mine[order]] = self.distance[order], near[order]  # the last write is the nearest
        found: dict[int, tuple[int, int]] = {}
        for value in np.flatnonzero((other >= 0) & (self.two.sizes > 0)).tolist():
            candidates = self.one.of(int(other[value]))
            for position in self.two.of(value).tolist():
                own = self.one is self.two and candidates[0] == position
                found[position] = (int(candidates[1 if own else 0]), int(best[value]))
        return dict(sorted(found.items()))


def near_pairs(
    a: Hash64 | ImageHashes, b: Hash64 | ImageHashes | None = None, distance: int = DISTANCE, limit: int = MAX_PAIRS
) -> NearPairs:
    """Every pair of hashes within `distance` bits: within `a`, or between `a` and `b`.

    Of `ImageHashes` only pictures that have a hash take part; positions are always those in the whole set.

    Raises:
        UsageError: more than `limit` pairs of distinct hashes.
        ValueError: a distance outside 0 to `MAX_DISTANCE`.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"a distance of {distance} bits is not within 0 to {MAX_DISTANCE}")
    one = _positions(a)
    two = one if b is None else _positions(b)
    values = np.unique(one[0]) if b is None else np.unique(np.concatenate((one[0], two[0])))
    first = _grouped(values, *one)
    second = first if b is None else _grouped(values, *two)
    sides = None if b is None else (first.sizes > 0, second.sizes > 0)
    hits = _Hits(limit, sides)
    if distance:
        _search(values, distance, hits)
    return NearPairs(values, *hits.finish(), first, second)


def _positions(hashes: Hash64 | ImageHashes) -> tuple[Hash64, Rows]:
    if isinstance(hashes, ImageHashes):
        rows = np.flatnonzero(hashes.valid)
        return hashes.values[rows], rows
    values = np.asarray(hashes, dtype=np.uint64)
    return values, np.arange(len(values))


def _grouped(values: Hash64, hashes: Hash64, rows: Rows) -> Groups:
    order = np.argsort(hashes, kind="stable")
    return Groups(rows[order], np.append(np.searchsorted(hashes[order], values), len(hashes)))


class _Hits:
    """Pairs as they are found; `sides`: which distinct hashes the first and the second set have."""

    def __init__(self, limit: int, sides: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None) -> None:
        self._limit, self._sides = limit, sides
        self._found: list[tuple[Rows, Rows, NDArray[np.uint8]]] = []
        self._count = 0

    def add(self, left: Rows, right: Rows, distance: NDArray[np.uint8]) -> None:
        """Take pairs of rows.

        Raises:
            UsageError: they are too many.
        """
        if self._sides is not None:
            one, two = self._sides
            across = (one[left] & two[right]) | (one[right] & two[left])
            left, right, distance = left[across], right[across], distance[across]
        self._count += len(left)
        if self._count > self._limit:
            raise UsageError(
                f"more than {self._limit:,} pairs of different hashes are near each other",
                "These pictures are too alike for this distance: ask for a smaller one",
            )
        if len(left):
            self._found.append((np.minimum(left, right), np.maximum(left, right), distance))

    def finish(self) -> tuple[Rows, Rows, NDArray[np.uint8]]:
        """Everything found, in the order of the rows."""
        if not self._found:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8)
        left, right, distance = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        self._found.clear()
        order = np.lexsort((right, left))
        return left[order], right[order], distance[order]


@dataclass(frozen=True, slots=True)
class _Table:
    """One way to look at a search: equality in bands `first` and `second` of `bands` (masks)."""

    bands: tuple[int, ...]
    first: int
    second: int

    @property
    def mask(self) -> int:
        """The bits that have to be equal."""
        return self.bands[self.first] | self.bands[self.second]

    def is_first(self, different: Hash64) -> NDArray[np.bool_]:
        """Which pairs, by their differing bits, are equal in no band before these two: the others are found there."""
        alone = np.ones(len(different), np.bool_)
        for number, band in enumerate(self.bands[: self.second]):
            if number != self.first:
                alone &= (different & np.uint64(band)) != 0
        return alone


def _search(values: Hash64, distance: int, hits: _Hits) -> None:
    """Give `hits` every pair of the distinct `values` within `distance`."""
    tasks: list[tuple[Rows, int, tuple[_Table, ...]]] = [(np.arange(len(values)), 2**64 - 1, ())]
    while tasks:
        rows, free, above = tasks.pop()
        if len(rows) <= _BRUTE:
            _compare_all(values, rows, distance, above, hits)
            continue
        bands = deal_bits(free, distance + 2)
        for first, second in itertools.combinations(range(len(bands)), 2):
            table = _Table(bands, first, second)
            for large in _bucketed(values, rows, distance, (*above, table), hits):
                tasks.append((large, free & ~table.mask, (*above, table)))


def deal_bits(free: int, count: int) -> tuple[int, ...]:
    """Masks of `count` bands over the set bits of `free`, dealt in turn: neighbouring frequencies go together."""
    bits = [bit for bit in range(64) if free >> bit & 1]
    return tuple(sum(1 << bit for bit in bits[band::count]) for band in range(count))


def _bucketed(values: Hash64, rows: Rows, distance: int, tables: tuple[_Table, ...], hits: _Hits) -> Iterator[Rows]:
    """Compare what the last of `tables` shows as equal; the buckets too large for that are given back."""
    keys = values[rows] & np.uint64(tables[-1].mask)
    order = np.argsort(keys)
    keys, rows = keys[order], rows[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    sizes = np.diff(np.append(starts, len(rows)))
    small = np.flatnonzero((sizes > 1) & (sizes <= _SHIFTED))
    after = np.repeat(starts[small] + sizes[small], sizes[small])
    member = np.arange(len(after)) - np.repeat(np.cumsum(sizes[small]) - sizes[small], sizes[small])
    member += np.repeat(starts[small], sizes[small])
    _compare_shifted(values, rows, member, after, distance, tables, hits)
    for bucket in np.flatnonzero(sizes > _SHIFTED).tolist():
        members = rows[starts[bucket] : starts[bucket] + sizes[bucket]]
        if len(members) <= _BRUTE:
            _compare_all(values, members, distance, tables, hits)
        else:
            yield members


def _compare_shifted(
    values: Hash64, rows: Rows, member: Rows, after: Rows, distance: int, tables: tuple[_Table, ...], hits: _Hits
) -> None:
    """Compare each member (a place in `rows`) with the next, the one after, and so on to the end of its bucket."""
    step = 1
    while True:
        going = member + step < after
        member, after = member[going], after[going]
        if not len(member):
            return
        for begin in range(0, len(member), _BLOCK):
            here = member[begin : begin + _BLOCK]
            _check(values, rows[here], rows[here + step], distance, tables, hits)
        step += 1


def _compare_all(values: Hash64, rows: Rows, distance: int, tables: tuple[_Table, ...], hits: _Hits) -> None:
    """Compare all of `rows` (`_BRUTE` at most) with each other."""
    left, right = np.triu_indices(len(rows), 1)
    _check(values, rows[left], rows[right], distance, tables, hits)


def _check(values: Hash64, left: Rows, right: Rows, distance: int, tables: tuple[_Table, ...], hits: _Hits) -> None:
    different = values[left] ^ values[right]
    bits = popcount(different)
    near = np.flatnonzero(bits <= distance)
    if len(near):
        different = different[near]
        for table in tables:
            kept = table.is_first(different)
            near, different = near[kept], different[kept]
        hits.add(left[near], right[near], bits[near])


def _count_bits(values: Hash64) -> NDArray[np.uint8]:
    """Set bits of each value, for a numpy without `bitwise_count` (before 2.0)."""
    m1, m2, m4 = (np.uint64(mask) for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    values = values - ((values >> np.uint64(1)) & m1)
    values = (values & m2) + ((values >> np.uint64(2)) & m2)
    values = (values + (values >> np.uint64(4))) & m4
    return np.asarray((values * np.uint64(0x0101010101010101)) >> np.uint64(56), dtype=np.uint8)


popcount = getattr(np, "bitwise_count", _count_bits)


class NearIndex:
    """Hashes that came, asked one by one: is one within `distance` of this? About 45 bytes a hash, for distance 4."""

    def __init__(self, distance: int = DISTANCE) -> None:
        self.distance = distance
        self._masks = deal_bits(2**64 - 1, distance + 1)
        self._tables: list[dict[int, array[int]]] = [{} for _ in self._masks]
        self._values = np.empty(1024, np.uint64)
        self.count = 0

    def find(self, value: int) -> tuple[int, int] | None:
        """(number, distance) of the nearest hash within the distance, the earliest of several; None for none."""
        best: tuple[int, int] | None = None
        wanted = np.uint64(value)
        for mask, table in zip(self._masks, self._tables, strict=True):
            bucket = table.get(value & mask)
            if bucket is None:
                continue
            numbers = np.frombuffer(bucket, dtype=np.uint32)
            bits = popcount(self._values[numbers] ^ wanted)
            closest = int(bits.argmin())
            if bits[closest] <= self.distance:
                found = int(bits[closest]), int(numbers[closest])
                best = found if best is None else min(best, found)
        return None if best is None else (best[1], best[0])

    def add(self, value: int) -> int:
        """Remember a hash; its number, counted from 0."""
        if self.count == len(self._values):
            self._values = np.concatenate((self._values, np.empty_like(self._values)))
        self._values[self.count] = value
        for mask, table in zip(self._masks, self._tables, strict=True):
            table.setdefault(value & mask, array("I")).append(self.count)
        self.count += 1
        return self.count - 1
