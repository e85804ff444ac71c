"""Making a damaged set whole: its index and offsets rebuilt from the shards, damaged samples left out and named.

A sample stays if its own hashes prove it; nothing is put together or guessed. A shard whose damage lies outside of any
sample (its end, its padding) comes back byte for byte. A shard that was changed where no hash of a sample tells, in the
columns of some json, is not repaired: which of its samples is wrong cannot be known.

As with `drop`, new shards get new names, the index is renamed into place, then the old ones go: a kill leaves the old
files or the repaired set, and the next run removes the rest.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seerctl import __version__
from seerctl.errors import InputError
from seerctl.files import blame, commit, sha256_file
from seerctl.shards import energon
from seerctl.shards.drop import next_revision
from seerctl.shards.index import INDEX, KIND, SCHEMA, is_sealed, load_index, parse_sample, write_index
from seerctl.shards.leftovers import JOURNAL, LEFTOVER, REPLACED, begin, settle, sweep, unborn
from seerctl.shards.lock import LOCK, write_lock
from seerctl.shards.shardfile import ShardFile, aside, idx_path, write_offsets
from seerctl.shards.summary import Summary
from seerctl.shards.verify import Damage, ShardCheck, check_shard
from seerctl.stream.records import compact
from seerctl.stream.ustar import END, pieces

_SHARD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*-\d{6,}?)(?:-r(\d+))?\.tar")
_KEPT = {"split": dict, "rejects": dict, "over_limit": bool, "duplicates": int, "near_duplicates": dict,
         "shuffled": list, "dropped": list, "repairs": list, "lineage": dict}  # fmt: skip


@dataclass(slots=True)
class SetRepair:
    """What was done to one set, or would be.

    rebuilt: files made anew without loss. lost: damaged samples that are left out. missing: shards that are gone, with
    the number of their samples. superseded: older revisions of shards, which a broken change left beside the newer.
    hopeless: shards that stay damaged, and why. left: samples that stay.
    """

    directory: Path
    rebuilt: list[str] = field(default_factory=list)
    lost: list[Damage] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)
    superseded: list[str] = field(default_factory=list)
    hopeless: dict[str, str] = field(default_factory=dict)
    left: int = 0

    @property
    def changes(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.rebuilt or self.lost or self.missing)

    def to_json(self) -> dict[str, Any]:
        """The record of it in the index."""
        lost = [fault.to_json() for fault in self.lost]
        return {"rebuilt": self.rebuilt, "lost": lost, "missing": self.missing, "superseded": self.superseded}


def repair_sets(where: Path, *, dry_run: bool, progress: Callable[[int], None] | None = None) -> list[SetRepair]:
    """Repair the set in `where`, or every split below it; with `dry_run` only find out what that would do.

    Raises:
        InputError: no set is there, a write into it broke off, or nothing of it is left.
        EnvironmentFault: another writer is at work there, no space, or no permission.
    """
    where = where.parent if where.name == INDEX else where
    places = _places(where)
    with contextlib.ExitStack() as locks:
        if not dry_run:
            for directory in sorted({where.resolve(), *_above(places)}):
                locks.enter_context(write_lock(directory))
        return [_Repair(place, dry_run, progress).run() for place in places]


def _places(where: Path) -> list[Path]:
    """The directories of the sets below `where`, also of those whose index is gone."""
    if not where.is_dir():
        raise InputError(f"{where}: no such shard set", "Make one: seerctl ingest SOURCE | seerctl shard -o DIR")
    if _holds_set(where):
        return [where]
    found = sorted(path for path in where.iterdir() if path.is_dir() and not path.is_symlink() and _holds_set(path))
    if not found:
        raise InputError(f"{where}: holds no shards", "Make some: seerctl ingest SOURCE | seerctl shard -o DIR")
    return found


def _holds_set(directory: Path) -> bool:
    return (directory / INDEX).is_file() or bool(_shards_in(directory))


def _shards_in(directory: Path) -> list[str]:
    return sorted(one.name for one in directory.iterdir() if _SHARD.fullmatch(one.name) and one.is_file())


def _above(places: list[Path]) -> Iterator[Path]:
    """The directories above splits, which `shard` locks."""
    for place in places:
        index = _salvaged(place / INDEX)
        if "split" in index or (place.parent / LOCK).exists():
            yield place.resolve().parent


def _salvaged(path: Path) -> dict[str, Any]:
    """What can still be read of an index: any JSON object, else nothing."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        index = json.loads(path.read_bytes())
        return index if isinstance(index, dict) else {}
    return {}


