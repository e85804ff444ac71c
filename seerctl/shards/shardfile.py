"""One shard and its offsets while they are written aside, as `.tmp`."""

from __future__ import annotations

import array
import contextlib
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

from seerctl.errors import InputError
from seerctl.files import atomic_write, blame, environment_fault
from seerctl.stream.ustar import END


def aside(path: Path) -> Path:
    """Where `path` is written before it is renamed."""
    return path.with_name(path.name + ".tmp")


def idx_path(shard: Path) -> Path:
    """The file of offsets beside a shard."""
    return shard.with_name(shard.name + ".idx")


def read_offsets(shard: Path) -> array.array[int]:
    """The n + 1 offsets of a shard's n samples.

    Raises:
        InputError: the file is missing or is no list of offsets.
    """
    with blame(shard):
        try:
            return decode_offsets(idx_path(shard).read_bytes())
        except (FileNotFoundError, ValueError) as error:
            raise InputError(f"{idx_path(shard)}: {error}", "Run 'seerctl inspect DIR --verify'") from None


def decode_offsets(data: bytes) -> array.array[int]:
    """The offsets in the bytes of a `.tar.idx`."""
    offsets = array.array("Q")
    offsets.frombytes(data)
    if sys.byteorder == "big":
        offsets.byteswap()
    return offsets


def write_offsets(shard: Path, offsets: array.array[int]) -> None:
    """Write the offsets beside a shard, whole or not at all."""
    with atomic_write(idx_path(shard)) as file:
        file.write(_packed(offsets))


def _packed(offsets: array.array[int]) -> bytes:
    """Little-endian, whatever the machine."""
    copy = offsets[:]
    if sys.byteorder == "big":
        copy.byteswap()
    return copy.tobytes()


class ShardFile:
    """One shard and its offsets while they are `.tmp`."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.idx = idx_path(final)
        self._hash = hashlib.sha256()
        self._offsets = array.array("Q", [0])
        with blame(final):
            self._file = aside(final).open("wb", buffering=1 << 20)

    @property
    def size(self) -> int:
        return self._offsets[-1]

    @property
    def count(self) -> int:
        return len(self._offsets) - 1

    def add(self, raw: bytes) -> None:
        try:
            self._file.write(raw)
        except OSError as error:
            raise environment_fault(error, self.final) or error from error
        self._hash.update(raw)
        self._offsets.append(self.size + len(raw))

    def close(self) -> dict[str, Any]:
        """End the tar, write the offsets, make both durable; the shard's entry in the index."""
        self._hash.update(END)
        with blame(self.final):
            self._file.write(END)
            self._sync(self._file)
            with aside(self.idx).open("wb") as idx:
                idx.write(_packed(self._offsets))
                self._sync(idx)
        size = aside(self.final).stat().st_size
        return {"url": self.final.name, "nsamples": self.count, "filesize": size, "sha256": self._hash.hexdigest()}

    @staticmethod
    def _sync(file: Any) -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()

    def abandon(self) -> None:
        """Let go of a shard that will not be finished."""
        with contextlib.suppress(OSError):  # a full disk fails the last flush again: that was said already
            self._file.close()
