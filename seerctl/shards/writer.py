"""From streams to shard sets: written aside, proved complete, then renamed, the index last.

Until every stream has shown its end marker, shards are `.tmp`; when something goes wrong they stay as `.partial`. So a
directory holds a whole set or, without `index.json`, none, whenever the process or the machine dies.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from seerctl.errors import InputError, UsageError
from seerctl.files import blame, fsync_path
from seerctl.fingers import VALUE, FingerTable
from seerctl.shards import energon
from seerctl.shards.index import INDEX, ShardSet, load_index
from seerctl.shards.leftovers import DUPLICATES, LEFTOVER, REJECTS, REPLACED, forget_unborn, sweep
from seerctl.shards.lock import LOCK, write_lock
from seerctl.shards.pending import load_pending
from seerctl.shards.reshard import SetInput, kept_split, open_sets, read_set
from seerctl.shards.setwriter import SetWriter, ShardOptions, pack_key
from seerctl.shards.shardfile import idx_path
from seerctl.stream.reader import IncompleteStreamError, read_streams
from seerctl.stream.records import Record, StreamEnd

if TYPE_CHECKING:
    from seerctl.shards.dedup import Look, NearFilter


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What `write_shards` did; `shards` and `sets` count what is there now, the rest what came.

    duplicates: samples whose key was known. near: left out because they look like one that was kept. refused: those
    that were dropped from this set on request before. recovered: shards of a run that broke off, taken up.
    """

    output: Path
    samples: int
    duplicates: int
    near: int
    refused: int
    stored: int
    shards: int
    sets: dict[str, int]
    rejects: dict[str, int]
    rejected: int
    over_limit: bool
    streams: int
    recovered: int = 0


def write_shards(
    inputs: Iterable[tuple[str, BinaryIO]],
    output: Path,
    options: ShardOptions,
    progress: Callable[[int], None] | None = None,
    sets: Sequence[Path] = (),
) -> ShardReport:
    """Write the shard sets in `sets` and the streams in `inputs` (name, file) into the shard set `output`, or one set
    per split below it; `sets` that are split already stay so unless the options say otherwise.

    Raises:
        InputError: a stream or a set is incomplete or damaged, or no sample came; what came is kept as `.partial`.
        UsageError: `output` exists and neither `append` nor `overwrite` is set, or the set there is cut otherwise; or
            `sets` are in `output`, or not split alike.
        EnvironmentFault: disk full, no permission, or another writer in the same directory.
    """
    opened = open_sets(sets, output)
    if options.split is None:
        options = replace(options, split=kept_split(opened, streams=bool(inputs)))
    with blame(output):
        output.mkdir(parents=True, exist_ok=True)
    with write_lock(output):
        for place in (output, *(path for path in output.iterdir() if path.is_dir())):
            forget_unborn(place)
            if (place / INDEX).is_file() and load_pending(place) is None:
                sweep(place)
        old = _existing(output, options)
        names = options.split.names if options.split else (None,)
        writers = {name: SetWriter(output / (name or ""), options, name) for name in names}
        try:
            with _Dealer(writers, options, progress or (lambda _: None)) as dealer:
                for writer in writers.values():
                    writer.sweep()
                    if options.append and (writer.directory / INDEX).is_file():
                        dealer.resume(writer)
                dealer.consume_sets(opened)
                ends = dealer.consume(inputs)
            if any(writer.added for writer in writers.values()):
                withdrawn = _withdraw(old)
                for name, writer in writers.items():
                    writer.publish(ends, dealer.duplicates[name])
                _remove_stale(withdrawn, writers.values())
            _side_files(output, old, options)
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise
        finally:
            for writer in writers.values():
                writer.discard_log()
    return _report(output, dealer, ends)


