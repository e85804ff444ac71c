"""Images named by a list, one path or URL a line (or NUL-terminated), as `find` and `git ls-files` print them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from seerctl.sources.folder import labelled
from seerctl.sources.item import Item
from seerctl.sources.locate import locator
from seerctl.sources.names import clean, normal
from seerctl.sources.places import is_url

_MAX_LINE = 1 << 16


def list_items(file: BinaryIO, labels: bool, *, null: bool = False, base: str = "") -> Iterator[Item]:
    """What is named in `file`, in its order; relative paths start at `base` (the working directory, or a URL)."""
    locate = locator(base)
    for line in _split_null(file) if null else file:
        name = os.fsdecode(line if null else line.rstrip(b"\r\n"))
        if name:
            yield locate(name, {} if is_url(name) else labelled(clean(normal(name)), labels))


def _split_null(file: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(_MAX_LINE):
        *names, rest = (rest + chunk).split(b"\0")
        yield from names
    yield rest
