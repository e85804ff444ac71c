"""Where workers come from: one process that has loaded the decoders and forks a worker, in a millisecond, when asked.

`ingest` itself stays without numpy and Pillow, workers share the decoders' memory, and one that died is replaced at the
cost of a fork. The nursery also waits for its workers, so that their ends can be told.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from seerctl.errors import EnvironmentFault

Serve = Callable[[socket.socket, mmap.mmap], None]  # the life of a worker, on its socket and its slot

_ORDER = struct.Struct("<cI")  # b"f" and the number of a slot, or b"w" and a process id
_ANSWER = struct.Struct("<i")  # a process id, or a wait status


class Nursery:
    """Forks workers that share `slots`, memory of `slot_size` bytes each; `prepare` runs once, before the first fork.

    `prepare` gives what each worker then does.
    """

    def __init__(self, prepare: Callable[[], Serve], slot_size: int, slots: int) -> None:
        self.slots = [mmap.mmap(-1, slot_size) for _ in range(slots)]
        self._control, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            _live(theirs, prepare, self.slots)
        theirs.close()

    def start(self, slot: int) -> tuple[int, socket.socket]:
        """A new worker on that slot: its process id and our end of its socket.

        Raises:
            EnvironmentFault: the nursery itself died.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            return self._ask(b"f", slot, [theirs.fileno()]), ours

    def wait(self, pid: int) -> int:
        """The signal that ended the worker `pid`, or 0; waits until it has ended."""
        status = self._ask(b"w", pid)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def _ask(self, order: bytes, number: int, descriptors: list[int] | None = None) -> int:
        try:
            socket.send_fds(self._control, [_ORDER.pack(order, number)], descriptors or [])
            answer = self._control.recv(_ANSWER.size, socket.MSG_WAITALL)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
        if len(answer) < _ANSWER.size:
            raise EnvironmentFault("ingest: the process that starts workers died", "Free memory or use fewer --jobs")
        return int(_ANSWER.unpack(answer)[0])

    def close(self) -> None:
        """End the nursery; its workers must have ended."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        for slot in self.slots:
            slot.close()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _live(control: socket.socket, prepare: Callable[[], Serve], slots: list[mmap.mmap]) -> NoReturn:
    """The life of the nursery process."""
    try:
        # Ctrl-C goes to the whole group: `ingest` decides. And the pipe on its stdout is its alone.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):  # 2: libtiff and others print what they think of a file
            os.dup2(null, standard)
        serve = prepare()
        while True:
            data, descriptors, _, _ = socket.recv_fds(control, _ORDER.size, 1)
            if len(data) < _ORDER.size:
                break
            order, number = _ORDER.unpack(data)
            answer = _fork(control, descriptors[0], serve, slots[number]) if order == b"f" else os.waitpid(number, 0)[1]
            control.sendall(_ANSWER.pack(answer))
    finally:
        os._exit(0)


def _fork(control: socket.socket, descriptor: int, serve: Serve, slot: mmap.mmap) -> int:
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    try:
        control.close()
        with socket.socket(fileno=descriptor) as channel:
            serve(channel, slot)
    finally:
        os._exit(0)
