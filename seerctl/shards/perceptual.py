"""A 64-bit perceptual hash: pictures that people take for the same have hashes that differ in few bits.

The picture, upright and in ITU-R 601 grey, is area-resized to 32x32; of its DCT-II the 8x8 lowest frequencies are kept,
row by row. Bit f (the first is the most significant) says whether frequency f is above the median of the 63 without the
constant one; the constant one's own bit is 0. Brightness, contrast, size and JPEG quality hardly change such a hash.

A picture with almost no structure (its 63 frequencies deviate by less than one grey level) has no hash: its bits would
be noise, and all blank pictures would be copies of each other.

Source: C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2.1.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from seerctl.augment.decode import MAX_PIXELS, DecodeError, to_rgb, upright
from seerctl.errors import EnvironmentFault
from seerctl.shards.index import ShardSet
from seerctl.sources.decoders import jpeg_orientation
from seerctl.sources.decoders import prepare as prepare_decoders
from seerctl.sources.magic import detect
from seerctl.sources.nursery import Nursery
from seerctl.sources.worker import FRAME, SLOT, Limits, limit_memory, receive

if TYPE_CHECKING:
    import mmap
    import socket

VERSION = "dct64-1"  # part of every result that hashes went into
SIDE, LOW = 32, 8
HASHED, FLAT, UNREADABLE = 0, 1, 2
_ENOUGH = 8 * SIDE  # pixels a side: JPEGs are decoded no larger than needed
_FLAT_LEVELS = 1.0
_COLUMN_BYTES = 1 << 26  # of float64 pixels at once
_MAX_BAD_STARTS = 3
_BATCH_ITEMS, _BATCH_BYTES = 64, 1 << 21

Hash64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class ImageHashes:
    """Hashes of N pictures: values (N,) uint64; status (N,) uint8 is HASHED, FLAT or UNREADABLE (their value is 0)."""

    values: Hash64
    status: NDArray[np.uint8]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(N,) True where the picture has a hash."""
        return np.asarray(self.status == HASHED)


def image_hash(data: bytes) -> int | None:
    """The hash of an image file's bytes; None for a picture without structure.

    Raises:
        DecodeError: the bytes are no image that can be decoded in full.
    """
    return grey_hash(_grey(data))


def grey_hash(grey: NDArray[np.uint8]) -> int | None:
    """The hash of a (height, width) uint8 grey picture; None where it has no structure."""
    low = _low_frequencies(grey).ravel()
    if np.sqrt((low[1:] ** 2).sum()) / SIDE < _FLAT_LEVELS:  # Parseval: the root mean square of the structure kept
        return None
    bits = low > np.median(low[1:])
    bits[0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _low_frequencies(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(8, 8) orthonormal DCT-II coefficients of the picture area-resized to 32x32."""
    height, width = grey.shape
    rows = max(1, _COLUMN_BYTES // (8 * width))
    across = _projection(width)
    # einsum, not @: the threads of a BLAS, in every worker at once, cost ten times what they compute.
    narrow = [
        np.einsum("hw,kw->hk", grey[top : top + rows].astype(np.float64), across) for top in range(0, height, rows)
    ]
    return np.asarray(np.einsum("jh,hk->jk", _projection(height), np.concatenate(narrow)))


@lru_cache(maxsize=64)
def _projection(length: int) -> NDArray[np.float64]:
    """(8, length): area-resizing `length` values to 32, then the 8 lowest frequencies of their DCT-II."""
    edges = np.arange(SIDE + 1) * (length / SIDE)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    resize = np.clip(overlap, 0.0, None) * (SIDE / length)
    waves = np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5) * np.arange(LOW)[:, None]) * np.sqrt(2.0 / SIDE)
    waves[0] /= np.sqrt(2.0)
    return np.asarray(waves @ resize)


def _grey(data: bytes) -> NDArray[np.uint8]:
    found = detect(data)
    if found is None or found.pillow is None:  # Pillow knows formats that run other programs
        raise DecodeError("not a format that is decoded here")
    grey = _grey_jpeg(data) if data[:3] == b"\xff\xd8\xff" else None
    return np.asarray(Image.fromarray(to_rgb(data)).convert("L")) if grey is None else grey


def _grey_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """The brightness of an ordinary JPEG, upright; None where `to_rgb` has to say what it is."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
            return None
        grey = simplejpeg.decode_jpeg(data, "GRAY", min_height=_ENOUGH, min_width=_ENOUGH)
    except ValueError:
        return None  # damaged, or only careless: `to_rgb` knows which
    return np.asarray(upright(grey, jpeg_orientation(data))[:, :, 0])


# ------------------------------------------------------------------------------------------------- many, in processes


def hash_set(shards: ShardSet, jobs: int | None = None, progress: Callable[[int], None] | None = None) -> ImageHashes:
    """The hash of every sample of a set, in the order of the index.

    Raises:
        InputError: the set is damaged.
        EnvironmentFault: workers die before they can begin.
    """
    return hash_images((sample.image for sample in shards), jobs, progress)


def hash_images(
    images: Iterable[bytes], jobs: int | None = None, progress: Callable[[int], None] | None = None
) -> ImageHashes:
    """The hashes of image files, in order, by `jobs` worker processes (by default one a core)."""
    values: list[Hash64] = [np.empty(0, np.uint64)]
    status: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)]
    with HashPool(jobs) as pool:
        for found in pool.run(_batches(images)):
            values.append(found.values)
            status.append(found.status)
            if progress is not None:
                progress(len(found.values))
    return ImageHashes(np.concatenate(values), np.concatenate(status))


