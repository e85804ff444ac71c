"""Files of one set in the cache: whole shards, their offsets, and runs of samples, each proved when it arrives."""

from __future__ import annotations

import array
import contextlib
import hashlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.shards.index import parse_sample
from seerctl.shards.remote.cache import Cache
from seerctl.shards.remote.origin import Origin
from seerctl.shards.shardfile import decode_offsets
from seerctl.stream.records import content_key
from seerctl.stream.ustar import BLOCK, END

_COPY = "Check it there ('seerctl inspect DIR --verify'), or copy it there again"

Span = tuple[int, int]  # samples [first, end) of one shard, numbered inside it


@dataclass(frozen=True, slots=True)
class Fetching:
    """What of the shards `entries` of an index is here, in `folder` of the cache, and how the rest is had.

    Every method that waits for bytes raises:
        InputError: a file is missing at its place, or damaged; the message has its URL.
        EnvironmentFault: it cannot be had, or the disk is full.
    With `wait` False nothing is done where another process is about it.
    """

    cache: Cache
    origin: Origin
    folder: str
    entries: list[dict[str, Any]]

    def bytes_of(self, number: int) -> int:
        """The bytes of a shard and its offsets."""
        return int(self.entries[number]["filesize"]) + self._offsets_size(number)

    def path(self, number: int) -> Path:
        """Where a shard is kept."""
        return self.cache.options.directory / self.folder / str(self.entries[number]["url"])

    def shard(self, number: int, *, wait: bool = True) -> None:
        """Have a whole shard and its offsets here."""
        self.offsets(number, wait=wait)
        name, size = str(self.entries[number]["url"]), int(self.entries[number]["filesize"])
        self.cache.get(f"{self.folder}/{name}", size, lambda part: self._download(number, part), wait=wait)

    def offsets(self, number: int, *, wait: bool = True) -> Path:
        """Have the offsets of a shard here."""
        path = self.path(number)
        name = f"{self.folder}/{path.name}.idx"
        self.cache.get(
            name, self._offsets_size(number), lambda part: self._download_offsets(number, part), wait=wait
        )  # fmt: skip
        return path.with_name(f"{path.name}.idx")

    def span(self, number: int, span: Span, *, wait: bool = True) -> Path | None:
        """Have some samples of a shard here, as a file of their own."""
        places = self.places(number, span)
        name, size = self._span_name(number, span), places[-1] - places[0]
        return self.cache.get(
            name, size, lambda part: self._download_span(number, places, part), wait=wait, durable=False
        )  # fmt: skip

    def span_path(self, number: int, span: Span) -> str:
        """Where such a file is kept."""
        return f"{self.cache.options.directory}/{self._span_name(number, span)}"

    def keep_span(self, number: int, span: Span) -> None:
        """If the samples are here already: they will be needed soon."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.span_path(number, span))

    def places(self, number: int, span: Span) -> array.array[int]:
        """Where the samples [first, end) of a shard begin in it, and where the last of them ends."""
        first, end = span
        while True:
            path = self.offsets(number)
            # Others may have needed its room meanwhile.
            with contextlib.suppress(FileNotFoundError), blame(path), path.open("rb", buffering=0) as file:
                return decode_offsets(os.pread(file.fileno(), 8 * (end - first + 1), 8 * first))

    def _offsets_size(self, number: int) -> int:
        return 8 * (int(self.entries[number]["nsamples"]) + 1)

    def _span_name(self, number: int, span: Span) -> str:
        return f"{self.folder}/{self.entries[number]['url']}.{span[0]}-{span[1]}"

    def _download(self, number: int, part: Path) -> None:
        """Fetch what is missing of a shard in `part`; once more from its start where the hash is another."""
        entry = self.entries[number]
        name, size = str(entry["url"]), int(entry["filesize"])
        for _ in range(2):
            with part.open("ab") as file:
                there = file.tell()
                if there < size:
                    self.origin.copy(name, file.write, (there, size), size)
            with part.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]:
                    return
            os.truncate(part, 0)
        where = self.origin.place.printed(name)
        raise InputError(f"{where}: damaged: its SHA-256 is not the one in the index", _COPY)

    def _download_offsets(self, number: int, part: Path) -> None:
        entry, size = self.entries[number], self._offsets_size(number)
        name = f"{entry['url']}.idx"
        data = self.origin.read(name, (0, size), size)
        offsets = decode_offsets(data)
        ordered = all(start < end and end % BLOCK == 0 for start, end in itertools.pairwise(offsets))
        if offsets[0] != 0 or offsets[-1] + len(END) != entry["filesize"] or not ordered:
            where = self.origin.place.printed(name)
            raise InputError(f"{where}: damaged: not the offsets of {entry['nsamples']} samples", _COPY)
        part.write_bytes(data)

    def _download_span(self, number: int, places: array.array[int], part: Path) -> None:
        entry = self.entries[number]
        name, where = str(entry["url"]), self.origin.place.printed(str(entry["url"]))
        begin = places[0]
        data = self.origin.read(name, (begin, places[-1]), int(entry["filesize"]))
        for start, end in itertools.pairwise(places):
            sample = parse_sample(data[start - begin : end - begin], where, start)
            digest = hashlib.sha256(sample.image).hexdigest()
            if digest != sample.meta["sha256"] or sample.key != content_key(digest, sample.meta["source"]):
                raise InputError(f"{where}: damaged at byte {start}: {sample.key} is not what its hash says", _COPY)
        part.write_bytes(data)
