"""Batches of a shard set in index order: decoded by worker processes beside a GPU, by threads on the CPU.

A picture is decoded once, however many corrupted views of it are wanted.
"""

from __future__ import annotations

import copy
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seerctl.augment.decode import DecodeError
from seerctl.errors import EnvironmentFault, InputError, SeerctlError
from seerctl.features.pixels import View
from seerctl.shards.subset import Samples

if TYPE_CHECKING:
    from seerctl.augment.corruptions import Corruption  # scipy: a second for who corrupts nothing

T = TypeVar("T")

PREFETCH = 2  # batches each worker prepares ahead
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where torch's workers hand tensors over


@dataclass(slots=True)
class Pictures:
    """Pictures of one shape: pixels (n, 3, H, W) uint8 in channels-last memory, and their rows in the batch."""

    pixels: Tensor
    rows: list[int]


@dataclass(slots=True)
class Batch:
    """Consecutive samples: for each view their pictures, in as many groups as there are shapes; keys and metadata."""

    views: list[list[Pictures]]
    keys: list[str]
    columns: list[dict[str, Any]]

    @property
    def pixels(self) -> Tensor:
        """The pictures of the only view, which all have one shape: (B, 3, H, W)."""
        ((only,),) = self.views
        return only.pixels

    def with_pixels(self, change: Callable[[Any], Any]) -> Batch:
        """The same with `change` applied to the pixels of every group."""
        views = [[Pictures(change(group.pixels), group.rows) for group in groups] for groups in self.views]
        return Batch(views, self.keys, self.columns)

    def pin_memory(self) -> Batch:
        """Called by the DataLoader's pinning thread: copies to the device then run beside the computation."""
        return self.with_pixels(Tensor.pin_memory)


class Batches:
    """Batch b holds samples [b * batch, (b + 1) * batch) of `shards`; the last one may be short.

    corruptions: one view of the pictures for each, None for the clean one. Safe to call from several threads, each of
    which opens the shards for itself.
    """

    def __init__(
        self, shards: Samples, view: View, batch: int, corruptions: Sequence[Corruption | None] = (None,)
    ) -> None:
        self.shards, self.view, self.batch, self.corruptions = shards, view, batch, tuple(corruptions)
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
        views: list[list[NDArray[np.uint8]]] = [[] for _ in self.corruptions]
        keys, columns = [], []
        for row in range(rows):
            sample = shards.read(first + row)
            try:
                picture = self.view(sample.image)
            except DecodeError as error:
                raise InputError(
                    f"{shards.location}: sample {sample.key}.{sample.ext} cannot be decoded ({error})",
                    "Ingest again with --check decode",
                ) from None
            keys.append(sample.key)
            columns.append(sample.meta.get("columns") or {})
            for pictures, corruption in zip(views, self.corruptions, strict=True):
                pictures.append(picture if corruption is None else corruption(picture, sample.key))
        return Batch([_by_shape(pictures) for pictures in views], keys, columns)

    def _shards(self) -> Samples:
        if not hasattr(self._own, "shards"):
            self._own.shards = copy.copy(self.shards)
        shards: Samples = self._own.shards
        return shards

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards, "view": self.view, "batch": self.batch, "corruptions": self.corruptions}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _by_shape(pictures: list[NDArray[np.uint8]]) -> list[Pictures]:
    """Pictures (H, W, 3) in groups of one shape each, in the order in which the shapes come; takes them from the list,
    so that they are not held twice."""
    places: dict[tuple[int, ...], list[int]] = {}
    for row, picture in enumerate(pictures):
        places.setdefault(picture.shape, []).append(row)
    groups = []
    for shape, rows in places.items():
        pixels = np.empty((len(rows), *shape), dtype=np.uint8)
        for place, row in enumerate(rows):
            pixels[place] = pictures[row]
            pictures[row] = _NOTHING
        groups.append(Pictures(_channels_last(pixels), rows))
    return groups


_NOTHING = np.empty((0, 0, 3), dtype=np.uint8)


def _channels_last(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _as_array(pixels: Tensor) -> NDArray[np.uint8]:
    return pixels.permute(0, 2, 3, 1).numpy()


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
        return batch if self.share_memory else (batch.with_pixels(_as_array),)


def by_processes(batches: Batches, numbers: range, workers: int, pin: bool) -> Iterator[Batch]:
    """Batches `numbers` in order, made by `workers` processes, which start when this is called (0: none).

    Raises (from the iterator):
        InputError: as `Batches`. EnvironmentFault: a worker was killed.
    """
    size = batches.batch * batches.view.size**2 * 3 * len(batches.corruptions)
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
            batch = batch[0].with_pixels(_channels_last)
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