class _Repair:
    """The repair of one set."""

    def __init__(self, directory: Path, dry_run: bool, progress: Callable[[int], None] | None) -> None:
        self.directory, self.dry_run, self.progress = directory, dry_run, progress
        self.done = SetRepair(directory)
        self.summary, self.seen = Summary(), set[bytes]()
        self.entries: list[dict[str, Any]] = []
        self.fresh: list[ShardFile] = []  # under other names than the shards they take the place of
        self.same: list[ShardFile] = []  # byte for byte what the index says
        self.offsets: list[tuple[Path, array.array[int]]] = []
        self.superfluous: list[str] = []

    def run(self) -> SetRepair:
        """Look at everything, write what is to be written, and bring it in at once."""
        if (self.directory / REPLACED).is_file():
            raise InputError(f"{self.directory}: overwriting it was broken off", "Write it again: shard --overwrite")
        index, sha256, known = self._index()
        if not self.dry_run:
            self._clear(index is not None)
        try:
            for name, entry in known:
                self._shard(self.directory / name, entry)
            self.done.left = sum(entry["nsamples"] for entry in self.entries)
            if not self.entries:
                raise InputError(f"{self.directory}: no whole sample is left", "Write the set again from its source")
            self._compare(index)
            if not self.dry_run and self.done.changes:
                self._publish(index or _salvaged(self.directory / INDEX), sha256)
        finally:
            for shard in (*self.fresh, *self.same):
                _discard(shard)
            if not self.dry_run and not (self.directory / INDEX).is_file():
                (self.directory / JOURNAL).unlink(missing_ok=True)
        return self.done

    def _clear(self, sound: bool) -> None:
        """Remove what a change that was broken off left; where there is no index, note that what comes now is ours."""
        if sound:
            sweep(self.directory)
            return
        for path in [path for path in self.directory.iterdir() if LEFTOVER.fullmatch(path.name)]:
            path.unlink()
        begin(self.directory, [])

    def _index(self) -> tuple[dict[str, Any] | None, str, list[tuple[str, dict[str, Any] | None]]]:
        """The index and its hash, if it is sound, and the shards to look at with their entries."""
        path = self.directory / INDEX
        if path.is_file():
            with contextlib.suppress(InputError):
                index, sha256 = load_index(path)
                return index, sha256, [(entry["url"], entry) for entry in index["shardlist"]]
        broken = next((one.name for one in sorted(self.directory.iterdir()) if LEFTOVER.fullmatch(one.name)), None)
        if unborn(self.directory) or (broken is not None and not (self.directory / JOURNAL).is_file()):
            raise InputError(
                f"{self.directory}: has no sound index, and {broken or JOURNAL} shows that writing it broke off",
                "Run ingest and shard again: part of the samples never came",
            )
        self.done.rebuilt.append(INDEX)
        found = _shards_in(self.directory)
        names = _newest(found)
        self.done.superseded = [name for name in found if name not in names]
        self.superfluous += self.done.superseded
        return None, sha256_file(path) if path.is_file() else "", [(name, None) for name in names]

    def _shard(self, path: Path, entry: dict[str, Any] | None) -> None:
        check = check_shard(path, entry, self.summary, self.seen, self.progress)
        if check.missing and entry is not None:
            self.done.missing[path.name] = entry["nsamples"]
            self.superfluous.append(path.name)
            return
        lost = [fault for fault in check.damage if fault.sample is not None]
        gone = 0 if entry is None else entry["nsamples"] - len(check.good) - len(lost)
        if gone > 0:
            lost.append(Damage(path.name, None, f"{gone} more samples are gone"))
        if not check.damage or (check.offsets_wrong and len(check.damage) == 1):
            self.entries.append(entry or _entry(path, len(check.good)))
            if check.damage:
                self.done.rebuilt.append(idx_path(path).name)
                self.offsets.append((path, array.array("Q", [0, *(end for _, end in check.good)])))
        elif not check.good:
            self._lose(path, lost)
        else:
            self._rewrite(path, entry, check, lost)

    def _lose(self, path: Path, lost: list[Damage]) -> None:
        if not lost:
            raise InputError(f"{path}: no shard, not one sample is in it", "Move it away, then repair again")
        self.done.lost += lost
        self.superfluous.append(path.name)

    def _rewrite(self, path: Path, entry: dict[str, Any] | None, check: ShardCheck, lost: list[Damage]) -> None:
        """The shard without what is lost; under its own name if it becomes what the index says."""
        final = next_revision(path) if lost else path
        shard, written = (None, _measured(final, path, check)) if self.dry_run else _written(final, path, check)
        if shard is not None:
            (self.fresh if lost else self.same).append(shard)
        if not lost and (entry is None or written["sha256"] == entry["sha256"]):
            self.done.rebuilt.append(path.name)
            self.entries.append(written)
        elif not lost and entry is not None:
            if shard is not None:
                _discard(self.same.pop())
            self.done.hopeless[path.name] = (
                "its SHA-256 is not the one in the index, and no sample's own hash tells where it was changed"
            )
            self.entries.append(entry)
        else:
            self.done.lost += lost
            self.superfluous.append(path.name)
            self.entries.append(written)

    def _compare(self, index: dict[str, Any] | None) -> None:
        """Rebuild an index whose counts are wrong although its shards are right."""
        if index is None or self.done.changes or self.done.hopeless:
            return
        counted = self.summary.to_json()
        if any(index.get(name, value) != value for name, value in counted.items()) or not is_sealed(index):
            self.done.rebuilt.append(INDEX)
        elif energon.stale(self.directory):
            self.done.rebuilt.append(energon.FOLDER)

    def _publish(self, before: dict[str, Any], sha256: str) -> None:
        with blame(self.directory):
            if self.fresh or self.superfluous:
                begin(self.directory, [*self.superfluous, *(shard.final.name for shard in self.fresh)])
            for path, offsets in self.offsets:
                write_offsets(path, offsets)
            for shard in (*self.same, *self.fresh):
                for path in (shard.final, shard.idx):
                    commit(aside(path), path)
            if self.done.lost or self.done.missing or INDEX in self.done.rebuilt:
                write_index(self.directory / INDEX, self._rebuilt(before, sha256))
            settle(self.directory)
            energon.refresh(self.directory)

    def _rebuilt(self, before: dict[str, Any], sha256: str) -> dict[str, Any]:
        """The new index: what the shards say, and of the old index what they cannot say."""
        kept = {name: before[name] for name, kind in _KEPT.items() if isinstance(before.get(name), kind)}
        lineage = kept.get("lineage", {})
        history = [*lineage.get("history", []), *([{"index_sha256": sha256, "by": "repair"}] if sha256 else [])]
        counts = before if self.done.hopeless else self.summary.to_json()
        return {
            "__kind__": KIND,
            "wids_version": 1,
            "schema": SCHEMA,
            "seerctl": __version__,
            "total": sum(entry["nsamples"] for entry in self.entries),
            "bytes": sum(entry["filesize"] for entry in self.entries),
            "shardlist": self.entries,
            **{name: counts[name] for name in ("columns", "formats", "modes", "sides", "sizes") if name in counts},
            **kept,
            "repairs": [*kept.get("repairs", []), {"index_sha256": sha256, **self.done.to_json()}],
            "lineage": {**lineage, **({"history": history} if history else {})},
        }


