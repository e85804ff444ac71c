"""One shard set in the making: what goes into which shard, and how it appears all at once."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from seerctl import __version__
from seerctl.errors import UsageError
from seerctl.files import blame, commit, sha256_file
from seerctl.shards.index import INDEX, KIND, SCHEMA, ShardSet, write_index
from seerctl.shards.jsons import read_metas
from seerctl.shards.leftovers import DUPLICATES, LEFTOVER, begin, settle, sweep
from seerctl.shards.pending import Journal, Pending, load_pending
from seerctl.shards.reshard import SetInput, inherited, left_out
from seerctl.shards.shardfile import ShardFile, aside, idx_path, read_offsets
from seerctl.shards.shuffle import HASH, Shuffle, Shuffler
from seerctl.shards.split import Split
from seerctl.shards.summary import Summary
from seerctl.stream.records import Record, StreamEnd, compact
from seerctl.stream.ustar import BLOCK, END, parse

if TYPE_CHECKING:
    from seerctl.shards.dedup import Twin

HASH_VERSION = "dct64-1"  # `perceptual.VERSION`, without the numpy that importing it would take
_NUMBERED = re.compile(r".*-(\d{6,})(-r\d+)?\.tar")


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """How a set is cut: at most `maxcount` samples and `maxsize` bytes a shard (one sample may be larger).

    near: leave out samples whose perceptual hash differs in at most so many bits from one that was kept; `jobs`
    processes compute the hashes. weights: a file whose sample weights become the column `weight`. shuffle: the order of
    what is added; its memory is shared by the splits. energon: write `.nv-meta` too.
    """

    prefix: str = "shard"
    maxcount: int = 10_000
    maxsize: int = 1_000_000_000
    split: Split | None = None
    streams: int | None = None
    append: bool = False
    overwrite: bool = False
    near: int | None = None
    jobs: int | None = None
    weights: Path | None = None
    shuffle: Shuffle | None = None
    energon: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.prefix):
            raise UsageError(f"prefix {self.prefix!r}", "Use letters, digits, '-' and '_'")
        if self.maxcount < 1 or self.maxsize < 1:
            raise UsageError(f"shards of {self.maxcount} samples and {self.maxsize} bytes", "Both must be positive")
        if self.append and self.overwrite:
            raise UsageError("--append and --overwrite exclude each other")


@dataclass
class SetWriter:
    """One shard set in the making, or one being continued."""

    directory: Path
    options: ShardOptions
    name: str | None = None
    kept: list[dict[str, Any]] = field(default_factory=list)  # entries of shards that stand already
    before: dict[str, Any] = field(default_factory=dict)  # the index so far
    summary: Summary = field(default_factory=Summary)
    added: list[dict[str, Any]] = field(default_factory=list)
    _open: ShardFile | None = None
    left_out: int = 0
    recovered: int = 0  # shards of a run that broke off, among `added`
    sets: list[SetInput] = field(default_factory=list)  # whose samples come here
    _carried: int = 0  # near-duplicates that those sets left out
    _before_sha256: str = ""
    _log: BinaryIO | None = None  # of near-duplicates, still `.tmp`
    _shuffler: Shuffler | None = None

    def __post_init__(self) -> None:
        with blame(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        weights = None if self.options.weights is None else sha256_file(self.options.weights)
        self._recipe: dict[str, Any] = {"near": self.options.near, "weights": weights}
        self._journal = Journal(self.directory, self._recipe)
        shuffle, split = self.options.shuffle, self.options.split
        if shuffle is not None:
            memory = shuffle.memory // (len(split.names) if split else 1)
            self._shuffler = Shuffler(self.directory / f"{self.options.prefix}-spill", shuffle.place(), memory)

    def resume(self) -> Iterator[bytes]:
        """Go on from the set that stands in the directory, whose packed keys are yielded."""
        with ShardSet.open(self.directory) as shards:
            self.before, self._before_sha256 = shards.index, shards.sha256
            self.kept = list(shards.index["shardlist"])
            self.summary = Summary.from_json(shards.index) if "modes" in shards.index else summary_of(shards)
            yield from keys_of(shards)

    def use(self, options: Mapping[str, Any]) -> None:
        """A stream made with these options comes."""
        self._journal.use(options)

    def recover(self, pending: Pending) -> Iterator[Record]:
        """Go on from the shards of a run that broke off, whose samples are yielded.

        Raises:
            UsageError: they were made otherwise.
            InputError: they are damaged.
        """
        if pending.recipe != self._recipe:
            raise UsageError(
                f"{self.directory}: its unfinished shards were written with another --dedup or --weights",
                "Pass the same, or start again without --skip-known",
            )
        self._journal.adopt(pending)
        pending.set_aside()
        for entry in pending.entries:
            for record in pending.samples_of(entry):
                self.summary.add(record.meta)
                yield record
            self.added.append(entry)
        self.recovered = len(pending.entries)

    def add(self, record: Record) -> None:
        """Take one sample."""
        self.summary.add(record.meta)
        if self._shuffler is None:
            self._append(record.raw)
        else:
            self._shuffler.add(record.key, record.raw)

    def _append(self, raw: bytes) -> None:
        """Write one sample, in a new shard when this one is full."""
        shard = self._open
        if shard is not None and (
            shard.count >= self.options.maxcount or shard.size + len(raw) + len(END) > self.options.maxsize
        ):
            self._finish_shard()
            shard = None
        if shard is None:
            number = self._first + len(self.added)
            shard = self._open = ShardFile(self.directory / f"{self.options.prefix}-{number:06d}.tar")
        shard.add(raw)

    def leave_out(self, record: Record, twin: Twin) -> None:
        """Note a sample that is not stored because it looks like one that was."""
        row = {"key": record.key, "sha256": record.meta["sha256"], "source": record.meta["source"],
               "of": twin.key, "distance": twin.distance}  # fmt: skip
        self._note(compact(row) + b"\n")
        self.left_out += 1

    def _note(self, line: bytes) -> None:
        path = self.directory / DUPLICATES
        with blame(path):
            if self._log is None:
                self._log = aside(path).open("wb")
                if self.before and path.is_file():  # not what a run wrote that was killed before its index
                    told = self.before.get("near_duplicates", {}).get("left_out", 0)
                    self._log.writelines(path.read_bytes().splitlines(keepends=True)[:told])
            self._log.write(line)

    def inherit(self, one: SetInput) -> None:
        """Carry over what the index of a set says whose samples come, and its list of near-duplicates."""
        self.sets.append(one)
        split = self.options.split
        for key, line in left_out(one):
            if split is None or split.kept or split.choose(key) == self.name:
                self._note(line)
                self._carried += 1

    @property
    def _first(self) -> int:
        """The number of the first new shard: beyond every number that stands, also where a drop left gaps."""
        numbers = [int(match[1]) + 1 for entry in self.kept if (match := _NUMBERED.fullmatch(entry["url"]))]
        return max([len(self.kept), *numbers])

    def _finish_shard(self) -> None:
        if self._open is not None:
            self.added.append(self._open.close())
            self._open = None
            if self._continuable:
                self._journal.add(self.added[-1])

    @property
    def _continuable(self) -> bool:
        """Whether a run that breaks off can be gone on from: what is shuffled or read from sets starts again."""
        return self._shuffler is None and not self.sets

    def finish(self) -> None:
        """Write what is still to be ordered, and make the last shard whole."""
        if self._shuffler is not None:
            for raw in self._shuffler.drain():
                self._append(raw)
        self._finish_shard()

    def publish(self, ends: list[StreamEnd], duplicates: int) -> None:
        """Rename every shard to its final name and write the index, the last thing to appear."""
        if not self._continuable:  # a kill on the way leaves shards that no index lists: the next run removes them
            begin(self.directory, (entry["url"] for entry in self.added), fresh=not self.before)
        for entry in self.added:
            shard = self.directory / entry["url"]
            for path in (shard, idx_path(shard)):
                commit(aside(path), path)
        self._publish_log()
        write_index(self.directory / INDEX, self._index(ends, duplicates))
        if not self._continuable:
            settle(self.directory)
        self._journal.close(remove=True)

    def _publish_log(self) -> None:
        path = self.directory / DUPLICATES
        with blame(path):
            if self._log is not None:
                self._log.close()
                self._log = None
                commit(aside(path), path)
            elif not self.options.append:  # of a set that stood here before
                path.unlink(missing_ok=True)

    def _index(self, ends: list[StreamEnd], duplicates: int) -> dict[str, Any]:
        shards = self.kept + self.added
        rejects = Counter(self.before.get("rejects", {}))
        for end in ends:
            rejects.update(end.rejects)
        dealt = self.options.split
        split = {"split": {"name": self.name, "shares": dealt.text}} if dealt and dealt.text else {}
        streams = [
            {"sha256": end.sha256, "samples": end.samples, "bytes": end.stored, "version": end.start["version"],
             "options": end.start["options"]}
            for end in ends
        ]  # fmt: skip
        lineage = self.before.get("lineage", {})
        if self.recovered:  # their streams have no end, so no hash; what proves them is the hash of each shard
            samples = sum(entry["nsamples"] for entry in self.added[: self.recovered])
            lineage = {**lineage, "recovered": lineage.get("recovered", 0) + samples}
        step = [{"index_sha256": self._before_sha256, "by": "append"}] if self.before else []
        history = lineage.get("history", []) + step
        index = {
            "__kind__": KIND,
            "wids_version": 1,
            "schema": SCHEMA,
            "seerctl": __version__,
            "total": sum(shard["nsamples"] for shard in shards),
            "bytes": sum(shard["filesize"] for shard in shards),
            **split,
            "shardlist": shards,
            **self.summary.to_json(),
            "rejects": dict(sorted(rejects.items())),
            "over_limit": self.before.get("over_limit", False) or any(end.over_limit for end in ends),
            "duplicates": self.before.get("duplicates", 0) + duplicates,
            **self._dedup(),
            **({"dropped": self.before["dropped"]} if "dropped" in self.before else {}),
            **self._order(),
            "lineage": {
                **lineage,
                "streams": lineage.get("streams", []) + streams,
                **({"history": history} if history else {}),
            },
        }
        return index | inherited(index, self.sets) if self.sets else index

    def _order(self) -> dict[str, Any]:
        """How each shuffled run ordered what it added: `seed`, `hash` and how many samples."""
        told = list(self.before.get("shuffled", []))
        if self.options.shuffle is not None:
            count = sum(entry["nsamples"] for entry in self.added)
            told.append({"seed": self.options.shuffle.seed, "hash": HASH, "samples": count})
        return {"shuffled": told} if told else {}

    def _dedup(self) -> dict[str, Any]:
        """How near-duplicates were found, and how many were left out over all runs."""
        told = [self.before, *(one.index for one in self.sets)]
        before = [index["near_duplicates"] for index in told if index.get("near_duplicates")]
        if self.options.near is not None:
            how = {"hash": HASH_VERSION, "distance": self.options.near}
        elif before:
            how = before[0]
        else:
            return {}
        count = self.before.get("near_duplicates", {}).get("left_out", 0) + self._carried + self.left_out
        return {"near_duplicates": {**how, "left_out": count}}

    def abandon(self) -> None:
        """Leave what came as `.partial`: nothing of it is ever taken for a set."""
        self._journal.close()
        if self._open is not None:
            self._open.abandon()
        for path in [path for path in self.directory.glob("*.tmp") if LEFTOVER.fullmatch(path.name)]:
            with contextlib.suppress(OSError):
                path.replace(path.with_name(path.name.removesuffix(".tmp") + ".partial"))

    def discard_log(self) -> None:
        """Remove the notes of a run that added nothing or failed."""
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()
                aside(self.directory / DUPLICATES).unlink(missing_ok=True)
            self._log = None

    def pending(self) -> Pending | None:
        """The whole shards that an earlier, failed run left behind."""
        return load_pending(self.directory)

    def sweep(self) -> None:
        """Remove what an earlier, failed run left behind, but for its whole shards: a stream may go on from them."""
        pending = self.pending()
        sweep(self.directory, pending.files() if pending else ())


def summary_of(shards: ShardSet) -> Summary:
    """The summary of a set counted anew, from the json of its samples."""
    summary = Summary()
    for path, _ in shards.paths():
        for _, meta in read_metas(path):
            summary.add(meta)
    return summary


def keys_of(shards: ShardSet) -> Iterator[bytes]:
    """The packed keys of a set, read from the headers alone."""
    for path, _ in shards.paths():
        with blame(path), path.open("rb") as file:
            for offset in read_offsets(path)[:-1]:
                name, _ = parse(os.pread(file.fileno(), BLOCK, offset), str(path), offset)
                yield pack_key(name)


def pack_key(name: str) -> bytes:
    """The 12 bytes of a key, or of a member's name: 8 of the picture's hash, 4 of its source's."""
    return bytes.fromhex(name[:16] + name[17:25])
