"""Samples in archives: plain ones of pictures, WebDataset shards of others, and our own streams and shards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from seerctl.sources.check import CheckOptions
from seerctl.sources.folder import labelled
from seerctl.sources.item import Item
from seerctl.sources.magic import named_like_image
from seerctl.sources.names import clean, normal
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.table import column_name, parse_json, parse_row
from seerctl.sources.tar import TarReader
from seerctl.stream.records import META_FIELDS

_OWN_COLUMN = {"cls": "label", "class": "label", "txt": "text"}
_TEXTS = ("cls", "class", "txt", "text", "caption", "transcript", "count", "index", "id")
_SIDECARS = (*_TEXTS, "json")
_MAX_SIDECAR = 1 << 20
_MAX_IMAGES = 16  # of one sample held back for the columns that may follow them
# What webdataset skips and what our own markers are called; copies of a Mac's resource forks.
_MARKER = re.compile(r"__[^/]*__(/|$)|__MACOSX/")
_INTEGER = re.compile(r"-?[0-9]{1,15}")


@dataclass(slots=True)
class Entry:
    """Something in an archive: `load` gives its bytes while it is the current one (RejectedError: why it cannot).

    With `path`, its `size` bytes lie as they are at `offset` of that file. `verdict`: why nothing can come of it.
    """

    name: str
    size: int
    load: Callable[[], bytes]
    verdict: tuple[str, str] | None = None
    path: str = ""
    offset: int = -1


@dataclass(slots=True)
class _Group:
    """Adjacent members that share the name up to the first dot of the last part: one WebDataset sample."""

    key: str
    images: list[Item] = field(default_factory=list)
    size: int = 0
    sidecars: dict[str, bytes] = field(default_factory=dict)  # by what follows the key: "json", "depth.cls"


def tar_items(
    file: BinaryIO, where: str, options: CheckOptions, labels: bool, path: Path | None = None, prefix: str = ""
) -> Iterator[Item]:
    """The pictures in a tar, with the columns that lie beside them (see `member_items`).

    With `path`, `file` is that file, not compressed: workers then read the pictures themselves.

    Raises:
        InputError: the archive is cut or damaged.
    """
    return member_items(_tar_entries(TarReader(file, where, seekable=path is not None), path), options, labels, prefix)


def _tar_entries(reader: TarReader, path: Path | None) -> Iterator[Entry]:
    for member in reader:
        entry = Entry(member.name, member.size, partial(reader.read, member))
        if not member.is_file:
            entry.verdict = (Reason.UNREADABLE, "a link or device inside an archive")
        elif path is not None:
            entry.path, entry.offset = str(path), member.offset
        yield entry


def member_items(entries: Iterable[Entry], options: CheckOptions, labels: bool, prefix: str = "") -> Iterator[Item]:
    """Every member that may be a picture, `prefix` before its name, with the columns that lie beside it.

    What is adjacent and shares the name up to its first dot is one sample, as in WebDataset; each of its pictures
    (`key.jpg`, `key.depth.png`) is an item with the columns of all: `key.json` gives one column per name, `key.cls` the
    label, `key.txt` the column `text`, `key.caption.txt` the column `caption`. Where nothing gives a label, the
    member's directory does (`labels`).
    """
    group = _Group("")
    for entry in entries:
        name = normal(entry.name).lstrip("/")
        if not name or _MARKER.match(name):
            continue
        directory, slash, base = name.rpartition("/")
        stem, _, fields = base.partition(".")
        key = directory + slash + stem
        if key != group.key:
            yield from _finish(group, prefix, labels)
            group = _Group(key)
        if entry.verdict is None and entry.size <= _MAX_SIDECAR and fields.rpartition(".")[2].lower() in _SIDECARS:
            _keep_sidecar(group, fields.lower(), entry)
            continue
        group.images.append(_image(entry, name, options))
        group.size += entry.size
        if len(group.images) >= _MAX_IMAGES or group.size > options.max_bytes:
            yield from _finish(group, prefix, labels)
            group.images.clear()
            group.size = 0
    yield from _finish(group, prefix, labels)


def _keep_sidecar(group: _Group, fields: str, entry: Entry) -> None:
    try:
        data = entry.load()
    except RejectedError:
        data = b"{" if fields.endswith("json") else b""  # a json that cannot be read rejects its sample
    if len(group.sidecars) < _MAX_IMAGES or fields in group.sidecars:
        group.sidecars[fields] = data


def _image(entry: Entry, name: str, options: CheckOptions) -> Item:
    item = Item(clean(name), size=entry.size, named=named_like_image(name), verdict=entry.verdict)
    if entry.verdict is not None:
        return item
    if entry.size > options.max_bytes:
        item.verdict = (Reason.TOO_LARGE, f"{entry.size} bytes, more than {options.max_bytes}")
        item.size = 0
    elif entry.path:
        item.path, item.offset = entry.path, entry.offset
    else:
        try:
            item.data = entry.load()
        except RejectedError as refusal:
            item.verdict = (refusal.reason, refusal.detail)
    return item


def _finish(group: _Group, prefix: str, labels: bool) -> Iterator[Item]:
    if not group.images:
        # A text without a picture beside it claims nothing.
        return
    columns: dict[str, Any] | None = {}
    source: str | None = None
    row = parse_row(group.sidecars["json"]) if "json" in group.sidecars else None
    if row is not None and row.keys() >= META_FIELDS and isinstance(row["columns"], dict):
        columns, source = row["columns"], str(row["source"])  # a sample of ours, checked again
    else:
        columns = _columns(group.sidecars)
    for item in group.images:
        name = item.source
        item.source = source or prefix + name
        if columns is None:
            item.verdict = item.verdict or (Reason.BAD_ROW, "the .json beside it is no JSON")
        else:
            own = labelled(name, labels) if source is None and "label" not in columns else {}
            item.columns = {**own, **columns}
        yield item


def _columns(sidecars: dict[str, bytes]) -> dict[str, Any] | None:
    """What lies beside a picture as columns, or None where a json is none."""
    columns: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    for fields, data in sidecars.items():
        name, _, kind = fields.rpartition(".")
        if kind == "json":
            sound, value = parse_json(data)
            if not sound:
                return None
            row = value if isinstance(value, dict) and not name else {name or "json": value}
            columns |= {column_name(key): value for key, value in row.items() if value is not None}
        else:
            texts[column_name(name or _OWN_COLUMN.get(kind, kind))] = _field(kind, data)
    if "label" in texts:  # a class beside the picture goes before one in its json
        columns["label"] = texts.pop("label")
    if "caption" in columns and texts.get("text") == columns["caption"]:
        del texts["text"]  # img2dataset writes it twice
    return {**texts, **columns}


def _field(kind: str, data: bytes) -> int | str:
    text = data.decode("utf-8", "replace").strip()
    return int(text) if kind not in ("txt", "text", "caption", "transcript") and _INTEGER.fullmatch(text) else text
