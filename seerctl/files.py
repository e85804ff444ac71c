"""Files that appear whole or not at all, and the hashes that lineage is made of."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from seerctl.errors import EnvironmentFault, InputError, UsageError

_ENVIRONMENT_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the device reports an input/output error",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on this machine",
}


def environment_fault(error: OSError, path: str | os.PathLike[str] | None = None) -> EnvironmentFault | None:
    """`error` as an `EnvironmentFault` when the machine is to blame (full disk, permission, ...), else None."""
    reason = _ENVIRONMENT_ERRNOS.get(error.errno or 0)
    if reason is None:
        return None
    where = path or error.filename or "output"
    return EnvironmentFault(f"{os.fspath(where)!s}: {reason}", "Free space or change the permissions, then retry")


@contextlib.contextmanager
def blame(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like while working on `path` into one clear line (exit 7)."""
    try:
        yield
    except OSError as error:
        fault = environment_fault(error, path)
        if fault is None:
            raise
        raise fault from error


def claim(path: Path, *, overwrite: bool = False) -> Path:
    """`path` if nothing stands there, or if it may be overwritten.

    Raises:
        UsageError: something exists and `overwrite` is False (an empty directory does not count).
    """
    occupied = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if occupied and not overwrite:
        raise UsageError(f"{path}: exists already", "Choose another output or pass --overwrite")
    return path


def fsync_path(path: Path) -> None:
    """Make the bytes of a file, or the names in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(temporary: Path, final: Path) -> None:
    """Fsync `temporary`, rename it to `final`, fsync the directory: `final` is whole or absent at any moment."""
    with blame(final):
        fsync_path(temporary)
        temporary.replace(final)
        fsync_path(final.parent)


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open `<path>.tmp` for writing and rename it to `path` only if the block ends well; else remove it."""
    temporary = path.with_name(path.name + ".tmp")
    with blame(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
            commit(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def json_text(value: object, indent: int | None = None) -> str:
    """`value` as JSON that UTF-8 can hold: lone surrogates, which names from strangers may have, stay escapes.

    Raises:
        ValueError: a number is not finite.
    """
    import json
    import re

    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with a final newline, atomically; NaN is refused."""
    with atomic_write(path, "w") as file:
        file.write(json_text(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    import json

    with blame(path):
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not valid JSON ({error})") from None


def sha256_file(path: Path) -> str:
    """SHA-256 of the bytes of `path`, as 64 hex digits."""
    import hashlib

    with blame(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_hdf5(path: Path) -> bool:
    """Whether `path` is a file that begins as HDF5 files do."""
    if not path.is_file():
        return False
    with blame(path), path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def free_bytes(path: Path) -> int:
    """Free bytes on the file system that holds `path` or its closest existing parent."""
    import shutil

    for place in (path, *path.absolute().parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return shutil.disk_usage("/").free
