"""Re-reading a shard set, every byte: what is damaged, and where; and what a set says about itself."""

from __future__ import annotations

import array
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seerctl.errors import InputError, SeerctlError
from seerctl.files import blame
from seerctl.shards.index import ShardSet, parse_sample
from seerctl.shards.shardfile import idx_path, read_offsets
from seerctl.shards.summary import Summary, spread
from seerctl.stream.records import content_key
from seerctl.stream.ustar import BLOCK, CHUNK, END


@dataclass(frozen=True, slots=True)
class Damage:
    """One fault: in which file of the set, at which sample of it (None: the file as a whole), and what it is."""

    file: str
    sample: int | None
    fault: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.sample is None else f' sample {self.sample}'}: {self.fault}"


def verify(shards: ShardSet, progress: Callable[[int], None] | None = None) -> list[Damage]:
    """Every fault in the set: tar structure, offsets, SHA-256 of shards and of pictures, counts against the index.

    Nothing is raised for damage; `progress` is told of samples as they are read.
    """
    found: list[Damage] = []
    summary = Summary()
    seen: set[bytes] = set()
    for entry in shards.index["shardlist"]:
        found += _Shard(shards.path.parent / entry["url"], entry, summary, seen, progress or (lambda _: None)).faults()
    stated = {name: shards.index.get(name) for name in ("columns", "formats", "sides")}
    if not found and summary.to_json() != stated:
        found.append(Damage(shards.path.name, None, "what it says of columns, formats or sides is not what is there"))
    return found


@dataclass(slots=True)
class _Shard:
    """The check of one shard."""

    path: Path
    entry: dict[str, Any]
    summary: Summary
    seen: set[bytes]
    progress: Callable[[int], None]

    def faults(self) -> Iterator[Damage]:
        """Its faults, in the order of its bytes."""
        try:
            with blame(self.path), self.path.open("rb") as file:
                yield from self._size(os.fstat(file.fileno()).st_size)
                yield from self._content(file.fileno())
        except FileNotFoundError:
            yield Damage(self.path.name, None, "it is missing")
        except SeerctlError as error:
            yield Damage(self.path.name, None, error.message)

    def _size(self, size: int) -> Iterator[Damage]:
        if size != self.entry["filesize"]:
            yield Damage(self.path.name, None, f"it has {size} bytes, not {self.entry['filesize']}")

    def _content(self, descriptor: int) -> Iterator[Damage]:
        running = hashlib.sha256()
        try:
            offsets = read_offsets(self.path)
            fault = self._offsets_fault(offsets)
        except InputError as error:
            offsets, fault = array.array("Q"), error.message
        if fault:
            yield Damage(idx_path(self.path).name, None, fault)
            yield from self._hash(descriptor, running, 0)
            return
        for number, (start, end) in enumerate(itertools.pairwise(offsets)):
            raw = os.pread(descriptor, end - start, start)
            running.update(raw)
            fault = self._sample_fault(raw, start)
            if fault:
                yield Damage(self.path.name, number, fault)
            self.progress(1)
        tail = os.pread(descriptor, len(END) + 1, offsets[-1])
        if tail != END:
            yield Damage(self.path.name, None, "it does not end with two blocks of zeros")
        yield from self._hash(descriptor, running, offsets[-1])

    def _hash(self, descriptor: int, running: hashlib._Hash, at: int) -> Iterator[Damage]:
        """The hash of the whole file, of which `at` bytes are in `running` already."""
        while piece := os.pread(descriptor, CHUNK, at):
            running.update(piece)
            at += len(piece)
        if running.hexdigest() != self.entry["sha256"]:
            yield Damage(self.path.name, None, "its SHA-256 is not the one in the index")

    def _offsets_fault(self, offsets: array.array[int]) -> str | None:
        if len(offsets) != self.entry["nsamples"] + 1:
            return f"it has {len(offsets) - 1} samples, not {self.entry['nsamples']}"
        if offsets[0] != 0 or offsets[-1] + len(END) != self.entry["filesize"]:
            return "its first or last offset is wrong"
        if any(start >= end or end % BLOCK for start, end in itertools.pairwise(offsets)):
            return "its offsets are not in order"
        return None

    def _sample_fault(self, raw: bytes, start: int) -> str | None:
        try:
            sample = parse_sample(raw, self.path.name, start)
        except InputError as error:
            return error.message.removeprefix(f"{self.path.name}: ")
        if hashlib.sha256(sample.image).hexdigest() != sample.meta["sha256"]:
            return f"the bytes of {sample.key}.{sample.ext} are not those of its sha256"
        if sample.key != content_key(sample.meta["sha256"], sample.meta["source"]):
            return f"the key {sample.key} is not that of its sha256 and source"
        packed = bytes.fromhex(sample.key.replace("-", ""))
        if packed in self.seen:
            return f"the key {sample.key} comes twice"
        self.seen.add(packed)
        self.summary.add(sample.meta)
        return None


def describe(shards: ShardSet) -> dict[str, Any]:
    """What a set holds, from its index alone: plain JSON values; sides as [least, median, greatest] pixels."""
    index = shards.index
    summary = Summary.from_json(index)
    sides = {"short": summary.short_sides, "long": summary.long_sides}
    return {
        "kind": "shards",
        "location": shards.location,
        "index_sha256": shards.sha256,
        "seerctl": index["seerctl"],
        "samples": len(shards),
        "shards": len(index["shardlist"]),
        "bytes": index["bytes"],
        **({"split": index["split"]} if "split" in index else {}),
        "formats": index["formats"],
        "sides": {name: list(spread(counts)) for name, counts in sides.items() if counts},
        "columns": index["columns"],
        "rejects": index["rejects"],
        "over_limit": index["over_limit"],
        "duplicates": index["duplicates"],
        **({"near_duplicates": index["near_duplicates"]} if "near_duplicates" in index else {}),
        **({"dropped": len(index["dropped"])} if "dropped" in index else {}),
        "lineage": index["lineage"],
    }
