"""From what the user named to candidates: which kind of source is each argument, told by content before name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.sources.check import CheckOptions
from seerctl.sources.folder import file_item, folder_items
from seerctl.sources.item import Item
from seerctl.sources.listing import list_items
from seerctl.sources.members import tar_items
from seerctl.sources.table import SUFFIXES, table_items
from seerctl.sources.tar import looks_like_tar
from seerctl.stream.ustar import BLOCK, CHUNK

STDIN = "-"
_LIST_SUFFIXES = (".txt", ".lst", ".list")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}
_INFLATERS: dict[str, Callable[[Any], object]] = {"gzip": gzip.open, "xz": lzma.LZMAFile, "bzip2": bz2.BZ2File}


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How sources are read: `labels` from directory names, the table's `path_column`, NUL-terminated lists."""

    labels: bool = True
    path_column: str | None = None
    null: bool = False


def require(arguments: Sequence[str]) -> None:
    """Nothing is written before every argument is known to exist.

    Raises:
        InputError: one does not.
    """
    for argument in arguments:
        if argument != STDIN:
            with blame(argument):
                if not Path(argument).exists():
                    raise InputError(f"{argument}: no such file or directory", "Check the path")


def expand(
    arguments: Sequence[str], stdin: BinaryIO | None, options: SourceOptions, check: CheckOptions
) -> Iterator[Item]:
    """Every candidate in `arguments`: directories, images, tars, tables, lists; `-` is `stdin`.

    Raises:
        InputError: an argument is missing, or an archive or table is damaged.
    """
    for argument in arguments:
        if argument == STDIN:
            assert stdin is not None
            yield from _stdin_items(stdin, options, check)
        elif Path(argument).is_dir():
            yield from folder_items(Path(argument), options.labels)
        else:
            yield from _file_items(Path(argument), options, check)


def _file_items(path: Path, options: SourceOptions, check: CheckOptions) -> Iterator[Item]:
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if not path.is_file():
        raise InputError(f"{path}: neither a file nor a directory", "Name images, folders, tars, lists or tables")
    with blame(path), path.open("rb", buffering=1 << 16) as file:
        head = file.read(BLOCK)
        file.seek(0)
        if suffix in SUFFIXES:
            opener = partial(_open_inflated, path, head)
            yield from _guard(table_items(path, opener, options.path_column), str(path))
        elif looks_like_tar(head):
            yield from tar_items(file, str(path), check, options.labels, path)
        elif compression(head):
            yield from _guard(tar_items(_inflate(file, head), str(path), check, options.labels), str(path))
        elif name.endswith((".tar", ".tgz", ".tar.gz")):
            raise InputError(f"{path}: not a tar archive, or one damaged in its first header", "Copy it again")
        elif suffix in _LIST_SUFFIXES:
            yield from list_items(file, options.labels, null=options.null)
        else:
            yield file_item(path)


def _stdin_items(stdin: BinaryIO, options: SourceOptions, check: CheckOptions) -> Iterator[Item]:
    """A tar stream, compressed or not, is told from a list by its first 512 bytes."""
    head = stdin.read(BLOCK)
    file = cast(BinaryIO, io.BufferedReader(_Replay(head, stdin), CHUNK))
    if compression(head):
        yield from _guard(tar_items(_inflate(file, head), "stdin", check, options.labels), "stdin")
    elif looks_like_tar(head):
        yield from tar_items(file, "stdin", check, options.labels)
    else:
        yield from list_items(file, options.labels, null=options.null)


class _Replay(io.RawIOBase):
    """A pipe whose first bytes were looked at and come again."""

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


def compression(head: bytes) -> str | None:
    """The compression a file begins with, or None."""
    return next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)


def _inflate(file: BinaryIO, head: bytes) -> BinaryIO:
    kind = compression(head)
    return cast(BinaryIO, _INFLATERS[kind](file)) if kind else file


def _open_inflated(path: Path, head: bytes) -> BinaryIO:
    """The file at `path`, which begins with `head`, without its compression; closing it closes all of it."""
    kind = compression(head)
    return cast(BinaryIO, _INFLATERS[kind](path)) if kind else path.open("rb")


def _guard(items: Iterator[Item], where: str) -> Iterator[Item]:
    """Faults of a compressed file as one line that names it."""
    try:
        yield from items
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # gzip and bz2 raise a bare OSError for bad data
            raise
        raise InputError(f"{where}: cut or damaged ({error})", "Copy it again") from None
