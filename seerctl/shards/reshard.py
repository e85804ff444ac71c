"""Shard sets as the input of `shard`: read whole and checked, with what their indexes know carried over.

Keys, columns and the bytes of both members stay; so do the membership of splits, unless samples are dealt anew, and the
record of what was dropped on request. The new index names each old one by its hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from seerctl.errors import InputError, UsageError
from seerctl.files import blame
from seerctl.shards.index import INDEX, ShardSet, index_path, split_paths
from seerctl.shards.leftovers import DUPLICATES
from seerctl.shards.split import Split
from seerctl.stream.records import SAMPLE_NAME, Record, content_key, decode_meta
from seerctl.stream.ustar import MemberReader, TarError

_REPAIR = "See 'seerctl inspect DIR --verify', then 'seerctl shard --repair DIR'"


@dataclass(frozen=True, slots=True, eq=False)
class SetInput:
    """One set to be read; `split` is its name among the splits of the directory that was named, if it was one."""

    shards: ShardSet
    split: str | None = None

    @property
    def index(self) -> dict[str, Any]:
        """Its index."""
        return self.shards.index


def is_set(where: str) -> bool:
    """Whether an argument names a shard set, or a directory of splits, rather than a stream."""
    path = Path(where)
    return path.is_dir() or path.name == INDEX


def open_sets(paths: Sequence[Path], output: Path) -> list[SetInput]:
    """The sets that `paths` name, those with splits in the order of their names.

    Raises:
        InputError: no set is there, or its index is damaged.
        UsageError: one of them lies in `output`, or `output` in it: the old set has to stand until the new one does.
    """
    sets: list[SetInput] = []
    target = output.resolve()
    for path in paths:
        splits: list[tuple[str | None, Path]] = [*split_paths(path).items()]
        for name, place in splits or [(None, index_path(path).parent)]:
            here = place.resolve()
            if here == target or here in target.parents or target in here.parents:
                raise UsageError(f"{path}: is what would be written over", "Choose another -o, then remove the old set")
            sets.append(SetInput(ShardSet.open(place), name))
    return sets


def kept_split(sets: Sequence[SetInput], streams: bool) -> Split | None:
    """The split that the sets have already, to be kept; None where they have none.

    Raises:
        UsageError: some have and some have not, or they were split by different shares: twins might be torn apart.
    """
    if all(one.split is None for one in sets):
        return None
    texts = {_shares(one.index) for one in sets}
    if streams or any(one.split is None for one in sets) or len(texts) > 1:
        raise UsageError("these inputs are not split in the same way", "Deal them anew with --split NAME=F,...")
    return Split(tuple(sorted({str(one.split) for one in sets})), (), texts.pop(), kept=True)


def _shares(index: Mapping[str, Any]) -> str:
    split = index.get("split")
    return str(split.get("shares", "")) if isinstance(split, dict) else ""


def read_set(shards: ShardSet) -> Iterator[Record]:
    """Every sample of a set, in its order; nothing may be committed before all have come.

    Raises:
        InputError: a shard is missing, is not what the index says, or holds a picture that is not that of its hash.
    """
    for path, entry in shards.paths():
        try:
            with blame(path), path.open("rb", buffering=0) as file:
                yield from _read_shard(_Hashing(file), path, entry)
        except FileNotFoundError:
            raise InputError(f"{path}: the shard is missing", _REPAIR) from None
        except TarError as fault:
            raise InputError(fault.message, _REPAIR) from None


class _Hashing:
    """A file, and the SHA-256 of what was read of it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.running = hashlib.sha256()

    def read(self, count: int) -> bytes:
        """At most `count` bytes."""
        piece = bytes(self._file.read(count))
        self.running.update(piece)
        return piece


def _read_shard(file: _Hashing, path: Path, entry: Mapping[str, Any]) -> Iterator[Record]:
    reader: Any = file
    members = MemberReader(reader, str(path))
    count = 0
    while (picture := members.read_member()) is not None:
        yield _record(picture, members, path)
        count += 1
    if not members.at_end():
        raise InputError(f"{path}: bytes after its end", _REPAIR)
    if count != entry["nsamples"]:
        raise InputError(f"{path}: {count} samples, the index says {entry['nsamples']}", _REPAIR)
    if file.running.hexdigest() != entry["sha256"]:
        raise InputError(f"{path}: its SHA-256 is not the one in the index", _REPAIR)


def _record(picture: tuple[str, bytes, bytes], members: MemberReader, path: Path) -> Record:
    name, data, raw = picture
    offset = members.offset - len(raw)
    match = SAMPLE_NAME.fullmatch(name)
    text = members.read_member()
    if match is None or text is None or text[0] != f"{match[1]}.json":
        raise InputError(f"{path}: no whole sample at byte {offset} ({name!r})", _REPAIR)
    meta = decode_meta(text[1], f"{path}: {text[0]}")
    if hashlib.sha256(data).hexdigest() != meta["sha256"] or content_key(meta["sha256"], meta["source"]) != match[1]:
        raise InputError(f"{path}: damaged at byte {offset}: {name} is not the picture of its hash", _REPAIR)
    return Record(match[1], match[2], data, meta, raw + text[2])


# --------------------------------------------------------------------------------------------- what is carried over


def inherited(index: Mapping[str, Any], sets: Sequence[SetInput]) -> dict[str, Any]:
    """What a new index says besides its samples, `index`, joined with what the indexes of `sets` say.

    Counts of rejects and duplicates add up; lineage keeps the streams of all, each once, and names the sets.
    """
    rejects: Counter[str] = Counter(index["rejects"])
    for one in sets:
        rejects.update(one.index.get("rejects", {}))
    dropped = [*index.get("dropped", []), *(row for one in sets for row in one.index.get("dropped", []))]
    return {
        "rejects": dict(sorted(rejects.items())),
        "over_limit": index["over_limit"] or any(one.index.get("over_limit", False) for one in sets),
        "duplicates": index["duplicates"] + sum(one.index.get("duplicates", 0) for one in sets),
        **({"dropped": _unique(dropped, "key")} if dropped else {}),
        "lineage": _lineage(index["lineage"], sets),
    }


def _lineage(lineage: Mapping[str, Any], sets: Sequence[SetInput]) -> dict[str, Any]:
    before = [one.index.get("lineage", {}) for one in sets]
    streams = [stream for told in (*before, lineage) for stream in told.get("streams", [])]
    history = [*lineage.get("history", [])]
    for one, told in zip(sets, before, strict=True):
        history += [*told.get("history", []), {"index_sha256": one.shards.sha256, "by": "reshard"}]
    resharded = [{"index_sha256": one.shards.sha256, "samples": len(one.shards)} for one in sets]
    return {
        **lineage,
        "streams": _unique(streams, "sha256"),
        "resharded": [*lineage.get("resharded", []), *resharded],
        "history": _unique(history, "index_sha256"),
    }


def _unique(rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The rows that differ in field `name`, each where it came first."""
    found: dict[object, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row.get(name), row)
    return list(found.values())


def left_out(one: SetInput) -> Iterator[tuple[str, bytes]]:
    """(key, line) of every near-duplicate that a set left out when it was written."""
    told = one.index.get("near_duplicates")
    path = one.shards.path.with_name(DUPLICATES)
    if not told or not path.is_file():
        return
    with blame(path), path.open("rb") as file:
        yield from _rows(file)


def _rows(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    for line in file:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            key = json.loads(line)["key"]
            if isinstance(key, str) and SAMPLE_NAME.fullmatch(f"{key}.x"):
                yield key, line
