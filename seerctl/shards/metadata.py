"""All samples' columns of a shard set, from the `<key>.json` members alone: no picture is read, none is decoded.

Of each sample two small reads are made, its first header and its json (or one, where it is small); what is held are up
to 12 bytes a row and column, and the distinct names of text columns.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.columns import Column, ColumnBuilder
from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.files import blame
from seerctl.shards.index import ShardSet
from seerctl.shards.shardfile import read_offsets
from seerctl.stream.records import SAMPLE_NAME, decode_meta
from seerctl.stream.ustar import BLOCK, TarError, padded, parse

KEY = "S25"
_BATCH = 1024  # samples between two calls of `progress`
_SMALL = 1 << 14  # bytes of a sample that are read at once, picture and all
_REMEMBERED = 1 << 16  # different texts of columns that are known by heart
_NAME = re.compile(rb"([0-9a-f]{16}-[0-9a-f]{8})\.[a-z0-9]{1,8}\0")
_BEFORE, _AFTER = b'{"columns":', b',"format":'
_DAMAGE = "Run 'seerctl inspect DIR --verify'"


@dataclass(frozen=True, slots=True, eq=False)
class Metadata:
    """What the N samples of a set say of themselves, in the order of the index.

    keys: (N,) S25. columns: by name, each of N rows.
    """

    keys: NDArray[np.bytes_]
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.keys)


def check_columns(shards: ShardSet, names: Sequence[str]) -> None:
    """Nothing, if the set has all these columns.

    Raises:
        UsageError: it has not; the message names the closest one there is.
    """
    for name in names:
        if name not in shards.columns:
            raise UsageError(f"{shards.location}: no column '{name}'", did_you_mean(name, shards.columns))


def read_metadata(shards: ShardSet, names: Sequence[str], progress: Callable[[int], None] | None = None) -> Metadata:
    """Keys and the columns `names` of every sample; `progress` hears how many samples were read.

    Raises:
        UsageError: the set has no such column.
        InputError: a shard is missing, cut or damaged; the message names it.
    """
    check_columns(shards, names)
    keys, rows = bytearray(), _Rows(names)
    for path, entry in shards.paths():
        for number, (key, text) in enumerate(_shard(path, entry), 1):
            keys += key
            rows.add(text, path, key)
            if progress is not None and number % _BATCH == 0:
                progress(_BATCH)
        if progress is not None:
            progress(int(entry["nsamples"]) % _BATCH)
    return Metadata(np.frombuffer(bytes(keys), dtype=KEY), rows.finish())


class _Rows:
    """Columns from the jsons of samples, of which equal ones are parsed once: most of a set repeats a few thousand.

    Keys of our jsons are sorted, so that the text between `{"columns":` and `,"format":` is that of the columns if it
    is JSON by itself.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.builders = {name: ColumnBuilder() for name in names}
        self.appends = [(name, builder.append) for name, builder in self.builders.items()]
        self.seen: dict[bytes, int] = {}  # text to the row of the builders that holds it
        self.rows = array("q")
        self.built = 0

    def add(self, text: bytes, path: Path, key: bytes) -> None:
        """The columns of the next sample."""
        part = text[len(_BEFORE) : text.find(_AFTER)] if text.startswith(_BEFORE) else b""
        row = self.seen.get(part, -1)
        if row < 0:
            row = self._new(part, decode_meta(text, f"{path}: {key.decode()}.json")["columns"])
        self.rows.append(row)

    def _new(self, part: bytes, columns: dict[str, Any]) -> int:
        for name, append in self.appends:
            append(columns.get(name))
        row, self.built = self.built, self.built + 1
        if part and _parsed(part) == columns:
            if len(self.seen) >= _REMEMBERED:
                self.seen.clear()
            self.seen[part] = row
        return row

    def finish(self) -> dict[str, Column]:
        """The columns, a row for each sample."""
        rows = np.frombuffer(self.rows, dtype=np.int64)
        return {name: builder.finish().take(rows) for name, builder in self.builders.items()}


def _parsed(part: bytes) -> object:
    try:
        return json.loads(part)
    except (ValueError, RecursionError):
        return None


