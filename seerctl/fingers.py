"""A table of 16-byte entries in a file without a name: what was seen so far, whatever it comes to.

Open addressing with linear probing over a memory map. The home of an entry is given by the first bits of its finger, so
growing copies the file from front to back in order. Space is reserved before it is mapped: a full disk is an error, not
a signal.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from types import TracebackType

from seerctl.files import blame

FINGER = 12  # bytes of a SHA-256: among 1e9 entries the odds of two alike are below 1e-10
VALUE = 4
_SIZE = FINGER + VALUE
_START_BITS = 12
_FILL = 0.7
_EMPTY, _GONE = bytes(FINGER), b"\xff" * FINGER
_MAX_ALIKE = 64  # entries of one finger: more would make probing slow, and tell nothing


class FingerTable:
    """Fingers with a value of 4 bytes each, one finger perhaps several times; 23 to 46 bytes of disk a finger.

    The file lies in `$TMPDIR`; the system keeps of it in memory what it has room for.
    """

    def __init__(self) -> None:
        self._bits = _START_BITS
        self._count = 0
        self._map = self._reserve(_SIZE << self._bits)

    @staticmethod
    def _reserve(size: int) -> mmap.mmap:
        place = Path(tempfile.gettempdir())
        with blame(place), tempfile.TemporaryFile(prefix="seerctl-", dir=place) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return mmap.mmap(file.fileno(), size)

    def __len__(self) -> int:
        return self._count

    def setdefault(self, finger: bytes, value: bytes) -> bytes | None:
        """The value that `finger` has, or None after it got `value`."""
        table, at = self._map, self._home(finger)
        while (found := table[at : at + FINGER]) != _EMPTY:
            if found == finger:
                return table[at + FINGER : at + _SIZE]
            at = (at + _SIZE) % len(table)
        self._put(at, finger + value)
        return None

    def add(self, finger: bytes, value: bytes) -> None:
        """Another entry for `finger` (beyond 64 of them, none)."""
        at, alike = self._free(finger)
        if alike < _MAX_ALIKE:
            self._put(at, finger + value)

    def take(self, finger: bytes, *values: bytes) -> bool:
        """Remove one entry of `finger` that has one of `values`, or any without them; whether there was one."""
        home = at = self._home(finger)
        while (entry := self._map[at : at + _SIZE])[:FINGER] != _EMPTY:
            if entry[:FINGER] == finger and (not values or entry[FINGER:] in values):
                self._map[at : at + FINGER] = _GONE
                return True
            at = (at + _SIZE) % len(self._map)
            if at == home:
                break
        return False

    def _home(self, finger: bytes) -> int:
        return (int.from_bytes(finger[:8], "big") >> (64 - self._bits)) * _SIZE

    def _free(self, finger: bytes) -> tuple[int, int]:
        """The free place after all entries of `finger`, and how many there are."""
        at, alike, size = self._home(finger), 0, len(self._map)
        while (found := self._map[at : at + FINGER]) != _EMPTY:
            alike += found == finger
            at = (at + _SIZE) % size
        return at, alike

    def _put(self, at: int, entry: bytes) -> None:
        self._map[at : at + _SIZE] = entry
        self._count += 1
        if self._count > _FILL * (1 << self._bits):
            self._grow()

    def _grow(self) -> None:
        old = self._map
        self._bits += 1
        self._map = self._reserve(_SIZE << self._bits)
        for at in range(0, len(old), _SIZE):
            entry = old[at : at + _SIZE]
            if entry[:FINGER] not in (_EMPTY, _GONE):
                free, _ = self._free(entry[:FINGER])
                self._map[free : free + _SIZE] = entry
        old.close()

    def close(self) -> None:
        """Give the space back."""
        self._map.close()

    def __enter__(self) -> FingerTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