def _newest(names: list[str]) -> list[str]:
    """Shard names in order, of several revisions of a shard the last: the others are what a drop or repair left."""
    newest: dict[str, tuple[int, str]] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match is not None:
            newest[match[1]] = max(newest.get(match[1], (-1, "")), (int(match[2] or 0), name))
    return [name for _, (_, name) in sorted(newest.items())]


def _entry(path: Path, count: int) -> dict[str, Any]:
    with blame(path):
        size = path.stat().st_size
    return {"url": path.name, "nsamples": count, "filesize": size, "sha256": sha256_file(path)}


def _samples(path: Path, check: ShardCheck) -> Iterator[bytes]:
    """The whole samples of a shard, written as they were written first."""
    with blame(path), path.open("rb") as file:
        for start, end in check.good:
            sample = parse_sample(os.pread(file.fileno(), end - start, start), str(path), start)
            texts = pieces(f"{sample.key}.json", compact(sample.meta))
            yield b"".join((*pieces(f"{sample.key}.{sample.ext}", sample.image), *texts))


def _written(final: Path, path: Path, check: ShardCheck) -> tuple[ShardFile, dict[str, Any]]:
    """The whole samples of the shard at `path` written aside, to become `final`, and their entry in the index."""
    shard = ShardFile(final)
    try:
        for raw in _samples(path, check):
            shard.add(raw)
        return shard, shard.close()
    except BaseException:
        _discard(shard)
        raise


def _measured(final: Path, path: Path, check: ShardCheck) -> dict[str, Any]:
    """The entry in the index that `_written` would give."""
    running, size = hashlib.sha256(), len(END)
    for raw in _samples(path, check):
        running.update(raw)
        size += len(raw)
    running.update(END)
    return {"url": final.name, "nsamples": len(check.good), "filesize": size, "sha256": running.hexdigest()}


def _discard(shard: ShardFile) -> None:
    shard.abandon()
    for path in (aside(shard.final), aside(shard.idx)):
        path.unlink(missing_ok=True)
