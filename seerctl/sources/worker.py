"""A worker process of `ingest`: reads files, examines them, answers with finished tar records.

It lives behind one socket and one slot of shared memory, decodes bytes from strangers, and may die at any moment:
whatever it knows is in the answer to a whole batch, and the slot says which image it died on. Messages are a fixed
header, JSON, then raw bytes; nothing that comes back is ever evaluated.
"""

from __future__ import annotations

import gc
import hashlib
import json
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seerctl.errors import UsageError
from seerctl.sources.check import CheckOptions
from seerctl.sources.item import Item
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.transform import Treatment
from seerctl.stream.records import joined_key, sample_pieces

if TYPE_CHECKING:
    from seerctl.sources.decoders import Picture
    from seerctl.sources.treat import Treated

Examine = Callable[[bytes, CheckOptions], "Picture"]
Treat = Callable[[Item, bytes, "Picture"], "Treated"]
_Found = tuple[Item, bytes, "Picture", dict[str, Any]]  # bytes to be stored, what they are, what they were made from

FRAME = struct.Struct("<IQ")  # bytes of JSON, bytes of data
SLOT = struct.Struct("<iI")  # number of the image in hand (-1: none), count of images begun
READ_BYTES = 1 << 20
_SEND_PIECES = 512  # buffers handed to the kernel at once; it takes 1024
PRINT_BYTES = 16  # of a sample: 12 of the SHA-256 of its bytes, 4 of that of its source


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may cost: `seconds` of CPU, `memory` bytes on top of the worker's own."""

    seconds: float = 20.0
    memory: int = 1 << 31


def pack_batch(items: list[Item]) -> list[bytes]:
    """The request for `items`, as buffers to send one after the other."""
    rows = [(item.source, item.path, item.size, item.offset, item.columns, item.named, item.verdict) for item in items]
    text = json.dumps(rows).encode()
    data = [item.data for item in items if item.data is not None and item.verdict is None]
    return [FRAME.pack(len(text), sum(map(len, data))) + text, *data]


def unpack_batch(text: bytes | bytearray, data: bytes | bytearray) -> list[Item]:
    """The inverse of `pack_batch`."""
    items, view, at = [], memoryview(data), 0
    for source, path, size, offset, columns, named, verdict in json.loads(text):
        item = Item(source, path, size, offset, None, columns, named, tuple(verdict) if verdict else None)
        if not path and verdict is None:
            item.data = bytes(view[at : at + size])
            at += size
        items.append(item)
    return items


