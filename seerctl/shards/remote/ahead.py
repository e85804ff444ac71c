"""Reading ahead of a plan: what the next steps read is known, so it is fetched while the steps before are computed.

Steps come in chunks of a fixed number, the same for every process of a machine: all of them cut a chunk's samples into
the same pieces, so that each piece is fetched once a machine, by whoever comes to it first. The pieces of a chunk and
of the next one together fit into the cache.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from seerctl.errors import SeerctlError
from seerctl.shards.plan import Positions

_THREADS, _THREADS_WHOLE = 4, 2  # that fetch runs of samples, or shards, in each process that reads
_MOST_SAMPLES, _MOST_STEPS = 1 << 17, 2048  # of a chunk
_SHARE = 0.4  # of the cache, for one chunk
_GAP_BYTES = 1 << 18  # so many that nobody asked for are read on the way rather than asking twice
_PIECE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Pieces:
    """Runs of consecutive samples [firsts, ends), rising, each inside one shard; `order`: as they are needed."""

    firsts: Positions
    ends: Positions
    order: Positions

    def holding(self, position: int) -> tuple[int, int]:
        """The run that `position` is in; in none, itself alone."""
        at = int(np.searchsorted(self.firsts, position, side="right")) - 1
        if at >= 0 and position < self.ends[at]:
            return int(self.firsts[at]), int(self.ends[at])
        return position, position + 1

    def in_order(self) -> list[tuple[int, int]]:
        """The runs as they are needed."""
        return list(zip(self.firsts[self.order].tolist(), self.ends[self.order].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Cutter:
    """How the samples of a chunk become pieces.

    starts: (shards + 1,) the first sample of each shard, and their number. mean: bytes of a sample. room: of the cache.
    whole: pieces are shards.
    """

    starts: Positions
    mean: float
    room: int
    whole: bool

    def steps(self, samples: int) -> int:
        """The steps of a chunk, where each reads so many samples on this machine."""
        most = min(_MOST_STEPS, _MOST_SAMPLES // max(1, samples))
        if not self.whole:
            most = min(most, int(_SHARE * self.room / (self.mean * max(1, samples))))
        return max(1, most)

    def cut(self, positions: Positions, passed: int = 0) -> Pieces:
        """The pieces that `positions`, in the order of need, lie in; those of the first `passed` come last."""
        samples, needed = np.unique(positions, return_index=True)
        needed = np.where(needed < passed, len(positions) + needed, needed)
        shards = np.searchsorted(self.starts, samples, side="right") - 1
        if self.whole:
            new = np.diff(shards, prepend=-1) > 0
            first = np.flatnonzero(new)
            firsts, ends = self.starts[shards[first]], self.starts[shards[first] + 1]
        else:
            first = self._breaks(samples, shards, int(_GAP_BYTES / self.mean))
            firsts, ends = samples[first], _ends(samples, first)
            if self.mean * float((ends - firsts).sum()) > _SHARE * self.room:
                first = self._breaks(samples, shards, 0)
                firsts, ends = samples[first], _ends(samples, first)
        order = np.argsort(np.minimum.reduceat(needed, first), kind="stable")
        return Pieces(firsts, ends, order)

    def _breaks(self, samples: Positions, shards: Positions, gap: int) -> Positions:
        """Which of `samples` begin a piece."""
        longest = max(1, int(_PIECE_BYTES / self.mean))
        cells = (samples - self.starts[shards]) // longest
        apart = (np.diff(samples) > gap + 1) | (np.diff(shards) > 0) | (np.diff(cells) > 0)
        return np.flatnonzero(np.concatenate(([True], apart)))


def _ends(samples: Positions, first: Positions) -> Positions:
    last = np.append(first[1:], len(samples)) - 1
    ends: Positions = samples[last] + 1
    return ends


class Ahead:
    """The steps of one process, and threads that fetch what they and the next ones read.

    wanted: the samples that a step reads on this machine. last: the steps end before it. fetch, keep: have a piece
    here, unless another process is about it; let one that is here stay.
    """

    def __init__(
        self,
        cutter: Cutter,
        wanted: Callable[[int], Positions],
        last: int | None,
        fetch: Callable[[int, int], None],
        keep: Callable[[int, int], None],
    ) -> None:
        self.whole = cutter.whole
        self._cutter, self._wanted, self._last, self._fetch, self._keep = cutter, wanted, last, fetch, keep
        self._condition = threading.Condition()
        self._chunks: dict[int, Pieces] = {}
        self._waiting: deque[tuple[int, int]] = deque()
        self._steps, self._begun, self._now, self._queued = 0, -1, -1, -1
        self._closed = False
        self._fault: Exception | None = None

    def follow(self, steps: Iterable[int]) -> Iterator[int]:
        """`steps`, rising, each when what it reads is on its way."""
        for step in steps:
            self._begin(step)
            yield step

    def holding(self, position: int) -> tuple[int, int]:
        """The piece of the present chunk that a sample is in."""
        return self._chunks[self._now].holding(position)

    def close(self) -> None:
        """Let the threads end after the piece that they are about."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _begin(self, step: int) -> None:
        if self._fault is not None:
            raise self._fault
        if self._begun < 0:
            self._begun, self._steps = step, self._cutter.steps(len(self._wanted(step)))
            self._queued = step // self._steps - 1
        now = step // self._steps
        if now == self._now:
            return
        with self._condition:
            self._chunks = {number: pieces for number, pieces in self._chunks.items() if number >= now}
            if now not in self._chunks:
                self._queue(now)
            self._now = now
            self._condition.notify_all()
        for piece in self._chunks[now].in_order():
            self._keep(*piece)
        if self._begun == step:
            for _ in range(_THREADS_WHOLE if self.whole else _THREADS):
                threading.Thread(target=self._run, name="read-ahead", daemon=True).start()

    def _queue(self, number: int) -> None:
        """Cut a chunk, and put its pieces into the queue."""
        first, end = number * self._steps, (number + 1) * self._steps
        end = end if self._last is None else max(first + 1, min(end, self._last))
        parts = [self._wanted(step) for step in range(first, end)]
        passed = sum(len(part) for part in parts[: max(0, self._begun - first)])
        self._chunks[number] = self._cutter.cut(np.concatenate(parts), passed)
        self._waiting.extend(self._chunks[number].in_order())
        self._queued = max(self._queued, number)

    def _run(self) -> None:
        try:
            while (piece := self._next()) is not None:
                try:
                    self._fetch(*piece)
                except SeerctlError:  # whoever reads it meets the fault, and waits for it to pass
                    continue
        except Exception as error:  # a bug, told to whoever reads
            self._fault = error

    def _next(self) -> tuple[int, int] | None:
        with self._condition:
            while not self._closed:
                if self._waiting:
                    return self._waiting.popleft()
                following = self._queued + 1
                more = self._last is None or following * self._steps < self._last
                if more and following <= self._now + 1:
                    self._queue(following)
                else:
                    self._condition.wait()
            return None
