"""An HTTP server on loopback that answers as a test tells it to, also as no server should."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Answer = Callable[["Exchange"], None]


@dataclass
class Exchange:
    """One request and the socket to answer it on; after `close` the connection ends."""

    path: str
    headers: dict[str, str]
    sock: socket.socket
    port: int
    close: bool = False

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, body: bytes, status: str = "200 OK", **headers: object) -> None:
        """A decent answer; `X_Robots_Tag` becomes X-Robots-Tag, a list several headers."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        for name, value in headers.items():
            values = value if isinstance(value, list) else [value]
            lines += [f"{name.replace('_', '-')}: {one}" for one in values]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def hang(self, data: bytes = b"") -> None:
        """Say `data` and nothing more until the other side leaves."""
        self.send(data)
        self.sock.settimeout(30)
        with contextlib.suppress(OSError):
            self.sock.recv(1)
        self.close = True

    def drip(self, data: bytes, pause: float) -> None:
        """A byte at a time, for as long as anybody listens."""
        with contextlib.suppress(OSError):
            for number in range(len(data)):
                self.sock.sendall(data[number : number + 1])
                time.sleep(pause)
        self.close = True

    def reset(self) -> None:
        """Break the connection off, hard."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close = True


@dataclass
class WebServer:
    """What a test knows of the server: where it is, what it was asked, how many at once."""

    port: int = 0
    answers: dict[str, Answer | bytes] = field(default_factory=dict)
    asked: list[tuple[float, str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0
    active: int = 0
    most_active: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]

    def handle(self, exchange: Exchange) -> None:
        with self.lock:
            self.asked.append((time.monotonic(), exchange.path, exchange.headers))
            self.active += 1
            self.most_active = max(self.most_active, self.active)
        try:
            answer = self.answers.get(exchange.path.partition("?")[0])
            if answer is None:
                exchange.reply(b"nothing here", "404 Not Found")
            elif isinstance(answer, bytes):
                exchange.reply(answer)
            else:
                answer(exchange)
        finally:
            with self.lock:
                self.active -= 1


def _serve(server: WebServer, sock: socket.socket, file: Any) -> None:
    while line := file.readline(1 << 16):
        path = line.split()[1].decode("latin-1")
        headers = {}
        while (header := file.readline(1 << 16)) not in (b"\r\n", b""):
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        exchange = Exchange(path, headers, sock, server.port)
        server.handle(exchange)
        if exchange.close:
            return


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    """The server, until the block ends; with `tls` it speaks https."""
    server = WebServer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            server.connections += 1
            with contextlib.suppress(OSError):
                if tls is None:
                    _serve(server, self.connection, self.rfile)
                    return
                with tls.wrap_socket(self.connection, server_side=True) as sock, sock.makefile("rb") as file:
                    _serve(server, sock, file)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

        def shutdown_request(self, request: Any) -> None:  # without the FIN that would hide a reset
            request.close()

    with Server(("127.0.0.1", 0), Handler) as listener:
        server.port = listener.server_address[1]
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()


def file_answer(path: Path) -> Answer:
    """What a decent server says of a file as it is when it is asked for: ETag, and ranges of it."""

    def answer(exchange: Exchange) -> None:
        data = path.read_bytes()
        etag = f'"{zlib.crc32(data):08x}"'
        first, _, last = exchange.headers.get("range", "").removeprefix("bytes=").partition("-")
        if not first:
            exchange.reply(data, ETag=etag)
            return
        part = data[int(first) : int(last) + 1 if last else None]
        place = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        exchange.reply(part, "206 Partial Content", ETag=etag, Content_Range=place)

    return answer


def serve_folder(server: WebServer, folder: Path, at: str) -> str:
    """Let `server` have the files of `folder` at `at`; the URL of the directory."""
    for path in folder.iterdir():
        server.answers[f"{at}/{path.name}"] = file_answer(path)
    return server.url(at)
