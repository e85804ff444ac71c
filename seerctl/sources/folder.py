"""Images in directories: recursive, in one order everywhere, labels from directory names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.sources.item import Item
from seerctl.sources.magic import named_like_image
from seerctl.sources.names import clean, label_of
from seerctl.sources.reasons import Reason

_name = attrgetter("name")
_ENERGON = ".nv-meta"  # what Megatron-Energon keeps beside shards: an index of them, no pictures


def labelled(source: str, labels: bool) -> dict[str, Any]:
    """The columns that a source's own path gives: its directory as `label`, if `labels` and if there is one."""
    label = label_of(source) if labels else None
    return {} if label is None else {"label": label}


def folder_items(root: Path, labels: bool) -> Iterator[Item]:
    """Every file below `root`, sorted by the bytes of names, directories among them.

    Symbolic links are followed, but never into a directory that we are in already.

    Raises:
        InputError: `root` itself cannot be listed.
    """
    status = root.stat()
    with blame(root):
        os.scandir(root).close()
    return _walk(_Directory(os.fspath(root), "", ((status.st_dev, status.st_ino),)), labels)


class _Directory(NamedTuple):
    """A directory to be listed: what its files are called before their names, and the directories it is in."""

    path: str
    prefix: str
    above: tuple[tuple[int, int], ...]


def _walk(root: _Directory, labels: bool) -> Iterator[Item]:
    """All files; a stack of listings, since each item would have to climb through every generator of a recursion."""
    listings = [_listed(root, labels)]
    while listings:
        for one in listings[-1]:
            if isinstance(one, _Directory):
                listings.append(_listed(one, labels))
                break
            yield one
        else:
            listings.pop()


def _listed(directory: _Directory, labels: bool) -> Iterator[Item | _Directory]:
    # What is the same for all files here is worked out once.
    prefix = clean(directory.prefix)
    label = label_of(prefix + "x") if labels else None
    try:
        with os.scandir(directory.path) as listing:
            entries = list(listing)
    except OSError as error:
        yield Item(prefix, verdict=(Reason.UNREADABLE, os.strerror(error.errno or 0)))
        return
    ascii_only = "".join([entry.name for entry in entries]).isascii()
    entries.sort(key=_name if ascii_only else lambda entry: os.fsencode(entry.name))
    for entry in entries:
        name = clean(entry.name)
        try:
            status = entry.stat()
        except OSError as error:  # a dangling or circular link, or it went away
            named = named_like_image(entry.name)
            yield Item(prefix + name, named=named, verdict=(Reason.UNREADABLE, os.strerror(error.errno or 0)))
            continue
        if stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            if identity not in directory.above and entry.name != _ENERGON:
                yield _Directory(entry.path, f"{directory.prefix}{entry.name}/", (*directory.above, identity))
        else:
            columns = {} if label is None else {"label": label}
            yield Item(prefix + name, entry.path, status.st_size, columns=columns, named=named_like_image(name))


def file_item(path: Path) -> Item:
    """One file that was named by itself; its source is its name."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: {os.strerror(error.errno or 0)}") from None
    return Item(clean(path.name), os.fspath(path), size)
