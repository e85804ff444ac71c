"""Batches of a shard set in index order, decoded by worker processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seerctl.augment.decode import DecodeError
from seerctl.errors import EnvironmentFault, InputError, SeerctlError
from seerctl.features.pixels import View
from seerctl.shards.index import ShardSet

PREFETCH = 2  # batches each worker prepares ahead
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where torch's workers hand tensors over


@dataclass(slots=True)
class Batch:
    """Consecutive samples: pixels (B, size, size, 3) uint8, keys and metadata columns."""

    pixels: Any
    keys: list[str]
    columns: list[dict[str, Any]]

    def pin_memory(self) -> Batch:
        """Called by the DataLoader's pinning thread: copies to the device then run beside the computation."""
        return Batch(self.pixels.pin_memory(), self.keys, self.columns)


class Batches(Dataset[Batch | SeerctlError]):
    """Batch b holds samples [b * batch, (b + 1) * batch) of the index; the last one may be short."""

    def __init__(self, shards: ShardSet, view: View, batch: int, share_memory: bool) -> None:
        self.shards, self.view, self.batch, self.share_memory = shards, view, batch, share_memory

    def __len__(self) -> int:
        return (len(self.shards) + self.batch - 1) // self.batch

    def __getitem__(self, number: int) -> Batch | SeerctlError:
        try:
            return self._read(number)
        except SeerctlError as error:
            return error  # raised by the reader in the main process: torch would wrap a traceback around it

    def _read(self, number: int) -> Batch:
        first = number * self.batch
        rows = min(self.batch, len(self.shards) - first)
        pixels = np.empty((rows, self.view.size, self.view.size, 3), dtype=np.uint8)
        keys, columns = [], []
        for row in range(rows):
            sample = self.shards.read(first + row)
            try:
                pixels[row] = self.view(sample.image)
            except DecodeError as error:
                raise InputError(
                    f"{self.shards.location}: sample {sample.key}.{sample.ext} cannot be decoded ({error})",
                    "Ingest again with --check decode",
                ) from None
            keys.append(sample.key)
            columns.append(dict(sample.meta.get("columns") or {}))
        return Batch(torch.from_numpy(pixels) if self.share_memory else pixels, keys, columns)


def read_batches(
    shards: ShardSet, view: View, batch: int, numbers: range, workers: int, pin: bool = False
) -> Iterator[tuple[Tensor, list[str], list[dict[str, Any]]]]:
    """Batches `numbers` in order: pixels (B, 3, size, size) uint8 in channels-last memory, keys, columns.

    The workers start when this is called, not when the first batch is asked for.

    Raises (from the iterator):
        InputError: a damaged shard, or an image that cannot be decoded.
        EnvironmentFault: a worker process was killed.
    """
    share = workers > 0 and _shared_memory_holds((workers * PREFETCH + 2) * batch * view.size**2 * 3)
    loader = DataLoader(
        Batches(shards, view, batch, share), batch_size=None, sampler=numbers, num_workers=workers,
        collate_fn=_as_it_is, pin_memory=pin and share, prefetch_factor=PREFETCH if workers else None,
    )  # fmt: skip
    return _checked(iter(loader))


def _checked(batches: Iterator[Batch | SeerctlError]) -> Iterator[tuple[Tensor, list[str], list[dict[str, Any]]]]:
    while True:
        try:
            found = next(batches, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise EnvironmentFault(
                f"extract: {reason}", "Free memory, or pass a smaller --batch or --workers"
            ) from None
        if found is None:
            return
        if isinstance(found, SeerctlError):
            raise found
        pixels = found.pixels if isinstance(found.pixels, Tensor) else torch.from_numpy(found.pixels)
        yield pixels.permute(0, 3, 1, 2), found.keys, found.columns


def _as_it_is(batch: Any) -> Any:
    return batch


def _shared_memory_holds(size: int) -> bool:
    """Whether /dev/shm has room: containers often give it 64 MB, and torch's workers die there of a bus error."""
    return SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > 2 * size


def default_workers(device: str) -> int:
    """Decoding processes: up to 8 beside a GPU, one less than the cores beside a model on the CPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores) if device != "cpu" else max(1, cores - 1)
