"""Taking samples out of a set because somebody asked: only the shards concerned are written again.

The set is whole at any moment: new shards get new names, the index that lists them is renamed into place, and only then
do the old ones go. A kill leaves the old set or the new one, and a note by which the next run removes the rest. The
index keeps the hashes of what was dropped, so that lineage can name the models that saw it, and `--append` leaves it
out when it comes again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seerctl import __version__
from seerctl.errors import InputError
from seerctl.files import atomic_write, blame, commit, sha256_file
from seerctl.shards import energon
from seerctl.shards.index import INDEX, ShardSet, index_path, parse_sample, split_paths, write_index
from seerctl.shards.jsons import read_metas
from seerctl.shards.leftovers import DUPLICATES, begin, settle, sweep
from seerctl.shards.lock import write_lock
from seerctl.shards.shardfile import ShardFile, aside, idx_path, read_offsets
from seerctl.shards.summary import Summary

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")
_REVISION = re.compile(r"(.*?)(?:-r(\d+))?\.tar")
_KINDS = ("sha256", "key", "source")
MAX_LIST = 1 << 30  # bytes


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One line of a list: `kind` is sha256, key or source."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class DropReport:
    """What was dropped: samples by set ("" where there are no splits), shards that were rewritten and removed whole.

    twins: samples of the same bytes as a dropped one that stay, because only a key or a source was named. before:
    entries that an earlier drop took. unknown: entries that name nothing.
    """

    output: Path
    sets: dict[str, int]
    rewritten: int
    removed: int
    twins: int
    before: int
    unknown: tuple[str, ...]

    @property
    def samples(self) -> int:
        """Samples that went, over all sets."""
        return sum(self.sets.values())


def dropped_records(index: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was dropped from a set, by its index: `key, sha256, index_sha256` (the index it was in), `orig_sha256`."""
    records = index.get("dropped")
    return [one for one in records if isinstance(one, dict)] if isinstance(records, list) else []