def _batches(images: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for image in images:
        batch.append(image)
        size += len(image)
        if len(batch) >= _BATCH_ITEMS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class HashPool:
    """Worker processes that hash pictures of strangers: one that dies over a picture is replaced, the rest go on.

    A picture has the limits of `ingest` in memory and processor time; past them it is UNREADABLE.
    """

    def __init__(self, jobs: int | None = None, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        count = jobs or len(os.sched_getaffinity(0))
        self._nursery = Nursery(lambda: _prepare(limits), SLOT.size, count)
        self._workers: list[_Worker] = []
        try:
            self._workers += [_Worker(self._nursery, place) for place in range(count)]
        except BaseException:
            self.close()
            raise

    def run(self, batches: Iterable[Sequence[bytes]]) -> Iterator[ImageHashes]:
        """The hashes of each batch, in order; at most one batch more than there are workers is held."""
        busy: deque[_Worker] = deque()
        idle = deque(self._workers)
        for batch in batches:
            if not idle:
                worker = busy.popleft()
                yield worker.collect()
                idle.append(worker)
            worker = idle.popleft()
            worker.send(batch)
            busy.append(worker)
        while busy:
            yield busy.popleft().collect()

    def close(self) -> None:
        """End the workers, those at work too."""
        for worker in self._workers:
            worker.end()
        self._workers = []
        self._nursery.close()

    def __enter__(self) -> HashPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Worker:
    """Our side of one worker process, and the batch in its hands."""

    def __init__(self, nursery: Nursery, place: int) -> None:
        self._nursery, self._place = nursery, place
        self._start()

    def _start(self) -> None:
        SLOT.pack_into(self._nursery.slots[self._place], 0, -1, 0)
        self._pid, self._channel = self._nursery.start(self._place)

    def send(self, batch: Sequence[bytes]) -> None:
        """Hand over a batch."""
        self._batch, self._given_up = batch, set[int]()
        self._request()

    def _request(self) -> None:
        sizes = np.array([len(image) for image in self._batch], dtype="<u8")
        skipped = np.array(sorted(self._given_up), dtype="<u8")
        try:
            head = FRAME.pack(len(self._batch), int(sizes.sum())) + FRAME.pack(len(skipped), 0)
            self._channel.sendall(b"".join((head, sizes.tobytes(), skipped.tobytes(), *self._batch)))
        except (BrokenPipeError, ConnectionResetError):
            return  # noticed when its answer is awaited

    def collect(self) -> ImageHashes:
        """The answer; a picture that the worker died on is UNREADABLE, and the others are asked for again."""
        starts = 0
        while True:
            try:
                answer = receive(self._channel, 9 * len(self._batch))
            except ConnectionResetError:
                answer = None
            if answer is not None:
                values = np.frombuffer(answer, dtype="<u8", count=len(self._batch)).astype(np.uint64)
                return ImageHashes(values, np.frombuffer(answer, np.uint8, offset=8 * len(self._batch)).copy())
            number = int(SLOT.unpack_from(self._nursery.slots[self._place], 0)[0])
            self.end()
            if number >= 0:
                starts = 0
                self._given_up.add(number)
            else:
                starts += 1
            if starts > _MAX_BAD_STARTS:
                raise EnvironmentFault("hashing: workers die before they begin", "Free memory or use fewer --jobs")
            self._start()
            self._request()

    def end(self) -> None:
        """End the process and wait for it."""
        self._channel.close()
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._nursery.wait(self._pid)
            self._pid = 0


def _prepare(limits: Limits) -> Callable[[socket.socket, mmap.mmap], None]:
    prepare_decoders()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)

    def serve(channel: socket.socket, slot: mmap.mmap) -> None:
        limit_memory(limits.memory)
        while (head := receive(channel, 2 * FRAME.size)) is not None:
            (count, size), (skips, _) = FRAME.unpack_from(head, 0), FRAME.unpack_from(head, FRAME.size)
            body = receive(channel, 8 * (count + skips) + size)
            if body is None:
                return
            channel.sendall(_answer(body, count, skips, limits, slot))

    return serve


def _answer(body: bytes, count: int, skips: int, limits: Limits, slot: Any) -> bytes:
    """The hashes and states of one batch, as 8 bytes and 1 byte a picture."""
    sizes = np.frombuffer(body, "<u8", count)
    skipped = set(np.frombuffer(body, "<u8", skips, 8 * count).tolist())
    values, status = np.zeros(count, "<u8"), np.full(count, UNREADABLE, np.uint8)
    at = 8 * (count + skips)
    for number, size in enumerate(sizes.tolist()):
        data = bytes(body[at : at + size])
        at += size
        if number in skipped:
            continue
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)
        SLOT.pack_into(slot, 0, number, 0)
        try:
            found = image_hash(data)
            values[number], status[number] = found or 0, FLAT if found is None else HASHED
        except Exception:  # decoders raise almost anything on hostile bytes
            status[number] = UNREADABLE
    signal.setitimer(signal.ITIMER_PROF, 0)
    SLOT.pack_into(slot, 0, -1, 0)
    return values.tobytes() + status.tobytes()
