"""Whole shards of a run that broke off: noted when they are finished, so that another stream can go on from them.

An incomplete stream never becomes a set by itself. Its finished shards stay aside, listed with their sums in a
journal; `ingest --skip-known DIR` leaves out what they hold and says so in the start marker of its stream (`continues`,
one token a directory). Only a stream that says it, and that ends, makes them part of the set; before any other they are
removed.
"""

from __future__ import annotations

import array
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.shards.index import INDEX, load_index, parse_sample
from seerctl.shards.shardfile import aside, decode_offsets, idx_path
from seerctl.stream.records import Record, compact
from seerctl.stream.ustar import END

PENDING = ".seerctl.pending.partial"  # a list of shards, one JSON line each
SCHEMA = "seer-pending-1"


@dataclass(frozen=True, slots=True)
class Pending:
    """What a run that broke off left whole in `directory`.

    recipe: what of shard's options changed its samples. options: those in the start markers of its streams. entries:
    of its shards, as an index has them.
    """

    directory: Path
    recipe: dict[str, Any]
    options: list[dict[str, Any]]
    entries: list[dict[str, Any]]

    @property
    def token(self) -> str:
        """What a stream says that goes on from exactly these shards."""
        return self.tokens()[-1]

    @property
    def samples(self) -> int:
        """Samples in all its shards."""
        return sum(entry["nsamples"] for entry in self.entries)

    def tokens(self) -> list[str]:
        """The tokens of its first shards, of one more, and so on to all of them."""
        lines, digest, tokens = self.lines(), hashlib.sha256(), []
        for line in lines:
            digest.update(line + b"\n")
            tokens.append(digest.hexdigest())
        return tokens[len(lines) - len(self.entries) :]

    def opened(self, entry: Mapping[str, Any]) -> tuple[Path, array.array[int]]:
        """Where a shard lies now, and its offsets.

        Raises:
            InputError: it is gone.
        """
        path, idx = _place(self.directory / entry["url"]), _place(idx_path(self.directory / entry["url"]))
        if path is None or idx is None:
            raise InputError(f"{self.directory / entry['url']}: went away", "Run ingest and shard again")
        with blame(idx):
            return path, decode_offsets(idx.read_bytes())

    def lines(self) -> list[bytes]:
        """The journal that says this, line by line."""
        head = {"schema": SCHEMA, "recipe": self.recipe}
        rows = [head, *({"options": one} for one in self.options), *({"shard": entry} for entry in self.entries)]
        return [compact(row) for row in rows]

    def samples_of(self, entry: Mapping[str, Any]) -> Iterator[Record]:
        """Every sample of one shard, and at the end the proof that its bytes are those that were written.

        Raises:
            InputError: they are not.
        """
        path, offsets = self.opened(entry)
        digest = hashlib.sha256()
        with blame(path), path.open("rb") as file:
            for start, end in itertools.pairwise(offsets):
                raw = os.pread(file.fileno(), end - start, start)
                digest.update(raw)
                sample = parse_sample(raw, str(path), start)
                yield Record(sample.key, sample.ext, sample.image, sample.meta, raw)
        digest.update(END)
        if digest.hexdigest() != entry["sha256"]:
            raise InputError(f"{path}: damaged since it was written", "Remove it, then run ingest and shard again")

    def set_aside(self) -> None:
        """Give every file the name it has while it is being written, wherever its run broke off."""
        for entry in self.entries:
            for final in (self.directory / entry["url"], idx_path(self.directory / entry["url"])):
                place = _place(final)
                if place is not None and place != aside(final):
                    place.replace(aside(final))

    def discard(self) -> None:
        """Remove it."""
        for entry in self.entries:
            for final in (self.directory / entry["url"], idx_path(self.directory / entry["url"])):
                for place in _places(final):
                    place.unlink(missing_ok=True)
        (self.directory / PENDING).unlink(missing_ok=True)

    def files(self) -> set[str]:
        """The names of its files."""
        finals = [self.directory / entry["url"] for entry in self.entries]
        return {
            PENDING,
            *(place.name for final in finals for one in (final, idx_path(final)) for place in _places(one)),
        }


def load_pending(directory: Path) -> Pending | None:
    """What a broken run left whole in `directory`, or None; what follows a shard that is gone does not count."""
    try:
        rows = [json.loads(line) for line in _whole_lines((directory / PENDING).read_bytes())]
        recipe = rows[0]["recipe"] if rows[0]["schema"] == SCHEMA else None
        options = [row["options"] for row in rows if "options" in row]
        entries = [row["shard"] for row in rows if "shard" in row]
        committed = _committed(directory)
        if not isinstance(recipe, dict) or any(entry["url"] in committed for entry in entries):
            return None
    except (OSError, InputError, ValueError, KeyError, TypeError, IndexError):
        return None
    whole = []
    for entry in entries:
        if not _is_whole(directory, entry):
            break
        whole.append(entry)
    return Pending(directory, recipe, options, whole) if whole else None


class Journal:
    """The list of finished shards while a set is being written: durable line by line, and begun with the first."""

    def __init__(self, directory: Path, recipe: Mapping[str, Any]) -> None:
        self._path = directory / PENDING
        self._told = Pending(directory, dict(recipe), [], [])
        self._file: BinaryIO | None = None

    def adopt(self, pending: Pending) -> None:
        """Go on with the list of a run that broke off."""
        self._told = pending

    def use(self, options: Mapping[str, Any]) -> None:
        """A stream with these options comes: they hold for what follows."""
        if options not in self._told.options:
            self._told.options.append(dict(options))
            if self._file is not None:
                self._write([compact({"options": options})])

    def add(self, entry: Mapping[str, Any]) -> None:
        """A shard is whole."""
        with blame(self._path):
            if self._file is None:
                # In place of the list before, of which a killed run may have left half a line.
                temporary = aside(self._path)
                self._file = temporary.open("wb")
                self._write(self._told.lines())
                temporary.replace(self._path)
            self._write([compact({"shard": entry})])

    def _write(self, lines: Sequence[bytes]) -> None:
        with blame(self._path):
            assert self._file is not None
            self._file.writelines(line + b"\n" for line in lines)
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file; `remove` it when what it lists stands in the index."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if remove:
            self._path.unlink(missing_ok=True)


def _whole_lines(text: bytes) -> list[bytes]:
    """The lines that were written to their end."""
    return text.split(b"\n")[:-1]


def _committed(directory: Path) -> set[str]:
    path = directory / INDEX
    return {shard["url"] for shard in load_index(path)[0]["shardlist"]} if path.is_file() else set()


def _places(final: Path) -> list[Path]:
    """Where a file of a broken run may lie: still aside, given up, or renamed before its index was written."""
    names = (aside(final), final.with_name(f"{final.name}.partial"), final)
    return [path for path in names if path.is_file()]


def _place(final: Path) -> Path | None:
    return next(iter(_places(final)), None)


def _is_whole(directory: Path, entry: Mapping[str, Any]) -> bool:
    shard, idx = (_place(path) for path in (directory / entry["url"], idx_path(directory / entry["url"])))
    if shard is None or idx is None or Path(entry["url"]).name != entry["url"]:
        return False
    sizes = (shard.stat().st_size, idx.stat().st_size)
    return sizes == (entry["filesize"], 8 * (entry["nsamples"] + 1))