class _Dealer:
    """Deals samples to sets, and leaves out what is there already, looks like it, or was dropped on request."""

    def __init__(
        self, writers: dict[str | None, SetWriter], options: ShardOptions, progress: Callable[[int], None]
    ) -> None:
        self.writers, self.options, self._progress = writers, options, progress
        self.duplicates: Counter[str | None] = Counter()  # samples left out because their key was known
        self.refused = self.samples = 0
        self._keys = FingerTable()
        self._continued: list[str] | None = None  # what the first stream goes on from; None before it
        self._dropped: set[str] = set()
        self._near: NearFilter | None = None
        if options.near is not None:
            # The command starts without numpy and Pillow; only this needs them.
            from seerctl.shards.dedup import NearFilter  # noqa: PLC0415

            self._near = NearFilter(options.near, options.jobs)
        self._weigh: Callable[[Record], Record] | None = None
        if options.weights is not None:
            from seerctl.shards.weigh import Weigher  # noqa: PLC0415  # numpy and h5py, as above

            self._weigh = Weigher(options.weights)

    def __enter__(self) -> _Dealer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._keys.close()
        if self._near is not None:
            self._near.close()

    def resume(self, writer: SetWriter) -> None:
        """Know what stands in the set of `writer`."""
        for key in writer.resume():
            self._is_new(key)
        records = writer.before.get("dropped")
        self._dropped |= {str(one.get("sha256")) for one in records or () if isinstance(one, dict)}
        if self._near is not None:
            with ShardSet.open(writer.directory) as shards:
                self._near.seed(shards)

    def consume_sets(self, sets: Sequence[SetInput]) -> None:
        """Deal every sample of shard sets; what was dropped from any of them comes from none."""
        if sets:
            self._settle([])  # what a broken run left is of no use: no stream goes on from it here
            self._continued = []
        self._dropped |= {str(row["sha256"]) for one in sets for row in one.index.get("dropped", [])}
        split = self.options.split
        for one in sets:
            for name, writer in self.writers.items():
                if split is None or not split.kept or name == one.split:
                    writer.inherit(one)
            for item, look in self._items(read_set(one.shards)):
                if isinstance(item, Record):
                    self._deal(item, look, one.split)

    def consume(self, inputs: Iterable[tuple[str, BinaryIO]]) -> list[StreamEnd]:
        """Deal every sample; the end markers that came."""
        ends: list[StreamEnd] = []
        for where, file in inputs:
            items = read_streams(file, where, self._begin)
            # The first start marker may bring old shards, whose pictures are hashed before those of the stream.
            items = itertools.chain([next(items)], items)
            for item, look in self._items(items):
                if isinstance(item, StreamEnd):
                    ends.append(item)
                else:
                    self._deal(item, look)
        streams, writers = self.options.streams, self.writers.values()
        if streams is not None and len(ends) != streams:
            raise IncompleteStreamError(
                f"{len(ends)} whole streams came, --streams says {streams}", "Find the other one"
            )
        for writer in writers:
            writer.finish()
        if not any(writer.added or writer.kept for writer in writers):
            raise InputError("no sample came", "See what ingest rejected: seerctl ingest --rejects FILE ...")
        return ends

    def _begin(self, start: Mapping[str, Any]) -> None:
        """A stream begins: the first one says whether it goes on from the shards of a run that broke off."""
        claimed, options = start.get("continues", []), start.get("options")
        if not isinstance(claimed, list) or not isinstance(options, dict):
            raise InputError("a start marker that cannot be understood", "Use the same version of seerctl")
        if self._continued is None:
            self._settle(claimed)
            self._continued = claimed
        elif claimed != self._continued and not self._comes(claimed):
            raise InputError("the streams go on from different shards", "Write them into sets of their own")
        for writer in self.writers.values():
            writer.use(options)

    def _comes(self, claimed: list[str]) -> bool:
        """Whether what a later stream goes on from is part of what is being written, as of an `ingest` begun since."""
        pending = (writer.pending() for writer in self.writers.values())
        return {token for one in pending if one is not None for token in one.tokens()}.issuperset(claimed)

    def _settle(self, claimed: list[str]) -> None:
        """Take up the shards that a broken run left whole, if they are what the stream goes on from, or remove them."""
        found = [(writer, pending) for writer in self.writers.values() if (pending := writer.pending()) is not None]
        if claimed and not self.options.append:
            raise UsageError("the stream goes on from unfinished shards (--skip-known)", "Pass --append")
        if claimed and claimed != sorted(pending.token for _, pending in found):
            raise InputError(
                "the stream leaves out what is in unfinished shards, and other ones lie here",
                "Run ingest again with --skip-known and the directory of -o",
            )
        for writer, pending in found:
            if not claimed:
                pending.discard()
                continue
            for record, look in self._items(writer.recover(pending)):
                assert isinstance(record, Record)
                self._is_new(pack_key(record.key))
                if self._near is not None and look is not None:
                    self._near.keep(record.key, look)

    def _items(self, items: Iterable[Record | StreamEnd]) -> Iterable[tuple[Record | StreamEnd, Look | None]]:
        return ((item, None) for item in items) if self._near is None else self._near.look(items)

    def _deal(self, item: Record, look: Look | None, origin: str | None = None) -> None:
        self._progress(1)
        self.samples += 1
        split = self.options.split
        name = None if split is None else origin if split.kept else split.choose(item.key)
        if not self._is_new(pack_key(item.key)):
            self.duplicates[name] += 1
            return
        if self._dropped and not self._dropped.isdisjoint((item.meta["sha256"], item.meta.get("orig_sha256"))):
            self.refused += 1
            return
        if self._near is not None and look is not None:
            twin = self._near.twin(item.key, look)
            if twin is not None:
                self.writers[name].leave_out(item, twin)
                return
            self._near.keep(item.key, look)
        self.writers[name].add(item if self._weigh is None else self._weigh(item))

    def _is_new(self, key: bytes) -> bool:
        """Whether that packed key came for the first time."""
        # The source's half first: fingers that begin alike, as one picture's from many places, make the table slow.
        return self._keys.setdefault(key[8:] + key[:8], bytes(VALUE)) is None


