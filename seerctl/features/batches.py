"""Batches of a shard set in index order: decoded by worker processes beside a GPU, by threads on the CPU."""

from __future__ import annotations

import copy
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seerctl.augment.decode import DecodeError
from seerctl.errors import EnvironmentFault, InputError, SeerctlError
from seerctl.features.pixels import View
from seerctl.shards.subset import Samples

T = TypeVar("T")

CORRUPTION_COLUMN = "corruption"  # goes through `probe --predictions` and tells `audit` what a table is of
PREFETCH = 2  # batches each worker prepares ahead
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where torch's workers hand tensors over


@dataclass(slots=True)
class Batch:
    """Consecutive samples: pixels (B, 3, size, size) uint8 in channels-last memory, keys and metadata columns."""

    pixels: Tensor
    keys: list[str]
    columns: list[dict[str, Any]]

    def pin_memory(self) -> Batch:
        """Called by the DataLoader's pinning thread: copies to the device then run beside the computation."""
        return Batch(self.pixels.pin_memory(), self.keys, self.columns)


class Batches:
    """Batch b holds samples [b * batch, (b + 1) * batch) of `shards`; the last one may be short.

    Safe to call from several threads, each of which opens the shards for itself.
    """

    def __init__(self, shards: Samples, view: View, batch: int) -> None:
        self.shards, self.view, self.batch = shards, view, batch
        self._own = threading.local()

    def __len__(self) -> int:
        return (len(self.shards) + self.batch - 1) // self.batch

    def __call__(self, number: int) -> Batch:
        """Read and decode batch `number`.

        Raises:
            InputError: a damaged shard, or an image that cannot be decoded.
        """
        shards = self._shards()
        first = number * self.batch
        rows = min(self.batch, len(shards) - first)
        pixels = np.empty((rows, self.view.size, self.view.size, 3), dtype=np.uint8)
        keys, columns = [], []
        added = {} if self.view.corruption is None else {CORRUPTION_COLUMN: str(self.view.corruption)}
        for row in range(rows):
            sample = shards.read(first + row)
            try:
                pixels[row] = self.view(sample.image, sample.key)
            except DecodeError as error:
                raise InputError(
                    f"{shards.location}: sample {sample.key}.{sample.ext} cannot be decoded ({error})",
                    "Ingest again with --check decode",
                ) from None
            keys.append(sample.key)
            columns.append({**added, **(sample.meta.get("columns") or {})})
        return Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2), keys, columns)

    def _shards(self) -> Samples:
        if not hasattr(self._own, "shards"):
            self._own.shards = copy.copy(self.shards)
        shards: Samples = self._own.shards
        return shards

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards, "view": self.view, "batch": self.batch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class _ForLoader(Dataset[Any]):
    """`Batches` for a DataLoader: errors come as values, since torch would wrap a traceback around them."""

    def __init__(self, batches: Batches, share_memory: bool) -> None:
        self.batches, self.share_memory = batches, share_memory

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Any:
        try:
            batch = self.batches(number)
        except SeerctlError as error:
            return error
        # Tensors travel through shared memory, arrays through the pipe (which keeps no strides but C's).
        return batch if self.share_memory else (batch.pixels.permute(0, 2, 3, 1).numpy(), batch.keys, batch.columns)


def by_processes(batches: Batches, numbers: range, workers: int, pin: bool) -> Iterator[Batch]:
    """Batches `numbers` in order, made by `workers` processes, which start when this is called (0: none).

    Raises (from the iterator):
        InputError: as `Batches`. EnvironmentFault: a worker was killed.
    """
    size = batches.batch * batches.view.size**2 * 3
    share = workers > 0 and _shared_memory_holds((workers * PREFETCH + 2) * size)
    loader = DataLoader(
        _ForLoader(batches, share), batch_size=None, sampler=numbers, num_workers=workers, collate_fn=_as_it_is,
        pin_memory=pin and share, prefetch_factor=PREFETCH if workers else None,
    )  # fmt: skip
    return _checked(iter(loader))


def _checked(found: Iterator[Any]) -> Iterator[Batch]:
    while True:
        try:
            batch = next(found, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise EnvironmentFault(
                f"extract: {reason}", "Free memory, or pass a smaller --batch or --workers"
            ) from None
        if batch is None:
            return
        if isinstance(batch, SeerctlError):
            raise batch
        if not isinstance(batch, Batch):
            batch = Batch(torch.from_numpy(batch[0]).permute(0, 3, 1, 2), batch[1], batch[2])
        yield batch


def by_threads(function: Callable[[int], T], numbers: Iterable[int], threads: int) -> Iterator[T]:
    """`function` of every number, in order, computed by `threads` threads that each use one core.

    On a CPU, whole batches side by side beat one batch spread over all cores: nobody waits at barriers, least of all on
    a machine that others use too, and the results do not depend on the number of threads.
    """
    before = torch.get_num_threads()
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(threads, "extract", initializer=torch.set_num_threads, initargs=(1,))
    try:
        for number in numbers:
            waiting.append(pool.submit(function, number))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)


def _as_it_is(batch: Any) -> Any:
    return batch


def _shared_memory_holds(size: int) -> bool:
    """Whether /dev/shm has room: containers often give it 64 MB, and torch's workers die there of a bus error."""
    return SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > 2 * size


def default_workers(device: str) -> int:
    """This process's part of the cores; beside a GPU at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    neighbours = os.environ.get("LOCAL_WORLD_SIZE", "1")
    share = max(1, cores // max(1, int(neighbours))) if neighbours.isdigit() else cores
    return share if device == "cpu" else min(8, share)
