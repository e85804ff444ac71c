"""A directory of files from elsewhere, bounded in bytes and shared by every process of a machine.

A file is fetched by one process while the others wait for it (a lock file each), is written aside and renamed, and is
removed when room is needed, the longest unused first. What is being fetched counts with its whole size, so that the
bound holds at any moment; a `.part` that a killed process left is gone on with, or removed as the rest is.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seerctl.errors import UsageError
from seerctl.files import blame, fsync_path
from seerctl.shards.remote.locks import locked
from seerctl.shards.remote.options import SIZE, CacheOptions

_PART, _LOCK, _LEDGER = ".part", ".lock", "ledger"
_SLACK = 0.05  # of the bound that is made free beyond what is needed: looking at every file costs a while
_PAUSE_SECONDS = 0.1

Make = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    used: int  # when, in ns
    size: int


@dataclass(frozen=True, slots=True)
class Cache:
    """The files below `options.directory`, in as many folders as there are sets."""

    options: CacheOptions

    def get(self, name: str, size: int, make: Make, *, wait: bool = True, durable: bool = True) -> Path | None:
        """The file `name` (FOLDER/FILE) of `size` bytes, by `make(part)` if it is not there.

        `make` writes the file aside, or goes on with what a killed process left there. durable: it is to survive a
        power cut whole; many small files have no time for that. None: another process fetches
        it just now, and `wait` is False.

        Raises:
            UsageError: it is larger than the whole cache.
            EnvironmentFault: the disk is full, or the directory cannot be written.
        """
        path = self.options.directory / name
        if self._there(path, size):
            return path
        with blame(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(path.name + _LOCK), wait=wait) as mine:
            if not mine:
                return None
            if not self._there(path, size):
                self._fill(path, size, make, durable)
        return path

    def has(self, name: str, size: int) -> bool:
        """Whether it is there; if so, it now counts as used."""
        return self._there(self.options.directory / name, size)

    def _fill(self, path: Path, size: int, make: Make, durable: bool) -> None:
        part = self._reserve(path, size)
        with blame(path):
            try:
                make(part)
                if durable:
                    fsync_path(part)
                # A file that gets its name while `_make_room` lists the directory may be seen under neither.
                with locked(self._ledger_lock):
                    part.replace(path)
                if durable:
                    fsync_path(path.parent)
            except OSError:
                self.drop(part, size)  # a full disk wants its room back
                raise

    @staticmethod
    def _there(path: Path, size: int) -> bool:
        """Whether it is there whole; what is not is removed."""
        with contextlib.suppress(FileNotFoundError), blame(path):
            if path.stat().st_size == size:
                os.utime(path)
                return True
            path.unlink()
        return False

    def drop(self, path: Path, size: int) -> None:
        """Remove a file, or one that was to be, of `size` bytes."""
        with locked(self._ledger_lock), contextlib.suppress(FileNotFoundError):
            path.unlink()
            self._write(max(0, self._read() - size))

    def _reserve(self, path: Path, size: int) -> Path:
        """Where `path` is written aside; its bytes are accounted for."""
        if size > self.options.size:
            raise UsageError(
                f"{path.name}: {size:,} bytes, more than the {self.options.size:,} that the cache may hold",
                f"Raise data.cache_size, or {SIZE}",
            )
        part = path.with_name(f"{path.name}.{size}{_PART}")
        while True:
            with locked(self._ledger_lock):
                if part.exists():
                    os.utime(part)
                    return part
                used = self._read()
                if used + size > self.options.size:
                    used = self._make_room(size)
                if used + size <= self.options.size:
                    part.touch()
                    self._write(used + size)
                    return part
            time.sleep(_PAUSE_SECONDS)  # the rest is being fetched by others

    def _make_room(self, size: int) -> int:
        """Remove the longest unused until `size` bytes and a little more are free; the bytes that are left."""
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        used = sum(entry.size for entry in entries)
        limit = max(0, int((1 - _SLACK) * self.options.size) - size)
        for entry in entries:
            if used <= limit:
                break
            if not entry.path.endswith(_PART):
                Path(entry.path).unlink(missing_ok=True)
                used -= entry.size
                continue
            final = entry.path.removesuffix(_PART).rpartition(".")[0]
            with locked(Path(final + _LOCK), wait=False) as mine:
                if mine:  # nobody is writing it
                    Path(entry.path).unlink(missing_ok=True)
                    used -= entry.size
        return used

    def _entries(self) -> Iterator[_Entry]:
        for folder in self.options.directory.iterdir():
            if not folder.is_dir():
                continue
            with os.scandir(folder) as found:
                for entry in found:
                    if entry.name.endswith(_LOCK):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # renamed just now
                        told = entry.stat()
                        size = told.st_size
                        if entry.name.endswith(_PART):
                            size = int(entry.name.removesuffix(_PART).rpartition(".")[2])
                        yield _Entry(entry.path, told.st_mtime_ns, size)

    @property
    def _ledger_lock(self) -> Path:
        return self.options.directory / f"{_LEDGER}{_LOCK}"

    def _read(self) -> int:
        """The bytes that are accounted for; where that is not known, all."""
        try:
            return int((self.options.directory / _LEDGER).read_text())
        except (FileNotFoundError, ValueError):
            return self.options.size

    def _write(self, used: int) -> None:
        with blame(self.options.directory):
            (self.options.directory / _LEDGER).write_text(f"{used}\n")
