"""One writer to a directory: a lock file that goes away with its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from seerctl.errors import EnvironmentFault
from seerctl.files import blame

LOCK = ".seerctl.lock"
PATIENCE_SECONDS = 3.0  # the helpers of a holder that was killed share its lock until they have ended, too


@contextlib.contextmanager
def write_lock(directory: Path) -> Iterator[None]:
    """Hold the right to write into `directory`; a killed holder loses it with the last of its helpers.

    Raises:
        EnvironmentFault: another process is writing there, and still is after a few seconds.
    """
    path = directory / LOCK
    descriptor = _acquire(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with blame(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the file between our open and our lock: then it guards nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise EnvironmentFault(
                    f"{path.parent}: another seerctl is writing here", "Wait for it, or choose another output"
                ) from None
            time.sleep(0.05)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
