"""Archives told by their first bytes: tar, compressed tar, zip; as files, in folders and on a pipe."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from seerctl.errors import EnvironmentFault, InputError
from seerctl.files import blame, free_bytes
from seerctl.sources.check import CheckOptions
from seerctl.sources.item import Item
from seerctl.sources.members import member_items, tar_items
from seerctl.sources.tar import looks_like_tar
from seerctl.sources.zip import looks_like_zip, zip_entries
from seerctl.stream.ustar import BLOCK, CHUNK

SPOOL_BYTES = 1 << 36  # of a zip from a pipe, whose directory comes last
_SPARE = 1 << 30  # bytes that spooling leaves free on the disk
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}
_INFLATERS: dict[str, Callable[[Any], object]] = {"gzip": gzip.open, "xz": lzma.LZMAFile, "bzip2": bz2.BZ2File}


def archive_items(
    file: BinaryIO,
    head: bytes,
    where: str,
    check: CheckOptions,
    labels: bool,
    *,
    path: Path | None = None,
    prefix: str = "",
) -> Iterator[Item] | None:
    """The members of the archive in `file`, which begins with `head` (512 bytes), or None where it begins like none.

    With `path`, `file` is that file; without, it may be a pipe. Names of members get `prefix`.

    Raises:
        InputError: later, by the items: it is cut or damaged.
    """
    if looks_like_tar(head):
        return tar_items(file, where, check, labels, path, prefix)
    if looks_like_zip(head):
        return _zip_items(file, where, check, labels, prefix)
    if compression(head):
        return guard(tar_items(inflate(file, head), where, check, labels, prefix=prefix), where)
    return None


def file_members(path: Path, check: CheckOptions, labels: bool, prefix: str = "") -> Iterator[Item] | None:
    """The members of the archive at `path`, or None where it begins like none.

    Raises:
        InputError: later, by the items: it is cut or damaged.
    """
    with blame(path), path.open("rb") as file:
        head = file.read(BLOCK)
    if not (looks_like_tar(head) or looks_like_zip(head) or compression(head)):
        return None
    return _opened(path, head, check, labels, prefix)


def _opened(path: Path, head: bytes, check: CheckOptions, labels: bool, prefix: str) -> Iterator[Item]:
    with blame(path), path.open("rb", buffering=1 << 16) as file:
        items = archive_items(file, head, str(path), check, labels, path=path, prefix=prefix)
        assert items is not None
        yield from items


def _zip_items(file: BinaryIO, where: str, check: CheckOptions, labels: bool, prefix: str) -> Iterator[Item]:
    if file.seekable():
        yield from member_items(zip_entries(file, where), check, labels, prefix)
        return
    with spooled(file, where) as copy:
        yield from member_items(zip_entries(copy, where), check, labels, prefix)


def spooled(file: BinaryIO, where: str, limit: int = SPOOL_BYTES) -> BinaryIO:
    """All of `file` in a temporary file without a name, under $TMPDIR; closing it frees the disk.

    Raises:
        InputError: it is longer than `limit`.
        EnvironmentFault: the disk has no room for it.
    """
    directory = tempfile.gettempdir()
    copy = cast(BinaryIO, tempfile.TemporaryFile(dir=directory))  # noqa: SIM115
    try:
        copy_bounded(file, copy, where, directory, limit)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def copy_bounded(file: BinaryIO, copy: BinaryIO, where: str, directory: str, limit: int = SPOOL_BYTES) -> None:
    """Write all of `file` to `copy`, which lies in `directory`; the errors are those of `spooled`."""
    left, room = limit, free_bytes(Path(directory)) - _SPARE
    with blame(directory):
        while piece := file.read(CHUNK):
            left, room = left - len(piece), room - len(piece)
            if left < 0:
                raise InputError(f"{where}: more than {limit:,} bytes", "Save it first, then name the file")
            if room < 0:
                raise EnvironmentFault(f"{directory}: no room for a copy of {where}", "Set TMPDIR to a larger disk")
            copy.write(piece)


def compression(head: bytes) -> str | None:
    """The compression a file begins with, or None."""
    return next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)


def inflate(file: BinaryIO, head: bytes) -> BinaryIO:
    """`file`, which begins with `head`, without its compression."""
    kind = compression(head)
    return cast(BinaryIO, _INFLATERS[kind](file)) if kind else file


def open_inflated(path: str | os.PathLike[str], head: bytes) -> BinaryIO:
    """The file at `path`, which begins with `head`, without its compression; closing it closes all of it."""
    kind = compression(head)
    return cast(BinaryIO, _INFLATERS[kind](path)) if kind else Path(path).open("rb")


def guard(items: Iterator[Item], where: str) -> Iterator[Item]:
    """Faults of a compressed file as one line that names it."""
    try:
        yield from items
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # gzip and bz2 raise a bare OSError for bad data
            raise
        raise InputError(f"{where}: cut or damaged ({error})", "Copy it again") from None


def replayed(head: bytes, file: BinaryIO) -> BinaryIO:
    """A pipe whose first bytes, `head`, were looked at and come again."""
    return cast(BinaryIO, io.BufferedReader(_Replay(head, file), CHUNK))


class _Replay(io.RawIOBase):
    def __init__(self, head: bytes, file: BinaryIO) -> None:
        super().__init__()
        self._head = head
        self._more = getattr(file, "read1", file.read)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if self._head:
            piece, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        else:
            piece = self._more(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
