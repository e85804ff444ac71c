"""One file, or standard input, as candidates: an image, an archive, a table or a list."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.sources.archives import archive_items, guard, inflate, open_inflated, replayed
from seerctl.sources.check import CheckOptions
from seerctl.sources.folder import file_item
from seerctl.sources.item import Item
from seerctl.sources.listing import list_items
from seerctl.sources.options import LIST_SUFFIXES, SourceOptions, named_like_archive
from seerctl.sources.table import SUFFIXES, table_items
from seerctl.stream.ustar import BLOCK


def file_items(path: Path, options: SourceOptions, check: CheckOptions, prefix: str = "") -> Iterator[Item]:
    """What the file at `path` holds, told by content before name; members of an archive get `prefix`.

    Raises:
        InputError: it is missing, or is called an archive and begins like none.
    """
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


def stdin_items(stdin: BinaryIO, options: SourceOptions, check: CheckOptions) -> Iterator[Item]:
    """An archive, compressed or not, is told from a list by its first 512 bytes."""
    head = stdin.read(BLOCK)
    file = replayed(head, stdin)
    members = archive_items(file, head, "stdin", check, options.labels)
    yield from list_items(file, options.labels, null=options.null) if members is None else members
