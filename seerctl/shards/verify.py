"""Re-reading a shard set, every byte: what is damaged, and where; and what a set says about itself."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seerctl.errors import InputError, SeerctlError
from seerctl.files import blame
from seerctl.shards import energon
from seerctl.shards.index import INDEX, ShardSet, is_sealed, parse_sample, split_paths
from seerctl.shards.scan import find_samples, key_at
from seerctl.shards.shardfile import idx_path, read_offsets
from seerctl.shards.summary import Summary, quantiles
from seerctl.stream.records import compact, content_key
from seerctl.stream.ustar import BLOCK, CHUNK, END, padded, parse


@dataclass(frozen=True, slots=True)
class Damage:
    """One fault: in which file of the set, at which sample of it (None: the file as a whole), and what it is.

    offset: the byte at which the sample begins. key: its key, where that can still be read.
    """

    file: str
    sample: int | None
    fault: str
    offset: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        if self.sample is None:
            return f"{self.file}: {self.fault}"
        key = f" ({self.key})" if self.key and self.key not in self.fault else ""
        return f"{self.file} sample {self.sample} at byte {self.offset}{key}: {self.fault}"

    def to_json(self) -> dict[str, Any]:
        """Its fields; None where they do not apply."""
        return {"file": self.file, "sample": self.sample, "offset": self.offset, "key": self.key, "fault": self.fault}


def verify(shards: ShardSet, progress: Callable[[int], None] | None = None) -> list[Damage]:
    """Every fault in the set: tar structure, offsets, SHA-256 of shards and of pictures, counts against the index.

    Nothing is raised for damage; `progress` is told of samples as they are read.
    """
    found: list[Damage] = []
    summary = Summary()
    seen: set[bytes] = set()
    for number, entry in enumerate(shards.index["shardlist"]):
        try:
            path = shards.shard_path(number)
        except InputError as fault:  # of a set at a URL, what arrives is checked before it is a file
            found.append(Damage(str(entry["url"]), None, fault.message))
        else:
            found += check_shard(path, entry, summary, seen, progress).damage
    counted = summary.to_json()
    if not found and any(shards.index.get(name, value) != value for name, value in counted.items()):
        found.append(Damage(shards.path.name, None, "what it says of columns, formats or sides is not what is there"))
    if not found and not is_sealed(shards.index):
        found.append(Damage(shards.path.name, None, "it is not as it was written"))
    side_files = energon.stale(shards.path.parent)
    return [*found, Damage(energon.FOLDER, None, side_files)] if side_files else found


@dataclass(slots=True)
class ShardCheck:
    """What was found in one shard.

    good: (start, end) of the samples that are as they were written, by their own hashes. offsets_wrong: the `.tar.idx`
    is missing, damaged or not that of this shard. intact: the shard's size and SHA-256 are those of the index.
    """

    damage: list[Damage] = field(default_factory=list)
    good: list[tuple[int, int]] = field(default_factory=list)
    missing: bool = False
    offsets_wrong: bool = False
    intact: bool = False


def check_shard(
    path: Path,
    entry: dict[str, Any] | None,
    summary: Summary,
    seen: set[bytes],
    progress: Callable[[int], None] | None = None,
) -> ShardCheck:
    """Check the shard at `path` against its `entry` in the index, or by itself where there is none.

    Whole samples are added to `summary`, and their packed keys to `seen`.
    """
    found = ShardCheck()
    try:
        with blame(path), path.open("rb") as file:
            pieces = _Check(path, entry, seen, found, progress or (lambda _: None)).run(file.fileno())
    except FileNotFoundError:
        found.missing = True
        found.damage.append(Damage(path.name, None, "it is missing"))
    except SeerctlError as error:
        found.damage.append(Damage(path.name, None, error.message))
    else:
        found.good = pieces.good
        seen |= pieces.keys
        for meta in pieces.metas:
            summary.add(meta)
    return found


@dataclass(slots=True)
class _Pieces:
    """Samples of a shard by their places: the whole ones, and the damage of the others."""

    good: list[tuple[int, int]] = field(default_factory=list)
    metas: list[dict[str, Any]] = field(default_factory=list)
    keys: set[bytes] = field(default_factory=set)
    damage: list[Damage] = field(default_factory=list)
    clean: bool = True  # nothing but zeros between the members


@dataclass(slots=True)
class _Check:
    """The check of one shard."""

    path: Path
    entry: dict[str, Any] | None
    seen: set[bytes]
    found: ShardCheck
    progress: Callable[[int], None]

    def run(self, descriptor: int) -> _Pieces:
        """Look at every byte; what is wrong is noted in `found`."""
        self._whole(descriptor)
        offsets, fault = self._offsets(os.fstat(descriptor).st_size)
        places = list(itertools.pairwise(offsets)) if fault is None else list(find_samples(descriptor))
        pieces = self._look(descriptor, places)
        if fault is None and pieces.damage:
            walked = list(find_samples(descriptor))
            others = self._look(descriptor, walked, again=True)
            if len(others.good) > len(pieces.good):
                fault, places, pieces = "its offsets are not those of the samples", walked, others
        if fault is not None:
            self.found.offsets_wrong = True
            self.found.damage.insert(0, Damage(idx_path(self.path).name, None, fault))
        self.found.damage += pieces.damage
        if self.entry is None and not pieces.clean:
            self._fault("there are bytes between its members")
        if os.pread(descriptor, len(END) + 1, places[-1][1] if places else 0) != END:
            self._fault("it does not end with two blocks of zeros")
        if self.entry is not None and not self.found.intact:
            self._fault("its SHA-256 is not the one in the index")
        return pieces

    def _fault(self, fault: str) -> None:
        self.found.damage.append(Damage(self.path.name, None, fault))

    def _whole(self, descriptor: int) -> None:
        """Whether the file is the one of the index, by its size and its hash."""
        running, size = hashlib.sha256(), 0
        while piece := os.pread(descriptor, CHUNK, size):
            running.update(piece)
            size += len(piece)
        if self.entry is None:
            return
        if size != self.entry["filesize"]:
            self._fault(f"it has {size} bytes, not {self.entry['filesize']}")
        self.found.intact = running.hexdigest() == self.entry["sha256"]

    def _offsets(self, size: int) -> tuple[Sequence[int], str | None]:
        """The offsets beside the shard, and why they cannot be right."""
        try:
            offsets = read_offsets(self.path)
        except InputError as error:
            return [], error.message
        count = len(offsets) - 1 if self.entry is None else self.entry["nsamples"]
        if len(offsets) != count + 1 or count < 1:
            return offsets, f"it has {len(offsets) - 1} samples, not {count}"
        whole = size if self.entry is None else self.entry["filesize"]
        if offsets[0] != 0 or offsets[-1] + len(END) != whole:
            return offsets, "its first or last offset is wrong"
        if any(start >= end or end % BLOCK for start, end in itertools.pairwise(offsets)):
            return offsets, "its offsets are not in order"
        return offsets, None

    def _look(self, descriptor: int, places: Iterable[tuple[int, int]], *, again: bool = False) -> _Pieces:
        pieces = _Pieces()
        for number, (start, end) in enumerate(places):
            raw = os.pread(descriptor, end - start, start)
            found = self._sample(raw, start, pieces)
            pieces.clean &= self.found.intact or isinstance(found, str) or _clean(raw)
            if isinstance(found, str):
                pieces.damage.append(Damage(self.path.name, number, found, start, key_at(raw)))
            else:
                pieces.good.append((start, end))
                pieces.metas.append(found)
            if not again:
                self.progress(1)
        return pieces

    def _sample(self, raw: bytes, start: int, pieces: _Pieces) -> dict[str, Any] | str:
        """The meta of a whole sample, or what is wrong with it."""
        try:
            sample = parse_sample(raw, self.path.name, start)
        except InputError as error:
            return error.message.removeprefix(f"{self.path.name}: ")
        if not self.found.intact and compact(sample.meta) != _json(raw):
            return f"the json of {sample.key} is not as it was written"
        if hashlib.sha256(sample.image).hexdigest() != sample.meta["sha256"]:
            return f"the bytes of {sample.key}.{sample.ext} are not those of its sha256"
        if sample.key != content_key(sample.meta["sha256"], sample.meta["source"]):
            return f"the key {sample.key} is not that of its sha256 and source"
        packed = bytes.fromhex(sample.key.replace("-", ""))
        if packed in self.seen or packed in pieces.keys:
            return f"the key {sample.key} comes twice"
        pieces.keys.add(packed)
        return sample.meta


def _json(raw: bytes) -> bytes:
    """The text of a whole sample's json."""
    second = BLOCK + padded(parse(raw[:BLOCK], "", 0)[1])
    length = parse(raw[second : second + BLOCK], "", 0)[1]
    return raw[second + BLOCK : second + BLOCK + length]


