"""Locks between the processes of a machine that hold through threads and forks, and end with their holder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from seerctl.errors import EnvironmentFault
from seerctl.files import blame

_held: set[int] = set()


def _forget() -> None:
    """A forked child has a copy of its parent's descriptors, by which it would hold the parent's locks, too."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`, which goes away with the lock; False where another has it and `wait` is False.

    Raises:
        EnvironmentFault: the file system has no locks, or cannot be written.
    """
    descriptor = _acquire(path, wait)
    if descriptor < 0:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        _release(descriptor)


def _acquire(path: Path, wait: bool) -> int:
    while True:
        with blame(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _held.add(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The holder before may have removed the file between our open and our lock: then it guards nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError:
            _release(descriptor)
            return -1
        except OSError as error:
            _release(descriptor)
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                hint = "Put the cache on a local disk (data.cache, or SEERCTL_CACHE)"
                raise EnvironmentFault(f"{path}: this file system has no locks", hint) from None
            raise
        except BaseException:
            _release(descriptor)
            raise
        _release(descriptor)


def _release(descriptor: int) -> None:
    _held.discard(descriptor)
    os.close(descriptor)
