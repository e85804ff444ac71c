"""A URL as an argument: an archive, a table or a list is opened, anything else is a picture to be fetched."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from seerctl.errors import InputError
from seerctl.sources.archives import (
    archive_items,
    copy_bounded,
    guard,
    inflate,
    open_inflated,
    replayed,
)
from seerctl.sources.check import CheckOptions
from seerctl.sources.item import Item
from seerctl.sources.listing import list_items
from seerctl.sources.locate import locator, url_item
from seerctl.sources.options import LIST_SUFFIXES, SourceOptions, named_like_archive
from seerctl.sources.table import SUFFIXES, table_items
from seerctl.sources.web.client import Web
from seerctl.sources.web.urls import is_web
from seerctl.sources.web.urls import named as printed
from seerctl.stream.ustar import BLOCK


def remote_items(url: str, web: Web, options: SourceOptions, check: CheckOptions) -> Iterator[Item]:
    """What is at `url`: a prefix or a pattern of an object store, else told by the end of its path.

    Raises:
        InputError: an archive, a table or a list is not there, or damaged.
        EnvironmentFault: it cannot be had at the moment.
    """
    if not is_web(url) and any(symbol in url for symbol in "*?["):
        yield from _stored(url, web, options, check)
        return
    name = PurePosixPath(unquote(urlsplit(url).path) if is_web(url) else url).name.lower()
    suffix = PurePosixPath(name.removesuffix(".gz")).suffix
    if suffix in SUFFIXES:
        yield from _table_items(url, name, web, options)
    elif suffix in LIST_SUFFIXES:
        with web.open(url) as file:
            head, file = _peeked(file)
            yield from guard(
                list_items(inflate(file, head), options.labels, null=options.null, base=_base(url)), printed(url)
            )
    elif named_like_archive(name):
        yield from _members(url, web, options, check)
    elif is_web(url):
        yield url_item(url, {})
    else:
        yield from _stored(url, web, options, check)


def _stored(url: str, web: Web, options: SourceOptions, check: CheckOptions) -> Iterator[Item]:
    """Objects of a store, and what is in the archives among them, as in a folder."""
    for item in web.stored(url, options.labels):
        if named_like_archive(item.source):
            yield from _members(item.url, web, options, check, item.source + "/")
        else:
            yield item


def _members(url: str, web: Web, options: SourceOptions, check: CheckOptions, prefix: str = "") -> Iterator[Item]:
    with web.open(url) as file:
        head, file = _peeked(file)
        members = archive_items(file, head, printed(url), check, options.labels, prefix=prefix)
        if members is None:
            raise InputError(f"{printed(url)}: not an archive, or one damaged in its first header", "Check the URL")
        yield from members


def _table_items(url: str, name: str, web: Web, options: SourceOptions) -> Iterator[Item]:
    """A table is read twice (for the types of its columns): from a copy."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / name
        with web.open(url) as file, copy.open("wb") as target:
            copy_bounded(file, target, printed(url), directory)
        with copy.open("rb") as file:
            opener = partial(open_inflated, copy, file.read(BLOCK))
        items = table_items(copy, opener, options.path_column, options.url_column, locator(_base(url)))
        yield from guard(items, printed(url))


def _peeked(file: BinaryIO) -> tuple[bytes, BinaryIO]:
    """(its first 512 bytes, `file` from its start)."""
    head = file.read(BLOCK)
    if not file.seekable():
        return head, replayed(head, file)
    file.seek(0)
    return head, file


def _base(url: str) -> str:
    """What names beside `url` are relative to."""
    return url.partition("?")[0].rpartition("/")[0] + "/"
