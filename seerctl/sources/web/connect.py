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

_MAX_LINE, _MAX_HEADERS, _MAX_INTERIM = 1 << 16, 200, 10
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


class Connection:
    """One connection to one of `addresses`, whatever the name of `target` resolves to by now."""

    def __init__(self, target: Target, addresses: Iterable[Address], seconds: float) -> None:
        self.target, self.deadline = target, Deadline(seconds, seconds)
        self.idle_since = time.monotonic()
        self.used = False
        self._addresses, self._seconds = list(addresses), seconds
        self._socket: _Socket | None = None

    def ask(self, head: bytes) -> http.client.HTTPResponse:
        """Send the head of a GET request; the answer, its body unread.

        Raises:
            OSError: the connection failed, TimeoutError among them.
            http.client.HTTPException: what came is no answer.
        """
        if self._socket is None:
            self._socket = self._connect()
        self._socket.sendall(head)
        response = Answer(self._socket, method="GET")  # type: ignore[arg-type]
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        return response

    def _connect(self) -> _Socket:
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
                return _Socket(sock, self)
        raise fault

    def abort(self) -> None:
        """End what another thread waits for."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, as soon as nobody reads from it any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Headers:
    """The headers of an answer, with what `http.client` and we ask of them; it parses them as mails, at half the cost
    of a request."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def get_all(self, name: str, default: Any = None) -> Any:
        """Every value of a header, or `default`."""
        name = name.lower()
        return [value for key, value in self._pairs if key == name] or default

    def get(self, name: str, default: Any = None) -> Any:
        """The first value of a header, or `default`."""
        name = name.lower()
        return next((value for key, value in self._pairs if key == name), default)


class Answer(http.client.HTTPResponse):
    """An answer whose head is read quickly and strictly; bodies are left to `http.client`."""

    def begin(self) -> None:
        """Read the head."""
        for _ in range(_MAX_INTERIM):
            version, status, reason = self._read_status()  # type: ignore[attr-defined]
            headers = self._read_headers()
            if status >= 200 or status == 101:
                break
        else:
            raise http.client.HTTPException("one 100 after the other")
        self.code = self.status = status
        self.reason = reason.strip()
        self.version = 10 if version in ("HTTP/1.0", "HTTP/0.9") else 11
        self.headers = self.msg = headers  # type: ignore[assignment]
        self.chunked = (headers.get("transfer-encoding") or "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()  # type: ignore[attr-defined]
        self.length = None if self.chunked else self._told(headers)
        if status in (204, 304) or 100 <= status < 200:
            self.length = 0
        if self.length is None and not self.chunked:
            self.will_close = True

    def _read_headers(self) -> Headers:
        pairs: list[tuple[str, str]] = []
        while (line := self.fp.readline(_MAX_LINE + 1)) not in (b"\r\n", b"\n", b""):
            if len(line) > _MAX_LINE or len(pairs) >= _MAX_HEADERS:
                raise http.client.LineTooLong("header") if len(line) > _MAX_LINE else _too_many()
            text = line.decode("latin-1")
            name, colon, value = text.partition(":")
            if text[0] in " \t" and pairs:  # folded, as of old
                pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]} {text.strip()}"[:_MAX_LINE])
            elif colon:
                pairs.append((name.strip().lower(), value.strip()))
        return Headers(pairs)

    @staticmethod
    def _told(headers: Headers) -> int | None:
        lengths = set(headers.get_all("content-length", ()))
        if len(lengths) > 1 or not all(length.isascii() and length.isdigit() for length in lengths):
            raise http.client.HTTPException(f"Content-Length {', '.join(sorted(lengths))[:50]!r}")
        return int(lengths.pop()[:18]) if lengths else None


def _too_many() -> http.client.HTTPException:
    return http.client.HTTPException(f"more than {_MAX_HEADERS} headers")


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
