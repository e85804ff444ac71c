"""Memory over a step: every storage that a rank makes, how long it lives, and what it is for."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

PARAMETERS, GRADIENTS, OPTIMIZER = "parameters", "gradients", "optimizer"
BUFFERS, CROPS = "buffers", "crops"
GATHERED, UNREDUCED = "gathered parameters", "gradients before reduction"
COMMUNICATION, ACTIVATIONS, TEMPORARY = "communication", "activations", "temporary"
CATEGORIES = (PARAMETERS, GRADIENTS, OPTIMIZER, BUFFERS, CROPS, GATHERED, UNREDUCED, COMMUNICATION, ACTIVATIONS,
              TEMPORARY)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Moment:
    """Memory at one moment of a step: `progress` is the share of the step's operations that is done."""

    progress: float
    by_category: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.by_category.values())


@dataclass(slots=True)
class _Storage:
    ident: int
    bytes: int
    watch: Any  # a weak reference, whose callback tells of the end


class Ledger:
    """Counts the storages of the tensors that it is shown, until they are freed.

    A storage is filed under the last of `CATEGORIES` that it was noted for, `temporary` when for none: what becomes of
    a tensor is often known only after it was made. What a count cannot see: the context of a GPU, workspaces of its
    libraries, fragmentation, and frees that wait for another stream.
    """

    def __init__(self) -> None:
        self.total = 0
        self._live: dict[int, _Storage] = {}
        self._events: list[tuple[int, int, float]] = []  # (storage, bytes, operations done before)
        self._kinds: dict[int, str] = {}
        self._count = 0
        self.clock: Callable[[], float] = float  # operations done so far

    def note(self, tensor: Tensor, kind: str = TEMPORARY) -> None:
        """See `tensor` and what it is for; a kind later in `CATEGORIES` never replaces an earlier one but `temporary`.

        Activations that turn out to be gathered parameters or gradients are counted as those. Those on the meta device
        stand for what is in the memory of the host.
        """
        if tensor.device.type == "meta":
            return
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        storage = local.untyped_storage()
        place = storage._cdata
        if place not in self._live:
            self._count += 1
            self._live[place] = _Storage(self._count, 0, self._watch(storage, place))
            self.resized(place, storage.nbytes())
        ident = self._live[place].ident
        if _RANK[kind] < _RANK[self._kinds.get(ident, TEMPORARY)]:
            self._kinds[ident] = kind

    def resized(self, place: int, size: int) -> None:
        """The storage at `place`, if it is known, holds `size` bytes now."""
        storage = self._live.get(place)
        if storage is not None and size != storage.bytes:
            self._add(storage, size - storage.bytes)

    def _watch(self, storage: torch.UntypedStorage, place: int) -> Any:
        return weakref.ref(storage, lambda _: self._free(place))

    def _free(self, place: int) -> None:
        storage = self._live.pop(place, None)
        if storage is not None and storage.bytes:
            self._add(storage, -storage.bytes)

    def _add(self, storage: _Storage, change: int) -> None:
        storage.bytes += change
        self.total += change
        self._events.append((storage.ident, change, self.clock()))

    def history(self) -> Iterator[tuple[float, Counter[str]]]:
        """(operations done, bytes by category) after every change; the counter is the same object throughout."""
        held: Counter[str] = Counter()
        for ident, change, done in self._events:
            held[self._kinds.get(ident, TEMPORARY)] += change
            yield done, held

    def peak(self) -> Moment:
        """The moment of most memory."""
        best, moment, end = -1, Moment(0.0, {}), self.clock() or 1.0
        total = 0
        for (_, change, _), (done, held) in zip(self._events, self.history(), strict=True):
            total += change
            if total > best:
                best, moment = total, Moment(done / end, dict(held))
        return moment

    def timeline(self, points: int = 400) -> list[Moment]:
        """The largest moment of each of `points` equal parts of the step's operations."""
        end = self.clock() or 1.0
        largest: dict[int, Moment] = {}
        total = 0
        for (_, change, _), (done, held) in zip(self._events, self.history(), strict=True):
            total += change
            part = min(int(points * done / end), points - 1)
            if part not in largest or total > largest[part].total:
                largest[part] = Moment(done / end, dict(held))
        return [largest[part] for part in sorted(largest)]

    @contextmanager
    def watch_resizing(self) -> Iterator[None]:
        """FSDP frees and refills gathered parameters by resizing their storages, which no operator shows."""
        before = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            result = before(storage, size)
            self.resized(storage._cdata, storage.nbytes())
            return result

        with mock.patch.object(torch.UntypedStorage, "resize_", resize):
            yield


_RANK = {kind: number for number, kind in enumerate(CATEGORIES)}
