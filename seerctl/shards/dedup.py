"""`shard --dedup near`: a sample that looks like an earlier one is left out, as the stream comes.

A sample is compared with those that were kept, in the order of the stream: the result does not depend on the number of
processes, and a chain of small changes is broken where it drifts too far from what was kept. With `--split` the parts
are compared with each other too, or a picture and its copy could end up in both; with `--append` what stands there is
hashed first. Held in memory: about 60 bytes a kept sample, and the pictures in the hands of the workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

from seerctl.shards.duplicates import NearIndex
from seerctl.shards.index import ShardSet
from seerctl.shards.perceptual import HASHED, HashPool, hash_set
from seerctl.stream.records import Record, StreamEnd

_BATCH_ITEMS, _BATCH_BYTES = 64, 1 << 21


@dataclass(frozen=True, slots=True)
class Look:
    """The hash of one sample; None where it has none, and only the same bytes are a copy of it."""

    value: int | None


@dataclass(frozen=True, slots=True)
class Twin:
    """The kept sample that one is a copy of, and the differing bits of their hashes."""

    key: str
    distance: int


class NearFilter:
    """What was kept so far, and whether a sample is near any of it."""

    def __init__(self, distance: int, jobs: int | None = None) -> None:
        self._jobs = jobs
        self._index = NearIndex(distance)
        self._keys = bytearray()  # of the hashes by number, 12 bytes each
        self._unhashed: dict[str, str] = {}  # the content half of keys to the whole key
        self._pool = HashPool(jobs)

    def seed(self, shards: ShardSet) -> None:
        """Count every sample of a set that stands as kept."""
        hashes = hash_set(shards, self._jobs)
        for sample, value, state in zip(shards, hashes.values.tolist(), hashes.status.tolist(), strict=True):
            self.keep(sample.key, Look(value if state == HASHED else None))

    def look(self, items: Iterable[Record | StreamEnd]) -> Iterator[tuple[Record | StreamEnd, Look]]:
        """Every item with its hash, in order; end markers have none."""
        waiting: deque[list[Record | StreamEnd]] = deque()

        def batches() -> Iterator[list[bytes]]:
            for group in _groups(items):
                waiting.append(group)
                yield [item.image for item in group if isinstance(item, Record)]

        for hashes in self._pool.run(batches()):
            found = zip(hashes.values.tolist(), hashes.status.tolist(), strict=True)
            for item in waiting.popleft():
                value, state = next(found) if isinstance(item, Record) else (0, None)
                yield item, Look(value if state == HASHED else None)

    def twin(self, key: str, look: Look) -> Twin | None:
        """The nearest kept sample within the distance, if there is one."""
        if look.value is None:
            other = self._unhashed.get(key[:16])
            return None if other is None else Twin(other, 0)
        found = self._index.find(look.value)
        return None if found is None else Twin(self._key(found[0]), found[1])

    def keep(self, key: str, look: Look) -> None:
        """Remember a sample that was kept."""
        if look.value is None:
            self._unhashed.setdefault(key[:16], key)
        else:
            self._index.add(look.value)
            self._keys += bytes.fromhex(key.replace("-", ""))

    def _key(self, number: int) -> str:
        text = self._keys[12 * number : 12 * number + 12].hex()
        return f"{text[:16]}-{text[16:]}"

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def __enter__(self) -> NearFilter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _groups(items: Iterable[Record | StreamEnd]) -> Iterator[list[Record | StreamEnd]]:
    group: list[Record | StreamEnd] = []
    size = 0
    for item in items:
        group.append(item)
        size += len(item.raw) if isinstance(item, Record) else 0
        if len(group) >= _BATCH_ITEMS or size >= _BATCH_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