def history(index: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of the indexes that a set had before, in order, and what was then done to it: drop or append."""
    lineage = index.get("lineage")
    steps = lineage.get("history") if isinstance(lineage, dict) else None
    found = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    return {str(step.get("index_sha256")): str(step.get("by")) for step in found}


def read_entries(path: Path) -> tuple[Entry, ...]:
    """The entries in a text file, one a line: a SHA-256, a key, or a source as `inspect` and reports show it.

    `sha256:`, `key:` and `source:` before it say which it is; empty lines and lines that begin with "# " are skipped.

    Raises:
        InputError: no such file, not UTF-8, or nothing in it.
    """
    with blame(path):
        try:
            if path.stat().st_size > MAX_LIST:
                raise InputError(f"{path}: larger than {MAX_LIST} bytes", "Name one sample a line")
            text = path.read_text(encoding="utf-8-sig")
        except (FileNotFoundError, IsADirectoryError):
            raise InputError(f"{path}: no such file", "Write one sha256, key or source a line") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    lines = (line.rstrip("\r") for line in text.split("\n"))
    entries = tuple(dict.fromkeys(_entry(line) for line in lines if line.strip() and not line.startswith("# ")))
    if not entries:
        raise InputError(f"{path}: names no sample", "Write one sha256, key or source a line")
    return entries


def _entry(line: str) -> Entry:
    kind, colon, value = line.partition(":")
    if colon and kind in _KINDS:
        return Entry(kind, value if kind == "source" else value.strip().lower())
    word = line.strip().lower()
    if _SHA256.fullmatch(word):
        return Entry("sha256", word)
    return Entry("key", word) if _KEY.fullmatch(word) else Entry("source", line)


def drop_samples(where: Path, entries: Iterable[Entry], progress: Callable[[int], None] | None = None) -> DropReport:
    """Remove every sample that an entry names from the set in `where`, or from all splits below it.

    A SHA-256 takes every sample of those bytes, or made of a file of those bytes; a source and a key take their own.

    Raises:
        InputError: no set is there, or a shard that would be rewritten is damaged.
        EnvironmentFault: another writer is at work there, no space, or no permission.
    """
    wanted = _Wanted(frozenset(entries))
    splits = split_paths(where) or {"": index_path(where).parent}
    with contextlib.ExitStack() as locks:
        for directory in _guarded(where, splits):
            locks.enter_context(write_lock(directory))
        results = [_drop_from(directory, wanted, progress or (lambda _: None)) for directory in splits.values()]
    twins = sum(half in wanted.contents for result in results for half in result.kept)
    return DropReport(
        output=where,
        sets={name: result.samples for name, result in zip(splits, results, strict=True)},
        rewritten=sum(result.rewritten for result in results),
        removed=sum(result.removed for result in results),
        twins=twins,
        before=len(wanted.before - wanted.found),
        unknown=tuple(entry.value for entry in sorted(wanted.entries - wanted.found - wanted.before)),
    )


def _guarded(where: Path, splits: dict[str, Path]) -> list[Path]:
    """The directories to lock: the one that was named, and of a split the one above, which `shard` locks."""
    places = {(where.parent if where.name == INDEX else where).resolve()}
    for directory in splits.values():
        with ShardSet.open(directory) as shards:
            if "split" in shards.index:
                places.add(directory.resolve().parent)
    return sorted(places)


@dataclass(slots=True)
class _Wanted:
    """The entries, and what became of them over all sets."""

    entries: frozenset[Entry]
    found: set[Entry] = field(default_factory=set)
    before: set[Entry] = field(default_factory=set)
    contents: set[int] = field(default_factory=set)  # the content halves of the keys of what went

    def takes(self, key: str, meta: dict[str, Any]) -> bool:
        """Whether an entry names the sample, which is then noted."""
        names = {Entry("key", key), Entry("sha256", meta["sha256"]), Entry("source", meta["source"])}
        if isinstance(meta.get("orig_sha256"), str):
            names.add(Entry("sha256", meta["orig_sha256"]))
        named = names & self.entries
        self.found |= named
        if named:
            self.contents.add(_half(meta))
        return bool(named)

    def recall(self, dropped: list[dict[str, Any]]) -> None:
        """Note the entries that earlier drops took, by the record of them in an index."""
        hashes = {Entry("sha256", str(one.get(name))) for one in dropped for name in ("sha256", "orig_sha256")}
        keys = {Entry("key", str(one.get("key"))) for one in dropped}
        halves = {entry.value[17:] for entry in keys}
        self.before |= self.entries & (hashes | keys)
        for entry in self.entries:
            if entry.kind == "source" and hashlib.sha256(entry.value.encode()).hexdigest()[:8] in halves:
                self.before.add(entry)


@dataclass(slots=True)
class _Result:
    """What was done to one set; `kept` holds the content halves of the keys that are still there, 8 bytes each."""

    samples: int = 0
    rewritten: int = 0
    removed: int = 0
    kept: array[int] = field(default_factory=lambda: array("Q"))


def _drop_from(directory: Path, wanted: _Wanted, progress: Callable[[int], None]) -> _Result:
    """Remove what is wanted from one set, in steps of which each leaves it whole."""
    sweep(directory)
    result, summary = _Result(), Summary()
    entries: list[dict[str, Any]] = []
    fresh: list[ShardFile] = []
    gone: list[dict[str, Any]] = []
    superfluous: list[str] = []
    with ShardSet.open(directory) as shards:
        wanted.recall(dropped_records(shards.index))
        try:
            for entry in shards.index["shardlist"]:
                path = directory / entry["url"]
                numbers, metas = _scan(path, wanted, progress)
                kept = [meta for number, (_, meta) in enumerate(metas) if number not in numbers]
                result.kept.extend(map(_half, kept))
                for meta in kept:
                    summary.add(meta)
                if not numbers:
                    entries.append(entry)
                    continue
                superfluous.append(entry["url"])
                gone += [_record(*metas[number], shards.sha256) for number in numbers]
                if kept:
                    shard, replacement = _rewritten(path, entry, set(numbers))
                    fresh.append(shard)
                    entries.append(replacement)
            if gone:
                index = _index(shards, entries, summary, gone)
                _replace(directory, fresh, superfluous, index)
        except BaseException:
            for shard in fresh:
                shard.abandon()
            raise
    _forget(directory, wanted)
    result.samples, result.rewritten, result.removed = len(gone), len(fresh), len(superfluous) - len(fresh)
    return result


def _half(meta: dict[str, Any]) -> int:
    """The first half of a sample's key as a number: the same for the same bytes."""
    return int(meta["sha256"][:16], 16)


def _scan(
    path: Path, wanted: _Wanted, progress: Callable[[int], None]
) -> tuple[list[int], list[tuple[str, dict[str, Any]]]]:
    """The numbers of the samples to drop in one shard, and key and json of all."""
    found: list[int] = []
    metas: list[tuple[str, dict[str, Any]]] = []
    for number, (key, meta) in enumerate(read_metas(path)):
        metas.append((key, meta))
        if wanted.takes(key, meta):
            found.append(number)
        progress(1)
    return found, metas


def _record(key: str, meta: dict[str, Any], index_sha256: str) -> dict[str, str]:
    original = {"orig_sha256": meta["orig_sha256"]} if isinstance(meta.get("orig_sha256"), str) else {}
    return {"key": key, "sha256": meta["sha256"], **original, "index_sha256": index_sha256}


def _rewritten(path: Path, entry: dict[str, Any], numbers: set[int]) -> tuple[ShardFile, dict[str, Any]]:
    """The shard without the samples `numbers`, still `.tmp`, and its entry in the index.

    Raises:
        InputError: the shard is not what the index says: what is damaged is not made to look whole.
    """
    if sha256_file(path) != entry["sha256"]:
        raise InputError(
            f"{path}: damaged, its SHA-256 is not the one in the index", "Run 'seerctl inspect DIR --verify'"
        )
    shard = ShardFile(next_revision(path))
    try:
        with blame(path), path.open("rb") as file:
            offsets = read_offsets(path)
            for number, (start, end) in enumerate(itertools.pairwise(offsets)):
                if number not in numbers:
                    raw = os.pread(file.fileno(), end - start, start)
                    parse_sample(raw, str(path), start)
                    shard.add(raw)
        return shard, shard.close()
    except BaseException:
        shard.abandon()
        raise


def next_revision(path: Path) -> Path:
    """A name beside `path` for the shard that takes its place: shard-000003.tar, shard-000003-r1.tar, -r2, ..."""
    match = _REVISION.fullmatch(path.name)
    assert match is not None
    return path.with_name(f"{match[1]}-r{int(match[2] or 0) + 1}.tar")


def _index(
    shards: ShardSet, entries: list[dict[str, Any]], summary: Summary, gone: list[dict[str, Any]]
) -> dict[str, Any]:
    index = shards.index
    lineage = index.get("lineage", {})
    return {
        **index,
        "seerctl": __version__,
        "total": sum(entry["nsamples"] for entry in entries),
        "bytes": sum(entry["filesize"] for entry in entries),
        "shardlist": entries,
        **summary.to_json(),
        "dropped": dropped_records(index) + gone,
        "lineage": {**lineage, "history": [*lineage.get("history", []), {"index_sha256": shards.sha256, "by": "drop"}]},
    }


def _replace(directory: Path, fresh: list[ShardFile], superfluous: list[str], index: dict[str, Any]) -> None:
    """Bring the new shards under their names, then the index: the moment at which the samples are gone."""
    with blame(directory):
        begin(directory, [*superfluous, *(shard.final.name for shard in fresh)])
        for shard in fresh:
            for path in (shard.final, idx_path(shard.final)):
                commit(aside(path), path)
        write_index(directory / INDEX, index)
        settle(directory)
        energon.refresh(directory)


def _forget(directory: Path, wanted: _Wanted) -> None:
    """Take the lines about what is named out of the list of near-duplicates: they hold sources."""
    path = directory / DUPLICATES
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not _names(line, wanted)]
    if len(kept) < len(lines):
        with atomic_write(path) as file:
            file.writelines(kept)


def _names(line: bytes, wanted: _Wanted) -> bool:
    try:
        row = json.loads(line)
        named = [Entry(kind, row[kind]) for kind in _KINDS]
    except (ValueError, KeyError, TypeError):
        return False
    return not wanted.entries.isdisjoint(named)
