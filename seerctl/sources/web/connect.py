"""Connections that keep time: to addresses that were judged, used again where a server allows it."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import socket
import ssl
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any

from seerctl.sources.web.addresses import Address
from seerctl.sources.web.options import WebOptions
from seerctl.sources.web.urls import Target

_IDLE_SECONDS = 15.0  # servers close idle connections after 5 to 75


class Deadline:
    """Seconds left for one request; waiting for ourselves (`paused`) does not count."""

    def __init__(self, seconds: float, silence: float) -> None:
        self._seconds, self.silence = seconds, silence
        self.renew()

    def renew(self) -> None:
        """Begin anew."""
        self._end = time.monotonic() + self._seconds

    def left(self) -> float:
        """Seconds until the other side must have said something more.

        Raises:
            TimeoutError: there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long altogether")
        return min(left, self.silence)

    def paused(self, seconds: float) -> None:
        """That many seconds passed that were not the other side's."""
        self._end += seconds


class _Reader(io.RawIOBase):
    """Reads a socket within a deadline, also from a server that sends one byte a second."""

    def __init__(self, owner: _Socket) -> None:
        super().__init__()
        self._owner = owner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        owner = self._owner
        owner.sock.settimeout(owner.connection.deadline.left())
        return owner.sock.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._owner.close()


class _Socket:
    """What `http.client` needs of a socket; it stays open until its readers are closed too."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock, self.connection = sock, connection
        self._users = 1

    def makefile(self, mode: str) -> io.BufferedReader:
        self._users += 1
        return io.BufferedReader(_Reader(self), 1 << 16)

    def sendall(self, data: bytes) -> None:
        self.sock.settimeout(self.connection.deadline.left())
        self.sock.sendall(data)

    def close(self) -> None:
        self._users -= 1
        if self._users == 0:
            self.sock.close()


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class Connection(http.client.HTTPConnection):
    """One connection to one of `addresses`, whatever the name of `target` resolves to by now."""

    def __init__(self, target: Target, addresses: Iterable[Address], seconds: float) -> None:
        super().__init__(target.host, target.port)
        self.target, self.deadline = target, Deadline(seconds, seconds)
        self.idle_since = time.monotonic()
        self.used = False
        self._addresses, self._seconds = list(addresses), seconds
        self._raw: socket.socket | None = None

    def connect(self) -> None:
        """Try each address in turn."""
        fault: OSError = OSError("no address")
        for family, place in self._addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(min(self._seconds, self.deadline.left()))
                sock.connect(place)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.target.scheme == "https":
                    sock = _tls().wrap_socket(sock, server_hostname=self.target.host)
            except OSError as error:
                sock.close()
                fault = error
            else:
                self.sock = _Socket(sock, self)
                self._raw = sock
                return
        raise fault

    def abort(self) -> None:
        """End what another thread waits for."""
        if self._raw is not None:
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)


class Connections:
    """Idle connections by place, for whoever wants one next; all methods may be called by any thread."""

    def __init__(self, options: WebOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._idle: OrderedDict[tuple[str, str, int], deque[Connection]] = OrderedDict()
        self._count = 0
        self._lent: set[Connection] = set()
        self._closed = False

    def take(self, target: Target) -> Connection | None:
        """A connection that was used before and may still be open, or None."""
        stale = []
        found = None
        with self._lock:
            waiting = self._idle.get(target.place, deque())
            while waiting and found is None:
                connection = waiting.pop()
                self._count -= 1
                if time.monotonic() - connection.idle_since < _IDLE_SECONDS:
                    found = connection
                    self._lent.add(found)
                else:
                    stale.append(connection)
        for connection in stale:
            connection.close()
        return found

    def make(self, target: Target, addresses: Iterable[Address]) -> Connection:
        """A new one, not yet connected."""
        connection = Connection(target, addresses, self._options.connect)
        with self._lock:
            if self._closed:
                raise ConnectionError("ending")
            self._lent.add(connection)
        return connection

    def give_back(self, connection: Connection, *, usable: bool) -> None:
        """Keep it for the next request, or close it."""
        dropped: Connection | None = connection
        with self._lock:
            self._lent.discard(connection)
            if usable and not self._closed:
                connection.used, connection.idle_since = True, time.monotonic()
                self._idle.setdefault(connection.target.place, deque()).append(connection)
                self._idle.move_to_end(connection.target.place)
                self._count += 1
                dropped = self._oldest() if self._count > 2 * self._options.threads else None
        if dropped is not None:
            dropped.close()

    def _oldest(self) -> Connection:
        while True:
            place, waiting = next(iter(self._idle.items()))
            if waiting:
                self._count -= 1
                return waiting.popleft()
            del self._idle[place]

    def close(self) -> None:
        """Break off everything, also what threads are waiting for."""
        with self._lock:
            self._closed = True
            lent, idle = list(self._lent), [connection for waiting in self._idle.values() for connection in waiting]
            self._idle.clear()
        for connection in lent:
            connection.abort()
        for connection in idle:
            connection.close()
