"""Shuffling at shard time in bounded memory: samples come out in the order of a keyed hash of their keys.

A sample's place depends on the seed and on its key alone: the same samples with the same seed give the same order,
however they came, and over all seeds every order of a set is equally likely as far as BLAKE2b is random. What does not
fit into memory is spilled: each spill is sorted by hash and dealt to `FANOUT` files by the hash's first bits, so that
the files follow each other in the final order and each is sorted by itself (a file too large for memory in the same
way, by the next bits). Every sample is written twice and read once; a spill is a piece of tar without its end.

Source: two-pass bucket shuffling, P. Sanders, "Random Permutations on Distributed, External and Hierarchical Memory",
Information Processing Letters 67 (1998) 305-309; the hash: RFC 7693.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seerctl.files import blame
from seerctl.shards.shardfile import aside
from seerctl.stream.ustar import MemberReader

FANOUT = 64
HASH = "blake2b-64"  # goes into the index: another hash would be another order
MEMORY = 1 << 30
_BITS = FANOUT.bit_length() - 1
_DEPTH = 64 // _BITS  # levels of files whose hashes still differ
_OVERHEAD = 200  # bytes of memory that a held sample costs besides its own
_KEY = 25


@dataclass(frozen=True, slots=True)
class Shuffle:
    """How to shuffle: `seed` chooses the order, `memory` (bytes of samples held at once) only the way to it."""

    seed: int = 0
    memory: int = MEMORY

    def place(self) -> Callable[[str], int]:
        """The 64-bit hash of a key, by which samples are ordered."""
        secret = str(self.seed).encode()

        def place(key: str) -> int:
            return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, key=secret).digest(), "big")

        return place


class Shuffler:
    """Takes samples (both members as they stand in a tar) in any order and gives them in the order of their hashes.

    Spills are called `<stem>-<hash prefix>.tar.tmp`; each is removed once it has been taken into memory.
    """

    def __init__(self, stem: Path, place: Callable[[str], int], memory: int, level: int = 0) -> None:
        self._stem, self._place, self._memory, self._level = stem, place, memory, level
        self._held: list[tuple[int, bytes]] = []
        self._size = 0
        self._spilled: set[int] = set()

    def add(self, key: str, raw: bytes) -> None:
        """Take one sample.

        Raises:
            EnvironmentFault: no room to spill to.
        """
        cost = len(raw) + _OVERHEAD
        if self._held and self._size + cost > self._memory and self._level < _DEPTH:
            self._spill()
        self._held.append((self._place(key), raw))
        self._size += cost

    def drain(self) -> Iterator[bytes]:
        """Every sample, in order; nothing is left behind.

        Raises:
            EnvironmentFault: no room to spill to.
            InputError: a spill is not what was written.
        """
        if self._spilled:
            self._spill()
            for bucket in sorted(self._spilled):
                yield from self._drain_bucket(bucket)
            return
        self._held.sort(reverse=True)
        while self._held:
            yield self._held.pop()[1]
        self._size = 0

    def _drain_bucket(self, bucket: int) -> Iterator[bytes]:
        path = self._path(bucket)
        inner = Shuffler(path.with_suffix(""), self._place, self._memory, self._level + 1)
        with blame(path), aside(path).open("rb", buffering=0) as file:
            members = MemberReader(file, str(aside(path)))
            while not members.at_end():
                picture, text = members.read_member(), members.read_member()
                assert picture is not None
                assert text is not None
                inner.add(picture[0][:_KEY], picture[2] + text[2])
        aside(path).unlink()
        yield from inner.drain()

    def _spill(self) -> None:
        """Deal what is held to the files of its hashes' bits."""
        self._held.sort()
        shift = 64 - _BITS * (self._level + 1)
        at = 0
        while at < len(self._held):
            bucket = (self._held[at][0] >> shift) % FANOUT
            end = at
            while end < len(self._held) and (self._held[end][0] >> shift) % FANOUT == bucket:
                end += 1
            path = self._path(bucket)
            with blame(path), aside(path).open("ab" if bucket in self._spilled else "wb") as file:
                file.writelines(raw for _, raw in self._held[at:end])
            self._spilled.add(bucket)
            at = end
        self._held.clear()
        self._size = 0

    def _path(self, bucket: int) -> Path:
        return self._stem.with_name(f"{self._stem.name}-{bucket:02d}.tar")
