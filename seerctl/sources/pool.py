"""Worker processes that may crash or hang: each holds one batch, is killed and replaced singly, and order is kept.

`concurrent.futures` breaks its whole pool when one process dies, and `multiprocessing.Pool` waits for ever; here the
image in hand at that moment becomes a reject (`crashed`, `timeout`) and the rest of its batch goes to a new worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

from seerctl.errors import EnvironmentFault, UsageError
from seerctl.sources.check import CheckOptions
from seerctl.sources.item import Item
from seerctl.sources.nursery import Nursery
from seerctl.sources.reasons import Reason
from seerctl.sources.transform import Treatment
from seerctl.sources.worker import FRAME, PRINT_BYTES, SLOT, Limits, pack_batch, prepare, receive

BATCH_ITEMS = 64
BATCH_BYTES = 1 << 19
WINDOW_BYTES = 1 << 27  # of images in flight: bounds the memory of the whole pool, whatever the number of workers
PATIENCE = 6.0  # times the CPU limit: how long an image may take by the clock, as on a disk that hangs
DIGEST_BYTES = 32
_POLL_SECONDS = 0.5
_MAX_BAD_STARTS = 3


@dataclass(slots=True)
class Outcome:
    """One batch, examined: `raw` holds whole samples, `digests` 32 bytes of each; rejects as (item, reason, detail).

    kept: the items that became samples, in the order of their records. prints: 16 bytes of each. sizes: of each record.
    """

    raw: memoryview
    digests: memoryview
    rejects: list[tuple[Item, str, str]]
    items: int
    kept: list[Item] = field(default_factory=list)
    prints: memoryview = field(default_factory=lambda: memoryview(b""))
    sizes: list[int] = field(default_factory=list)


class _Batch:
    """Items on their way, and what came of them."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.bytes = sum(item.size for item in items)
        self.outcome: Outcome | None = None