def prepare(
    options: CheckOptions, limits: Limits, treatment: Treatment | None = None
) -> Callable[[socket.socket, mmap.mmap], None]:
    """Load the decoders and the user's filters; what a worker then does with its socket and its slot.

    Where they cannot be loaded, every batch is answered with why.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a third of the time that importing numpy takes
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    examine: Examine
    treat: Treat | None = None
    try:
        from seerctl.sources import decoders  # noqa: PLC0415  (`ingest` itself stays without numpy and Pillow)

        decoders.prepare()
        examine = decoders.examine
        if treatment is not None and treatment != Treatment():
            from seerctl.sources.treat import Treater  # noqa: PLC0415  (as above)

            treat = Treater(treatment)
    except UsageError as fault:
        told = (fault.message, fault.hint)

        def examine(data: bytes, options: CheckOptions) -> Picture:
            raise UsageError(*told)
    except Exception:
        text = traceback.format_exc()

        def examine(data: bytes, options: CheckOptions) -> Picture:
            raise RuntimeError(text)

    gc.freeze()  # what is loaded by now stays: no worker looks for garbage in it, nor copies the pages it shares
    return lambda channel, slot: serve(channel, _Examiner(slot, options, limits, examine, treat))


def serve(channel: socket.socket, examiner: _Examiner) -> None:
    """Answer batches until the other side closes the socket."""
    while (head := receive(channel, FRAME.size)) is not None:
        length, size = FRAME.unpack(head)
        text, data = receive(channel, length), receive(channel, size)
        if text is None or data is None:
            return
        try:
            answer, pieces = examiner.run(unpack_batch(text, data))
        except UsageError as fault:
            answer, pieces = {"usage": [fault.message, fault.hint]}, []
        except Exception:
            answer, pieces = {"bug": traceback.format_exc()}, []
        reply = json.dumps(answer).encode()
        send(channel, [FRAME.pack(len(reply), sum(map(len, pieces))), reply, *pieces])


def send(channel: socket.socket, pieces: list[bytes]) -> None:
    """All of `pieces`, one after the other, without putting them together first."""
    for first in range(0, len(pieces), _SEND_PIECES):
        some = pieces[first : first + _SEND_PIECES]
        sent = channel.sendmsg(some)
        for piece in some:
            if sent < len(piece):
                channel.sendall(memoryview(piece)[sent:])
            sent = max(0, sent - len(piece))


def receive(channel: socket.socket, count: int) -> bytes | None:
    """Exactly `count` bytes, or None when the other side is gone."""
    data = channel.recv(count, socket.MSG_WAITALL)
    if len(data) == count:
        return data
    parts, missing = [data], count - len(data)  # a signal came between
    while missing and data:
        data = channel.recv(min(missing, READ_BYTES))
        parts.append(data)
        missing -= len(data)
    return None if missing else b"".join(parts)


def limit_memory(allowance: int) -> None:
    """Let the address space grow by `allowance` bytes and no more (where the system counts it)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        used = 1 << 30
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + allowance if hard == resource.RLIM_INFINITY else min(used + allowance, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Examiner:
    """Turns batches of items into tar records and rejects."""

    def __init__(
        self, slot: mmap.mmap, options: CheckOptions, limits: Limits, examine: Examine, treat: Treat | None = None
    ) -> None:
        self._slot, self._options, self._limits = slot, options, limits
        self._examine, self._treat = examine, treat
        self._begun = 0
        self._path, self._file = "", -1
        limit_memory(limits.memory)

    def run(self, items: list[Item]) -> tuple[dict[str, Any], list[bytes]]:
        """The answer to one batch, and the data behind it in pieces: digests, prints, raw records of all samples.

        The answer lists the rejects as (number, reason, detail) and the bytes of each record.
        """
        # All are read, then all decoded, then all encoded: Python that takes turns with a decoder finds the caches
        # swept each time, and is slower for it.
        rejects = [(number, *item.verdict) for number, item in enumerate(items) if item.verdict is not None]
        files: list[tuple[int, Item, bytes]] = []
        for number, item in enumerate(items):
            if item.verdict is None:
                self._hold(number)
                try:
                    files.append((number, item, self._read(item)))
                except (RejectedError, MemoryError) as fault:
                    rejects.append((number, *_refused(fault, item)))
        found: list[_Found] = []
        for number, item, data in files:
            self._hold(number)
            # The kernel ends us with SIGPROF when the image has used its time.
            signal.setitimer(signal.ITIMER_PROF, self._limits.seconds)
            try:
                found.append(self._examined(item, data))
            except (RejectedError, MemoryError) as fault:
                rejects.append((number, *_refused(fault, item)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        SLOT.pack_into(self._slot, 0, -1, self._begun)
        return self._encoded(found, sorted(rejects))

    def _hold(self, number: int) -> None:
        self._begun += 1
        SLOT.pack_into(self._slot, 0, number, self._begun)

    def _examined(self, item: Item, data: bytes) -> _Found:
        picture = self._examine(data, self._options)
        if self._treat is None:
            return item, data, picture, {}
        treated = self._treat(item, data, picture)
        return item, treated.data, treated.picture, treated.origin

    @staticmethod
    def _encoded(found: list[_Found], rejects: list[tuple[int, str, str]]) -> tuple[dict[str, Any], list[bytes]]:
        digests: list[bytes] = []
        prints: list[bytes] = []
        records: list[bytes] = []
        sizes: list[int] = []
        for item, data, picture, origin in found:
            content = hashlib.sha256(data)
            source = hashlib.sha256(item.source.encode())
            meta = {
                "sha256": content.hexdigest(),
                "width": picture.width,
                "height": picture.height,
                "format": picture.format.name,
                "mode": picture.mode,
                "orientation": picture.orientation,
                "source": item.source,
                "columns": item.columns,
                **origin,
            }
            pieces, digest = sample_pieces(
                joined_key(meta["sha256"], source.hexdigest()), picture.format.ext, data, meta
            )
            digests.append(digest)
            prints.append(content.digest()[:12] + source.digest()[:4])
            records += pieces
            sizes.append(sum(map(len, pieces)))
        return {"sizes": sizes, "rejects": rejects}, [*digests, *prints, *records]

    def _read(self, item: Item) -> bytes:
        limit = self._options.max_bytes
        if item.data is not None:
            data = item.data
        elif item.size > limit:
            raise RejectedError(Reason.TOO_LARGE, f"{item.size} bytes, more than {limit}")
        elif item.offset >= 0:
            data = self._read_part(item)
        else:
            data = _read_file(item.path, limit)
        if len(data) > limit:
            raise RejectedError(Reason.TOO_LARGE, f"more than {limit} bytes")
        return data

    def _read_part(self, item: Item) -> bytes:
        try:
            if item.path != self._path:
                if self._file >= 0:
                    os.close(self._file)
                self._path, self._file = "", -1
                self._file = os.open(item.path, os.O_RDONLY | os.O_CLOEXEC)
                self._path = item.path
            data = os.pread(self._file, item.size, item.offset)
        except OSError as error:
            raise RejectedError(Reason.UNREADABLE, os.strerror(error.errno or 0)) from None
        if len(data) != item.size:
            raise RejectedError(Reason.UNREADABLE, f"{item.path} shrank while it was read")
        return data


def _read_file(path: str, limit: int) -> bytes:
    """The bytes of a regular file, at most one more than `limit`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hold us up
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RejectedError(Reason.UNREADABLE, "not a regular file")
            if status.st_size > limit:
                raise RejectedError(Reason.TOO_LARGE, f"{status.st_size} bytes, more than {limit}")
            return _read_all(descriptor, status.st_size, limit)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise RejectedError(Reason.MISSING, "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path from a table
        detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise RejectedError(Reason.UNREADABLE, detail) from None


def _read_all(descriptor: int, size: int, limit: int) -> bytes:
    data = os.read(descriptor, size + 1)
    if len(data) == size:
        return data
    parts = [data]  # it grows or shrinks under our hands, or the system reads in smaller pieces
    total = len(data)
    while total <= limit and (data := os.read(descriptor, READ_BYTES)):
        parts.append(data)
        total += len(data)
    return b"".join(parts)


def _refused(fault: RejectedError | MemoryError, item: Item) -> tuple[str, str]:
    """Why an item is left out; a file that never claimed to be an image is ignored rather than rejected."""
    if isinstance(fault, MemoryError):
        return Reason.MEMORY, "reading needs more memory than allowed"
    if fault.reason == Reason.NOT_IMAGE and not item.named:
        return Reason.IGNORED, fault.detail
    return fault.reason, fault.detail
