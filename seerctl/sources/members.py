"""Samples in a tar: plain archives of pictures, WebDataset shards of others, and our own streams and shards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from seerctl.errors import InputError
from seerctl.sources.check import CheckOptions
from seerctl.sources.folder import labelled
from seerctl.sources.item import Item
from seerctl.sources.magic import named_like_image
from seerctl.sources.names import clean, normal
from seerctl.sources.reasons import Reason
from seerctl.sources.table import column_name, parse_row
from seerctl.sources.tar import Member, TarReader
from seerctl.stream.records import META_FIELDS

_SIDECARS = ("json", "cls", "txt")
_MAX_SIDECAR = 1 << 20
_MAX_IMAGES = 16  # of one sample held back for the columns that may follow them
_MARKER = re.compile(r"__[^/]*__(/|$)")  # what webdataset skips, and what our own markers are called
_INTEGER = re.compile(r"-?[0-9]{1,15}")


@dataclass(slots=True)
class _Group:
    """Adjacent members that share the name up to the first dot of the last part: one WebDataset sample."""

    key: str
    images: list[Item] = field(default_factory=list)
    size: int = 0
    sidecars: dict[str, bytes] = field(default_factory=dict)


def tar_items(
    file: BinaryIO, where: str, options: CheckOptions, labels: bool, path: Path | None = None
) -> Iterator[Item]:
    """The pictures in a tar, with the columns that lie beside them.

    `<key>.json` gives one column per key, `<key>.cls` the label, `<key>.txt` the column `text`. Where nothing gives a
    label, the member's directory does (`labels`). With `path`, `file` is that file, not compressed: workers then read
    the pictures themselves.

    Raises:
        InputError: the archive is cut or damaged.
    """
    reader = TarReader(file, where, seekable=path is not None)
    group = _Group("")
    for member in reader:
        name = normal(member.name).lstrip("/")
        if not name or _MARKER.match(name):
            continue
        directory, slash, base = name.rpartition("/")
        key = directory + slash + base.partition(".")[0]
        if key != group.key:
            yield from _finish(group, where, labels)
            group = _Group(key)
        suffix = name.rpartition(".")[2].lower()
        if suffix in _SIDECARS and member.is_file and member.size <= _MAX_SIDECAR:
            group.sidecars[suffix] = reader.read(member)
        else:
            group.images.append(_image(reader, member, name, options, path))
            group.size += member.size
            if len(group.images) >= _MAX_IMAGES or group.size > options.max_bytes:
                yield from _finish(group, where, labels)
                group.images.clear()
                group.size = 0
    yield from _finish(group, where, labels)


def _image(reader: TarReader, member: Member, name: str, options: CheckOptions, path: Path | None) -> Item:
    source = clean(name)
    item = Item(source, size=member.size, named=named_like_image(name))
    if not member.is_file:
        item.verdict = (Reason.UNREADABLE, "a link or device inside an archive")
    elif member.size > options.max_bytes:
        item.verdict = (Reason.TOO_LARGE, f"{member.size} bytes, more than {options.max_bytes}")
        item.size = 0
    elif path is not None:
        item.path, item.offset = str(path), member.offset
    else:
        item.data = reader.read(member)
    return item


def _finish(group: _Group, where: str, labels: bool) -> Iterator[Item]:
    if not group.images:
        # A text without a picture beside it claims nothing.
        return
    columns: dict[str, Any] = {}
    source: str | None = None
    if "json" in group.sidecars:
        row = parse_row(group.sidecars["json"])
        if row is None:
            raise InputError(f"{where}: {clean(group.key)}.json is no JSON object", "Mend it or leave it out")
        if row.keys() >= META_FIELDS and isinstance(row["columns"], dict):
            columns, source = row["columns"], str(row["source"])  # a sample of ours, checked again
        else:
            columns = {column_name(name): value for name, value in row.items() if value is not None}
    if "cls" in group.sidecars:
        label = _text(group.sidecars["cls"])
        columns["label"] = int(label) if _INTEGER.fullmatch(label) else label
    if "txt" in group.sidecars:
        columns.setdefault("text", _text(group.sidecars["txt"]))
    for item in group.images:
        own = labelled(item.source, labels) if source is None and "label" not in columns else {}
        item.columns = {**own, **columns}
        item.source = source or item.source
        yield item


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()