class _Worker:
    """The parent's side of one worker process, on slot number `place` of the nursery."""

    def __init__(self, nursery: Nursery, place: int) -> None:
        self.place, self._nursery = place, nursery
        self._slot = nursery.slots[place]
        SLOT.pack_into(self._slot, 0, -1, 0)
        self.pid, self.channel = nursery.start(place)
        self.batch: _Batch | None = None
        self.killed_for: str | None = None
        self._seen, self._waited = -1, 0.0

    def send(self, batch: _Batch) -> None:
        """Hand over a batch; a worker that is dead already is noticed when its answer is awaited."""
        self.batch = batch
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pack_batch(batch.items):
                self.channel.sendall(piece)

    def receive(self) -> Outcome | None:
        """The answer to the batch in hand, or None when the worker died over it."""
        assert self.batch is not None
        try:
            head = receive(self.channel, FRAME.size)
            length, size = FRAME.unpack(head) if head else (0, 0)
            text, raw = (receive(self.channel, length), receive(self.channel, size)) if head else (None, None)
        except ConnectionResetError:
            return None
        if text is None or raw is None:
            return None
        answer: dict[str, Any] = json.loads(text)
        if "usage" in answer:
            raise UsageError(*answer["usage"])
        if "bug" in answer:
            raise RuntimeError(f"in a worker of ingest:\n{answer['bug']}")
        return outcome_of(self.batch.items, answer, memoryview(raw))

    def overdue(self, elapsed: float, patience: float) -> bool:
        """True when the image in hand has been waited for longer than `patience` (in time that we saw pass)."""
        number, begun = SLOT.unpack_from(self._slot, 0)
        if number < 0 or begun != self._seen:
            self._seen, self._waited = begun, 0.0
            return False
        self._waited += elapsed
        return self._waited > patience

    def in_hand(self) -> int:
        """Number of the image being examined, -1 for none."""
        return int(SLOT.unpack_from(self._slot, 0)[0])

    def kill(self, reason: str | None = None) -> None:
        """End it now; `reason` says why, for the image in hand."""
        self.killed_for = reason
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Wait for the process to end; its signal, or 0."""
        self.channel.close()
        return self._nursery.wait(self.pid)


class Pool:
    """`jobs` workers that examine items; results come in the order of the items."""

    def __init__(
        self, jobs: int, options: CheckOptions, limits: Limits | None = None, treatment: Treatment | None = None
    ) -> None:
        self._limits = limits or Limits()
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._bad_starts = 0
        self._nursery = Nursery(partial(prepare, options, self._limits, treatment), SLOT.size, jobs)
        try:
            for place in range(jobs):
                self._start(place)
        except BaseException:
            self.close(now=True)
            raise

    def _start(self, place: int) -> _Worker:
        worker = _Worker(self._nursery, place)
        self._workers.append(worker)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        return worker

    def run(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """Examine `items` and yield what came of them, batch by batch, in their order.

        Raises:
            EnvironmentFault: workers die before they can begin.
        """
        batches = (_Batch(group) for group in group_items(items))
        waiting: deque[_Batch] = deque()  # in order, answered or not
        exhausted = False
        while True:
            exhausted = exhausted or not self._feed(batches, waiting)
            while waiting and waiting[0].outcome is not None:
                yield waiting.popleft().outcome  # type: ignore[misc]
            if exhausted and not waiting:
                return
            if any(worker.batch for worker in self._workers):
                self._collect()

    def _feed(self, batches: Iterator[_Batch], waiting: deque[_Batch]) -> bool:
        """Give every idle worker a batch, within the window; False when there are no more."""
        for worker in self._workers:
            if worker.batch is not None:
                continue
            in_flight = sum(batch.bytes for batch in waiting)
            if waiting and (len(waiting) >= 8 * len(self._workers) or in_flight >= WINDOW_BYTES):
                return True
            batch = next(batches, None)
            if batch is None:
                return False
            waiting.append(batch)
            worker.send(batch)
        return True

    def _collect(self) -> None:
        """Wait for answers, deaths and deadlines."""
        before = time.monotonic()
        for key, _ in self._selector.select(_POLL_SECONDS):
            worker: _Worker = key.data
            outcome = worker.receive() if worker.batch else None
            if outcome is None:
                self._replace(worker)
                continue
            assert worker.batch is not None
            worker.batch.outcome, worker.batch = outcome, None
            self._bad_starts = 0
        # Only time spent here counts: not that of a stopped process or of a full pipe behind us.
        elapsed = min(time.monotonic() - before, 2 * _POLL_SECONDS)
        for worker in self._workers:
            if worker.batch and worker.overdue(elapsed, PATIENCE * self._limits.seconds):
                worker.kill(Reason.TIMEOUT)

    def _replace(self, worker: _Worker) -> None:
        """A new worker for one that died; the image it held is a reject, the rest of its batch starts again."""
        self._selector.unregister(worker.channel)
        self._workers.remove(worker)
        batch, number = worker.batch, worker.in_hand()
        ended_by = worker.reap()
        if batch is not None and number >= 0:
            batch.items[number].verdict = _cause(worker, ended_by, self._limits)
        else:
            self._bad_starts += 1
            if self._bad_starts > _MAX_BAD_STARTS:
                raise EnvironmentFault(
                    f"ingest: workers die before they begin (signal {ended_by})", "Free memory or use fewer --jobs"
                )
        successor = self._start(worker.place)
        if batch is not None:
            successor.send(batch)

    def close(self, *, now: bool = False) -> None:
        """End the workers: idle ones by closing their sockets, busy ones (or all, `now`) by killing them."""
        for worker in self._workers:
            if now or worker.batch is not None:
                worker.kill()
        self._selector.close()
        for worker in self._workers:
            worker.channel.close()
        with contextlib.suppress(EnvironmentFault):  # the nursery died first: that was said already
            while self._workers:
                self._workers.pop().reap()
        self._nursery.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close(now=kind is not None)


def outcome_of(items: list[Item], answer: dict[str, Any], data: memoryview) -> Outcome:
    """What a worker answered to `items`, in the parts of `data`: digests, prints, records."""
    rejects = [(items[number], str(reason), str(detail)) for number, reason, detail in answer["rejects"]]
    refused = {number for number, _, _ in answer["rejects"]}
    kept = [item for number, item in enumerate(items) if number not in refused]
    sizes = [int(size) for size in answer["sizes"]]
    cut = DIGEST_BYTES * len(sizes)
    end = cut + PRINT_BYTES * len(sizes)
    return Outcome(data[end:], data[:cut], rejects, len(items), kept, data[cut:end], sizes)


def _cause(worker: _Worker, ended_by: int, limits: Limits) -> tuple[str, str]:
    """(reason, detail) for the image in the hands of a worker that ended."""
    if worker.killed_for:
        return worker.killed_for, f"no answer within {PATIENCE * limits.seconds:g} s"
    if ended_by == signal.SIGPROF:
        return Reason.TIMEOUT, f"more than {limits.seconds:g} s of CPU time"
    name = signal.Signals(ended_by).name if ended_by else "an exit"
    return Reason.CRASHED, f"the decoder's process was ended by {name}"


def group_items(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items in groups of at most `BATCH_ITEMS` and about `BATCH_BYTES`: small files share a message."""
    group: list[Item] = []
    size = 0
    for item in items:
        group.append(item)
        size += item.size
        if len(group) >= BATCH_ITEMS or size >= BATCH_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