def _existing(output: Path, options: ShardOptions) -> list[Path]:
    """The indexes of sets that stand in `output` and are to go, also those that a killed run set aside.

    Raises:
        UsageError: something stands there and may not be touched, or cannot be continued in this way.
    """
    places = [output, *sorted(path for path in output.iterdir() if path.is_dir())]
    indexes = [place / name for name in (REPLACED, INDEX) for place in places if (place / name).is_file()]
    if options.append:
        _check_continuation(output, indexes, options)
        return []
    if _occupied(output) and not options.overwrite:
        raise UsageError(f"{output}: exists already", "Choose another output, or pass --append or --overwrite")
    return indexes


def _occupied(directory: Path) -> bool:
    pending = load_pending(directory)  # of a run killed while it gave its shards their names
    ours = {LOCK, REJECTS, *(pending.files() if pending is not None else ())}
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            if _occupied(path):
                return True
        elif path.name not in ours and not LEFTOVER.fullmatch(path.name):
            return True
    return False


def _check_continuation(output: Path, indexes: list[Path], options: ShardOptions) -> None:
    wanted = {output / (name or "") / INDEX for name in (options.split.names if options.split else (None,))}
    text = (options.split.text or None) if options.split else None
    for path in indexes:
        if path.name == REPLACED:
            raise UsageError(f"{path.parent}: overwriting it was broken off", "Write it again with --overwrite")
        split = load_index(path)[0].get("split", {}).get("shares")
        if path not in wanted or split != text:
            raise UsageError(
                f"{path.parent}: was written with {f'--split {split}' if split else 'no --split'}",
                "Append with the same --split",
            )


def _withdraw(indexes: list[Path]) -> list[Path]:
    """Set the old indexes aside first: half-replaced shards must never look like a set.

    An index beside one that was set aside before means that only the removal of stale shards was broken off then.
    """
    withdrawn = []
    for path in indexes:
        whole = path.with_name(INDEX)
        if path.name == REPLACED and whole in indexes:
            _remove_listed(path, {path.with_name(name) for name in _listed(whole)})
            continue
        if path.name == INDEX:
            path = path.replace(path.with_name(REPLACED))
            fsync_path(path.parent)
        withdrawn.append(path)
    return withdrawn


def _remove_stale(withdrawn: list[Path], writers: Collection[SetWriter]) -> None:
    """Delete the shards of replaced sets that no new one took the name of, then what named them."""
    fresh = {writer.directory / entry["url"] for writer in writers for entry in writer.added}
    for index in withdrawn:
        if index.parent not in (writer.directory for writer in writers):
            (index.parent / DUPLICATES).unlink(missing_ok=True)
        _remove_listed(index, fresh)
        with contextlib.suppress(OSError):  # not empty: others use it too
            index.parent.rmdir()


def _remove_listed(index: Path, kept: Collection[Path]) -> None:
    """Delete the shards that `index` names but for those `kept`, then `index` itself."""
    for path in map(index.with_name, _listed(index)):
        if path not in kept:
            path.unlink(missing_ok=True)
            idx_path(path).unlink(missing_ok=True)
    index.unlink()


def _listed(index: Path) -> list[str]:
    """The file names of the shards in an index, which may be damaged: then none."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return [Path(entry["url"]).name for entry in json.loads(index.read_bytes())["shardlist"]]
    return []


def _side_files(output: Path, replaced: list[Path], options: ShardOptions) -> None:
    """Write `.nv-meta` where it is asked for, bring it up to date where it is, remove that of a set that is no more."""
    for place in {index.parent for index in replaced} | {output}:
        if options.energon and place == output:
            energon.write_side_files(output)
        elif replaced:
            energon.remove(place)
    energon.refresh(output)


def _report(output: Path, dealer: _Dealer, ends: list[StreamEnd]) -> ShardReport:
    writers = dealer.writers
    rejects: Counter[str] = Counter()
    for end in ends:
        rejects.update(end.rejects)
    entries = [entry for writer in writers.values() for entry in writer.kept + writer.added]
    return ShardReport(
        output=output,
        samples=dealer.samples,
        duplicates=dealer.duplicates.total(),
        near=sum(writer.left_out for writer in writers.values()),
        refused=dealer.refused,
        stored=sum(entry["filesize"] for entry in entries),
        shards=len(entries),
        sets={
            name or "": sum(entry["nsamples"] for entry in writer.kept + writer.added)
            for name, writer in writers.items()
        },
        rejects=dict(sorted(rejects.items())),
        rejected=sum(end.rejected for end in ends),
        over_limit=any(end.over_limit for end in ends),
        streams=len(ends),
        recovered=sum(writer.recovered for writer in writers.values()),
    )
