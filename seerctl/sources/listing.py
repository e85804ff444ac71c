"""Images named by a list, one path a line (or NUL-terminated), as `find` and `git ls-files` print them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from seerctl.sources.folder import labelled
from seerctl.sources.item import Item
from seerctl.sources.names import clean, normal
from seerctl.sources.reasons import Reason

_MAX_LINE = 1 << 16


def list_items(file: BinaryIO, labels: bool, *, null: bool = False, base: str = "") -> Iterator[Item]:
    """The files named in `file`, in its order; relative paths start at `base` (the working directory)."""
    for line in _split_null(file) if null else file:
        name = line if null else line.rstrip(b"\r\n")
        if name:
            yield _item(os.fsdecode(name), labels, base)


def _item(path: str, labels: bool, base: str) -> Item:
    source = clean(normal(path))
    return path_item(source, os.path.join(base, path), labelled(source, labels))  # noqa: PTH118


def path_item(source: str, path: str, columns: dict[str, Any]) -> Item:
    """A file that somebody named: not being there is its verdict."""
    try:
        size = os.stat(path).st_size  # noqa: PTH116
    except FileNotFoundError:
        return Item(source, verdict=(Reason.MISSING, "no such file"))
    except (OSError, ValueError) as error:  # ValueError: a NUL inside
        detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        return Item(source, verdict=(Reason.UNREADABLE, detail))
    return Item(source, path, size, columns=columns)


def _split_null(file: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(_MAX_LINE):
        *names, rest = (rest + chunk).split(b"\0")
        yield from names
    yield rest
