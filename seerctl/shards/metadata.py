"""All samples' columns of a shard set, from the `<key>.json` members alone: no picture is read, none is decoded.

Of each sample two small reads are made, its first header and its json; what is held are 12 bytes a row and column, and
the distinct names of text columns.
"""

from __future__ import annotations

import itertools
import os
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
    builders = {name: ColumnBuilder() for name in names}
    appends = [(name, builder.append) for name, builder in builders.items()]
    keys = bytearray()
    for entry in shards.index["shardlist"]:
        for number, (key, meta) in enumerate(_shard(shards.path.parent / entry["url"], entry), 1):
            keys += key
            values = meta["columns"]
            for name, append in appends:
                append(values.get(name))
            if progress is not None and number % _BATCH == 0:
                progress(_BATCH)
        if progress is not None:
            progress(int(entry["nsamples"]) % _BATCH)
    found = {name: builder.finish() for name, builder in builders.items()}
    return Metadata(np.frombuffer(bytes(keys), dtype=KEY), found)


def read_keys(shards: ShardSet) -> NDArray[np.bytes_]:
    """(N,) S25: the key of every sample, from the headers alone.

    Raises:
        InputError: a shard is missing, cut or damaged; the message names it.
    """
    keys = bytearray()
    for entry in shards.index["shardlist"]:
        path = shards.path.parent / entry["url"]
        descriptor, offsets = _open(path, entry)
        with blame(path):
            try:
                for start in offsets[:-1]:
                    keys += _first(descriptor, start, str(path))[0]
            finally:
                os.close(descriptor)
    return np.frombuffer(bytes(keys), dtype=KEY)


def _shard(path: Path, entry: dict[str, Any]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """(key, json) of every sample of one shard."""
    descriptor, offsets = _open(path, entry)
    where = str(path)
    with blame(path):
        try:
            for start, end in itertools.pairwise(offsets):
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
                yield key, decode_meta(raw[BLOCK : BLOCK + length], f"{where}: {name}")
        finally:
            os.close(descriptor)


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