def _clean(raw: bytes) -> bool:
    """Whether a whole sample's members are padded with zeros."""
    size = parse(raw[:BLOCK], "", 0)[1]
    second = BLOCK + padded(size)
    length = parse(raw[second : second + BLOCK], "", 0)[1]
    return not any(raw[BLOCK + size : second]) and not any(raw[second + BLOCK + length :])


def lost_indexes(path: Path) -> list[str]:
    """The directories beside splits that hold shards but no index: splits that have lost it."""
    splits = split_paths(path)
    return [
        f"{place}: holds shards, but no {INDEX}"
        for place in sorted(path.iterdir() if splits else ())
        if place.is_dir() and place.name not in splits and any(place.glob("*-[0-9]*.tar"))
    ]


def describe(shards: ShardSet) -> dict[str, Any]:
    """What a set holds, from its index alone: plain JSON values; sides in pixels as stored."""
    index = shards.index
    total = len(shards)
    summary = Summary.from_json(index)
    told = ("split", "rejects", "over_limit", "duplicates", "near_duplicates", "shuffled")  # not in a rebuilt index
    return {
        "kind": "shards",
        "location": shards.location,
        "index_sha256": shards.sha256,
        "seerctl": index["seerctl"],
        "samples": total,
        "shards": len(index["shardlist"]),
        "bytes": index["bytes"],
        "formats": index["formats"],
        **({"modes": index["modes"]} if "modes" in index else {}),
        "sides": {name: quantiles(counts) for name, counts in summary.sides.items() if counts},
        "columns": {name: {**entry, "missing": total - entry["count"]} for name, entry in index["columns"].items()},
        **{name: index[name] for name in told if name in index},
        **({"dropped": len(index["dropped"])} if "dropped" in index else {}),
        **({"repairs": index["repairs"]} if "repairs" in index else {}),
        "lineage": index.get("lineage", {}),
    }
