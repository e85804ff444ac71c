"""From what the user named to candidates: which kind of source is each argument, told by content before name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.sources.archives import (
    archive_items,
    file_members,
    guard,
    inflate,
    named_like_archive,
    open_inflated,
    replayed,
)
from seerctl.sources.check import CheckOptions
from seerctl.sources.folder import file_item, folder_items
from seerctl.sources.item import Item
from seerctl.sources.listing import list_items
from seerctl.sources.options import LIST_SUFFIXES, SourceOptions
from seerctl.sources.places import STDIN, is_url
from seerctl.sources.remote import remote_items
from seerctl.sources.shardset import shards_of
from seerctl.sources.table import SUFFIXES, table_items
from seerctl.sources.web.client import Web
from seerctl.stream.ustar import BLOCK


def expand(
    arguments: Sequence[str], stdin: BinaryIO | None, options: SourceOptions, check: CheckOptions, web: Web
) -> Iterator[Item]:
    """Every candidate in `arguments`: directories, images, archives, tables, lists, URLs; `-` is `stdin`.

    Pictures on the web are still to be fetched (`Item.url`); archives, tables and lists there are opened.

    Raises:
        InputError: an argument is missing, or an archive or table is damaged.
    """
    for argument in arguments:
        if argument == STDIN:
            assert stdin is not None
            yield from _stdin_items(stdin, options, check)
        elif is_url(argument):
            yield from remote_items(argument, web, options, check)
        elif Path(argument).is_dir():
            yield from _folder_items(Path(argument), options, check)
        else:
            yield from _file_items(Path(argument), options, check)


def _folder_items(root: Path, options: SourceOptions, check: CheckOptions) -> Iterator[Item]:
    """A shard set in the order of its index; else every file, and what is in the archives among them."""
    shards = shards_of(root)
    if shards is not None:
        for shard in shards:
            yield from _file_items(shard, options, check, prefix=shard.name + "/")
        return
    for item in folder_items(root, options.labels):
        members = None
        if named_like_archive(item.source) and item.verdict is None and Path(item.path).is_file():
            members = file_members(Path(item.path), check, options.labels, item.source + "/")
        yield from [item] if members is None else members


def _file_items(path: Path, options: SourceOptions, check: CheckOptions, prefix: str = "") -> Iterator[Item]:
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if not path.is_file():
        raise InputError(f"{path}: neither a file nor a directory", "Name images, folders, archives, lists or tables")
    with blame(path), path.open("rb", buffering=1 << 16) as file:
        head = file.read(BLOCK)
        file.seek(0)
        if suffix in SUFFIXES:
            opener = partial(open_inflated, path, head)
            yield from guard(table_items(path, opener, options.path_column, options.url_column), str(path))
        elif suffix in LIST_SUFFIXES:
            yield from guard(list_items(inflate(file, head), options.labels, null=options.null), str(path))
        elif (
            members := archive_items(file, head, str(path), check, options.labels, path=path, prefix=prefix)
        ) is not None:
            yield from members
        elif named_like_archive(name):
            raise InputError(f"{path}: not an archive, or one damaged in its first header", "Copy it again")
        else:
            yield file_item(path)


def _stdin_items(stdin: BinaryIO, options: SourceOptions, check: CheckOptions) -> Iterator[Item]:
    """An archive, compressed or not, is told from a list by its first 512 bytes."""
    head = stdin.read(BLOCK)
    file = replayed(head, stdin)
    members = archive_items(file, head, "stdin", check, options.labels)
    yield from list_items(file, options.labels, null=options.null) if members is None else members
