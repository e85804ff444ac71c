"""`ingest --skip-known`: the sources that a shard set holds, or a list of rejects names, which need no second look.

A picture is known by its source and by its size in bytes, where both are told: another file of the same name is not. A
source that stands there twice is passed over twice, so that names relative to different arguments do not hide each
other. Rejects that were the place's fault rather than the file's are tried again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seerctl.errors import UsageError
from seerctl.files import blame, json_text
from seerctl.fingers import FINGER, FingerTable
from seerctl.shards.index import INDEX, ShardSet
from seerctl.shards.leftovers import DUPLICATES, REJECTS
from seerctl.shards.pending import Pending, load_pending
from seerctl.shards.shardfile import read_offsets
from seerctl.sources.item import Item
from seerctl.sources.ledger import read_ledger
from seerctl.sources.reasons import passing
from seerctl.stream.records import decode_meta
from seerctl.stream.ustar import BLOCK, padded, parse

_ANY_SIZE = b"\xff\xff\xff\xff"
Tell = Callable[[bytes, bytes], object]  # the first bytes of a SHA-256 and the second half of a key


@dataclass(frozen=True, slots=True)
class _Stored:
    """One stored sample: what its json says, the bytes that it was made from, the second half of its key."""

    meta: dict[str, Any]
    size: int
    half: bytes


class KnownSources:
    """What `places` hold: shard sets (also split, also unfinished) and lists of rejects; nothing where nothing is.

    options: of the stream to come, as its start marker has them. tell: is told of every stored sample.

    Raises:
        UsageError: a set was made with other options, so that what it leaves out may be wanted now.
        InputError: something there is damaged.
    """

    def __init__(self, places: Sequence[str], options: Mapping[str, Any], tell: Tell | None = None) -> None:
        self._table = FingerTable()
        self._options = json.loads(json_text(dict(options)))
        self._tell = tell or (lambda *_: None)
        self.tokens: list[str] = []  # of unfinished shards, for the start marker
        try:
            for place in map(Path, places):
                if place.is_dir():
                    self._read_directory(place)
                elif place.is_file():
                    self._read_ledger(place)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._table)

    def skip(self, item: Item) -> bool:
        """Whether `item` is known; each that is known is passed over once."""
        finger = _finger(item.source)
        sized = item.verdict is None and not item.url and (item.path or item.data is not None)
        return self._table.take(finger, _size(item.size), _ANY_SIZE) if sized else self._table.take(finger)

    def close(self) -> None:
        """Give the space back."""
        self._table.close()

    def _read_directory(self, place: Path) -> None:
        for directory in (place, *sorted(path for path in place.iterdir() if path.is_dir())):
            if (directory / INDEX).is_file():
                with ShardSet.open(directory) as shards:
                    streams = shards.index.get("lineage", {}).get("streams", [])
                    self._check(directory, (stream.get("options") for stream in streams))
                    for entry in shards.index["shardlist"]:
                        path = directory / entry["url"]
                        self._add(_samples(path, read_offsets(path)))
                self._read_duplicates(directory / DUPLICATES)
            pending = load_pending(directory)
            if pending is not None:
                self._read_pending(pending)
            if (directory / REJECTS).is_file():
                self._read_ledger(directory / REJECTS)

    def _read_pending(self, pending: Pending) -> None:
        self._check(pending.directory, pending.options)
        self.tokens.append(pending.token)
        for entry in pending.entries:
            self._add(_samples(*pending.opened(entry)))

    def _read_ledger(self, path: Path) -> None:
        for source, reason in read_ledger(path):
            if not passing(reason):
                self._table.add(_finger(source), _ANY_SIZE)

    def _read_duplicates(self, path: Path) -> None:
        """What `shard --dedup near` left out was seen too."""
        if path.is_file():
            with blame(path), path.open("rb") as file:
                for line in file:
                    self._table.add(_finger(str(json.loads(line).get("source"))), _ANY_SIZE)

    def _add(self, samples: Iterable[_Stored]) -> None:
        for sample in samples:
            self._table.add(_finger(sample.meta["source"]), _size(sample.size))
            self._tell(bytes.fromhex(sample.meta["sha256"])[:FINGER], sample.half)

    def _check(self, directory: Path, made_with: Iterable[Any]) -> None:
        for options in made_with:
            if options != self._options:
                raise UsageError(
                    f"--skip-known {directory}: was made with {_difference(options, self._options)}",
                    "Pass the same options, or make a set of its own",
                )


def _samples(path: Path, offsets: Sequence[int]) -> Iterator[_Stored]:
    """The samples of one shard, without reading a picture."""
    with blame(path), path.open("rb") as file:
        for start, end in itertools.pairwise(offsets):
            name, size = parse(os.pread(file.fileno(), BLOCK, start), str(path), start)
            second = start + BLOCK + padded(size)
            text = os.pread(file.fileno(), end - second, second)
            other, length = parse(text[:BLOCK], str(path), second)
            meta = decode_meta(text[BLOCK : BLOCK + length], f"{path}: {other}")
            yield _Stored(meta, int(meta.get("orig_bytes", size)), bytes.fromhex(name[17:25]))


def _finger(source: str) -> bytes:
    return hashlib.sha256(source.encode()).digest()[:FINGER]


def _size(size: int) -> bytes:
    return (size % 0xFFFFFFFF).to_bytes(4, "little")


def _difference(there: Any, now: Mapping[str, Any]) -> str:
    """The first option that differs, in words."""
    if not isinstance(there, dict):
        return "options that nobody noted"
    name = min(name for name in {*there, *now} if there.get(name) != now.get(name))
    return f"{name} = {json.dumps(there.get(name))}, not {json.dumps(now.get(name))}"