def read_keys(shards: ShardSet) -> NDArray[np.bytes_]:
    """(N,) S25: the key of every sample, from the headers alone.

    Raises:
        InputError: a shard is missing, cut or damaged; the message names it.
    """
    keys = bytearray()
    for path, entry in shards.paths():
        descriptor, offsets = _open(path, entry)
        with blame(path):
            try:
                for start in offsets[:-1]:
                    keys += _first(descriptor, start, str(path))[0]
            finally:
                os.close(descriptor)
    return np.frombuffer(bytes(keys), dtype=KEY)


def read_sources(shards: ShardSet) -> dict[str, str]:
    """The `source` of every sample, by key.

    Raises:
        InputError: a shard is missing, cut or damaged; the message names it.
    """
    found = {}
    for path, entry in shards.paths():
        for key, text in _shard(path, entry):
            name = key.decode()
            found[name] = str(decode_meta(text, f"{path}: {name}.json")["source"])
    return found


def _shard(path: Path, entry: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """(key, json) of every sample of one shard."""
    descriptor, offsets = _open(path, entry)
    where = str(path)
    with blame(path):
        try:
            for start, end in itertools.pairwise(offsets):
                yield _sample(descriptor, start, end) or _checked(descriptor, start, end, where)
        finally:
            os.close(descriptor)


def _sample(descriptor: int, start: int, end: int) -> tuple[bytes, bytes] | None:
    """(key, json) of the sample in these bytes; None if they do not look like one, for `_checked` to say why.

    Names, sizes and places have to fit together; sums of headers are left to `inspect --verify`, which costs as much as
    all the rest here.
    """
    extent = end - start
    raw = os.pread(descriptor, extent if extent <= _SMALL else BLOCK, start)
    match, size = _NAME.match(raw), raw[124:135]
    if match is None or not size.isdigit():
        return None
    second = BLOCK + padded(int(size, 8)) if not size.strip(b"01234567") else extent
    if second >= extent:
        return None
    tail = raw[second:] if extent <= _SMALL else os.pread(descriptor, extent - second, start + second)
    key, size = match[1], tail[124:135]
    if len(tail) != extent - second or not tail.startswith(key + b".json\0") or size.strip(b"01234567") or not size:
        return None
    length = int(size, 8)
    return (key, tail[BLOCK : BLOCK + length]) if second + BLOCK + padded(length) == extent else None


def _checked(descriptor: int, start: int, end: int, where: str) -> tuple[bytes, bytes]:
    """(key, json) of a sample, every byte of its headers checked.

    Raises:
        InputError: what is wrong with it.
    """
    key, size = _first(descriptor, start, where)
    second = start + BLOCK + padded(size)
    if not second < end:
        raise TarError(where, "member", start, "a picture that reaches into the next sample")
    raw = os.pread(descriptor, end - second, second)
    name, length = parse(raw[:BLOCK], where, second)
    if name.encode() != key + b".json" or second + BLOCK + padded(length) != end:
        raise TarError(where, "member", second, f"{name!r} is not the json of {key.decode()}")
    if len(raw) != end - second:
        raise InputError(f"{where}: ends inside sample {key.decode()}", _DAMAGE)
    return key, raw[BLOCK : BLOCK + length]


def _first(descriptor: int, start: int, where: str) -> tuple[bytes, int]:
    """The key of the sample at `start`, and the size of its picture."""
    name, size = parse(os.pread(descriptor, BLOCK, start), where, start)
    match = SAMPLE_NAME.fullmatch(name)
    if match is None:
        raise TarError(where, "member", start, f"{name!r} is no sample")
    return match[1].encode(), size


def _open(path: Path, entry: dict[str, Any]) -> tuple[int, array[int]]:
    """A descriptor of a shard, and its offsets, both of the size that the index says."""
    with blame(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise InputError(f"{path}: the shard is missing", _DAMAGE) from None
        try:
            size = os.fstat(descriptor).st_size
            if size != entry["filesize"]:
                raise InputError(f"{path}: {size} bytes, not {entry['filesize']}", _DAMAGE)
            offsets = read_offsets(path)
            in_order = all(start < end for start, end in itertools.pairwise(offsets))
            if len(offsets) != entry["nsamples"] + 1 or offsets[0] != 0 or not in_order or offsets[-1] > size:
                raise InputError(f"{path}.idx: not the offsets of {entry['nsamples']} samples", _DAMAGE)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor, offsets
