"""A shard set at a URL as a `ShardSet`: its shards are fetched into the cache when they are wanted.

Two ways, and why. The reading plan shuffles blocks of 64 samples over the whole set, so that a window of it touches
nearly every shard: whole shards are worth fetching only if all of them stay. A set that fits into the cache is fetched
shard by shard, each once, and proved by the SHA-256 of the index. Of a larger one, training asks for just the runs of
consecutive samples that the next steps of this machine read (range requests), each proved by the samples' own hashes:
every byte comes about once an epoch, whatever the cache holds. Who reads in the order of the index (extraction,
columns, checks) gets whole shards, the next one ahead.
"""

from __future__ import annotations

import array
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seerctl.errors import InputError, SeerctlError, UsageError
from seerctl.files import blame
from seerctl.shards.index import INDEX, OpenShard, Sample, ShardSet, parse_index, parse_sample, selected
from seerctl.shards.plan import Positions
from seerctl.shards.remote.ahead import Ahead, Cutter
from seerctl.shards.remote.cache import Cache
from seerctl.shards.remote.fetching import Fetching
from seerctl.shards.remote.options import SIZE, cache_options
from seerctl.shards.remote.origin import Origin
from seerctl.shards.remote.place import Place, named_shards
from seerctl.shards.shardfile import idx_path

_OPEN_SHARDS = 8  # a shard that is removed from the cache keeps its room until it is closed
_TRIES = 20  # to open a file before others need its room
_KNOWN = 1 << 14  # runs of samples whose offsets are held
_RAISE = f"Raise data.cache_size, or {SIZE}"


class RemoteSet(ShardSet):
    """A shard set opened for reading; as its base, it can be forked, pickled and copied for another thread."""

    def __init__(self, url: str) -> None:
        """Fetch the index at `url`.

        Raises:
            InputError: there is none, or it is damaged.
            EnvironmentFault: it cannot be had.
            UsageError: a shard is larger than the cache may be, or braces name no shards of the set.
        """
        folder, names = named_shards(url)
        origin, cache = Origin(Place.of(folder)), Cache(cache_options())
        index, sha256 = parse_index(origin.read(INDEX), origin.place.printed(INDEX))
        kept = cache.options.directory / sha256[:16]
        super().__init__(kept / INDEX, selected(index, sha256, names, origin.place.printed()))
        self.where = url
        self.location = origin.place.printed() + url.rpartition("/")[2] if names else origin.place.printed()
        self.open_shards = _OPEN_SHARDS
        self.files = Fetching(cache, origin, kept.name, self.index["shardlist"])
        self._plan: Ahead | None = None
        self._known: dict[tuple[int, tuple[int, int]], array.array[int]] = {}
        self._next: threading.Thread | None = None
        largest = max((self.files.bytes_of(number) for number in range(len(self.files.entries))), default=0)
        if largest > cache.options.size:
            raise UsageError(
                f"{self.location}: a shard of {largest:,} bytes, and the cache may hold {cache.options.size:,}", _RAISE
            )

    def shard_path(self, number: int) -> Path:
        """Shard `number` in the cache, its offsets beside it.

        Raises:
            InputError: it is missing at its place, or not that of the index.
            EnvironmentFault: it cannot be had, or the disk is full.
        """
        self.files.shard(number)
        return self.files.path(number)

    def read(self, position: int) -> Sample:
        """Sample `position` in the order of the index.

        Raises:
            InputError, EnvironmentFault: as `shard_path`.
            IndexError: outside [0, len(self)).
        """
        if self._plan is None or self._plan.whole:
            return super().read(position)
        number, inside = self.locate(position)
        span = self._inside(number, *self._plan.holding(position))
        places = self._places(number, span)
        start, end = places[inside - span[0]], places[inside - span[0] + 1]
        path = self.files.span_path(number, span)
        damaged = False
        for _ in range(_TRIES):
            try:
                with blame(path), open(path, "rb", buffering=0) as file:  # noqa: PTH123  (a tenth of the time)
                    raw = os.pread(file.fileno(), end - start, start - places[0])
                return parse_sample(raw, path, start)
            except FileNotFoundError:
                self.files.span(number, span)
            except InputError:  # proved when it came: a power cut, or a disk that fails
                if damaged:
                    raise
                damaged = True
                os.unlink(path)  # noqa: PTH108
        raise InputError(f"{self.location}: the cache is too small for all that read from it", _RAISE)

    def _places(self, number: int, span: tuple[int, int]) -> array.array[int]:
        """The offsets of a run of samples, those of the latest runs by heart."""
        key = (number, span)
        if key not in self._known:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[key] = self.files.places(number, span)
        return self._known[key]

    def _inside(self, number: int, first: int, end: int) -> tuple[int, int]:
        """Samples of the set as samples of the shard that they are in."""
        return first - self._starts[number], end - self._starts[number]

    def _open_shard(self, number: int) -> OpenShard:
        for turn in range(_TRIES):
            path = self.shard_path(number)
            try:
                shard = OpenShard(path, self.files.entries[number])
            except InputError:  # others may have needed its room meanwhile
                if turn == _TRIES - 1 or (path.exists() and idx_path(path).exists()):
                    raise
            else:
                break
        if self._plan is None:
            self._fetch_next(number + 1)
        return shard

    def _fetch_next(self, number: int) -> None:
        """Begin to fetch the shard after the one that is read, where the cache has room for both and one more."""
        busy = self._next is not None and self._next.is_alive()
        if busy or number >= len(self.files.entries) or self.files.path(number).exists():
            return
        if 3 * self.files.bytes_of(number) <= self.files.cache.options.size:
            self._next = threading.Thread(target=self._fetch_quietly, args=(number,), name="read-ahead", daemon=True)
            self._next.start()

    def _fetch_quietly(self, number: int) -> None:
        with contextlib.suppress(SeerctlError):  # whoever reads it meets the fault
            self.files.shard(number, wait=False)

    def ahead(self, steps: Iterable[int], wanted: Callable[[int], Positions], last: int | None = None) -> Iterator[int]:
        """`steps`, each when what it reads on this machine (`wanted(step)`: samples) and the next is on its way.

        `last`: no step comes from it on.
        """
        total = sum(map(self.files.bytes_of, range(len(self.files.entries))))
        room = self.files.cache.options.size
        cutter = Cutter(np.array(self._starts, dtype=np.int64), total / max(1, len(self)), room, total <= room)
        self._plan = plan = Ahead(cutter, wanted, last, self._fetch_piece, self._keep_piece)
        try:
            yield from plan.follow(steps)
        finally:
            plan.close()

    def _fetch_piece(self, first: int, end: int) -> None:
        number, inside = self.locate(first)
        if self._plan is not None and self._plan.whole:
            self.files.shard(number, wait=False)
        else:
            self.files.span(number, (inside, inside + end - first), wait=False)

    def _keep_piece(self, first: int, end: int) -> None:
        number, inside = self.locate(first)
        self.files.keep_span(number, (inside, inside + end - first))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_plan": None, "_known": {}, "_next": None}
