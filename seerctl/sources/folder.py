"""Images in directories: recursive, in one order everywhere, labels from directory names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.sources.item import Item
from seerctl.sources.magic import named_like_image
from seerctl.sources.names import clean, label_of
from seerctl.sources.reasons import Reason

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
    return _walk(os.fspath(root), "", ((status.st_dev, status.st_ino),), labels)


def _walk(directory: str, prefix: str, above: tuple[tuple[int, int], ...], labels: bool) -> Iterator[Item]:
    # What is the same for all files here is worked out once.
    above_here, label = clean(prefix), label_of(clean(prefix) + "x") if labels else None
    try:
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield Item(clean(prefix), verdict=(Reason.UNREADABLE, os.strerror(error.errno or 0)))
        return
    for entry in entries:
        source = prefix + entry.name
        try:
            status = entry.stat()
        except OSError as error:  # a dangling or circular link, or it went away
            named = named_like_image(entry.name)
            yield Item(clean(source), named=named, verdict=(Reason.UNREADABLE, os.strerror(error.errno or 0)))
            continue
        if stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            if identity not in above and entry.name != _ENERGON:
                yield from _walk(entry.path, source + "/", (*above, identity), labels)
        else:
            columns = {} if label is None else {"label": label}
            name = clean(entry.name)
            yield Item(above_here + name, entry.path, status.st_size, columns=columns, named=named_like_image(name))


def file_item(path: Path) -> Item:
    """One file that was named by itself; its source is its name."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: {os.strerror(error.errno or 0)}") from None
    return Item(clean(path.name), os.fspath(path), size)
