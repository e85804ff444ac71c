"""One URL after the other: its bytes, or a named reason; every limit holds while they are read."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import ssl
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, BinaryIO, cast

from seerctl.sources.magic import PREFIX, detect
from seerctl.sources.reasons import Reason, RejectedError, http_reason
from seerctl.sources.web.addresses import Resolver
from seerctl.sources.web.connect import Connection, Connections, Deadline
from seerctl.sources.web.options import WebOptions
from seerctl.sources.web.optout import Robots, opted_out
from seerctl.sources.web.retry import TryAgain, retry_after
from seerctl.sources.web.urls import Target, follow, login

Claim = Callable[[int], float]  # asks for memory; returns the seconds it had to wait
_PIECE = 1 << 18
_DRAIN = 1 << 14  # bytes of an answer nobody wants that are read so that the connection can be used again
_MAX_ROBOTS = 500 << 10  # RFC 9309, 2.5
_REDIRECTS = (301, 302, 303, 307, 308)
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


@dataclass(frozen=True, slots=True)
class Want:
    """What is wanted of an answer: at most `max_bytes`, only pictures (`image`), only what its owner lets us have.

    `span`: only these bytes, [first, end) or from the first on (end 0); a server may send all of them all the same.
    """

    max_bytes: int
    image: bool = False
    heed: bool = True
    span: tuple[int, int] | None = None

    @property
    def range_header(self) -> str:
        """The header that asks for the span."""
        if self.span is None:
            return ""
        first, end = self.span
        return f"Range: bytes={first}-{end - 1 if end else ''}\r\n"


class Fetcher:
    """Asks servers; its methods may be called by any thread."""

    def __init__(self, options: WebOptions) -> None:
        self._options = options
        self._resolver = Resolver(options.allow_private, options.private_hosts)
        self._connections = Connections(options)
        agent = options.user_agent.partition("/")[0].strip() or "seerctl"
        self._agent = agent
        self._robots = Robots(agent, self._robots_text) if options.robots_txt else None

    def image(self, target: Target, claim: Claim) -> bytes:
        """The bytes of a picture.

        Raises:
            RejectedError: why there are none; TryAgain where that may pass.
        """
        want = Want(self._options.max_bytes, image=True)
        with self.answer(target, want) as (response, deadline):
            return self._body(response, deadline, want, claim)

    def close(self) -> None:
        """Break off what is under way."""
        self._connections.close()

    @contextlib.contextmanager
    def answer(self, target: Target, want: Want) -> Iterator[tuple[http.client.HTTPResponse, Deadline]]:
        """The answer 200 (or 206) to a request, redirects followed, its body unread.

        Raises:
            RejectedError: there is no such answer; TryAgain where that may pass. Faults while the body is read too.
        """
        deadline = Deadline(self._options.total, self._options.silence)
        with _named_faults():
            for _ in range(self._options.max_redirects + 1):
                if self._robots is not None and want.heed:
                    self._robots.require(target)
                connection, response = self._ask(target, deadline, want)
                usable = False
                try:
                    if response.status not in _REDIRECTS:
                        self._judge(response, want)
                        yield response, deadline
                        usable = response.isclosed()
                        return
                    location = response.getheader("Location")
                    usable = _drain(response)
                except RejectedError:
                    usable = usable or _drain(response)
                    raise
                finally:
                    usable = usable and not response.will_close
                    self._connections.give_back(connection, usable=usable)
                    if not usable:
                        response.close()
                if location is None:
                    raise RejectedError(Reason.HTTP_PROTOCOL, f"{response.status} without a Location")
                target = follow(target, location)
        raise RejectedError(Reason.REDIRECTS, f"more than {self._options.max_redirects}")

    def _ask(self, target: Target, deadline: Deadline, want: Want) -> tuple[Connection, http.client.HTTPResponse]:
        """A connection and the head of the answer, on a used connection if there is one that still works."""
        while True:
            connection = self._connections.take(target)
            if connection is None:
                addresses = self._resolver.addresses(target.host, target.port)
                connection = self._connections.make(target, addresses)
            connection.deadline = deadline
            try:
                return connection, connection.ask(self._head(target, want))
            except BaseException as error:
                again = connection.used and isinstance(error, _STALE)
                self._connections.give_back(connection, usable=False)
                if not again:
                    raise

    def _head(self, target: Target, want: Want) -> bytes:
        """The head of a request; all parts of a target are printable ASCII without spaces."""
        logged_in = ""
        if target.userinfo:
            logged_in = f"Authorization: Basic {base64.b64encode(login(target).encode()).decode()}\r\n"
        text = (
            f"GET {target.path} HTTP/1.1\r\nHost: {target.authority}\r\nUser-Agent: {self._options.user_agent}\r\n"
            f"Accept: image/*,*/*;q=0.5\r\nAccept-Encoding: identity\r\n{want.range_header}{logged_in}\r\n"
        )
        return text.encode("ascii")

    def _judge(self, response: http.client.HTTPResponse, want: Want) -> None:
        """Raises RejectedError where an answer is not to be read."""
        status = response.status
        if status != HTTPStatus.OK and not (status == HTTPStatus.PARTIAL_CONTENT and want.span is not None):
            reason, detail = http_reason(status), f"{status} {response.reason}".strip()
            if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise TryAgain(reason, detail, retry_after(response.getheader("Retry-After")))
            raise RejectedError(reason, detail)
        if want.heed and self._options.opt_outs:
            directive = opted_out(response.headers.get_all("X-Robots-Tag", []), self._agent)
            if directive is not None:
                raise RejectedError(Reason.OPT_OUT, f"X-Robots-Tag: {directive}")
        if response.length is not None and response.length > want.max_bytes:
            raise RejectedError(Reason.TOO_LARGE, f"{response.length} bytes, more than {want.max_bytes}")

    def _body(self, response: http.client.HTTPResponse, deadline: Deadline, want: Want, claim: Claim) -> bytes:
        inflate = _decoder(response)
        length, got, parts, total = response.length, 0, [], 0
        while piece := response.read(_PIECE):
            got += len(piece)
            for part in inflate(piece):
                total += len(part)
                if total > want.max_bytes:
                    raise RejectedError(Reason.TOO_LARGE, f"more than {want.max_bytes} bytes")
                deadline.paused(claim(len(part)))
                parts.append(part)
            if want.image and len(parts) == 1 and len(parts[0]) >= PREFIX and detect(parts[0]) is None:
                kind = response.getheader("Content-Type", "no type")
                raise RejectedError(Reason.NOT_IMAGE, f"{kind[:100]}, begins with {parts[0][:16]!r}")
        if length is not None and got < length:
            raise RejectedError(Reason.CONNECTION, f"it ended after {got} of {length} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @contextlib.contextmanager
    def stream(self, target: Target) -> Iterator[BinaryIO]:
        """All of an answer as a file that cannot seek, however long it is.

        Raises:
            RejectedError: why there is none, or why it broke off; TryAgain where that may pass.
        """
        with self.answer(target, Want(1 << 62)) as (response, deadline):
            yield cast(BinaryIO, io.BufferedReader(_Stream(response, deadline, _decoder(response)), _PIECE))

    @contextlib.contextmanager
    def span(
        self, target: Target, span: tuple[int, int] | None
    ) -> Iterator[tuple[http.client.HTTPResponse, io.BufferedReader]]:
        """Some bytes of a file that the user may have (see `Want.span`): the head of the answer, and its body.

        Raises:
            RejectedError: as `stream`.
        """
        with self.answer(target, Want(1 << 62, heed=False, span=span)) as (response, deadline):
            yield response, io.BufferedReader(_Stream(response, deadline, _decoder(response)), _PIECE)
            if response.length == 0:  # read to its end, which reading by pieces does not notice
                response.close()

    def _robots_text(self, target: Target) -> bytes:
        want = Want(1 << 62, heed=False)  # longer ones are cut
        with self.answer(target, want) as (response, _):
            return response.read(_MAX_ROBOTS)


class _Stream(io.RawIOBase):
    """The body of an answer, decoded; each piece may take as long as a whole picture."""

    def __init__(
        self, response: http.client.HTTPResponse, deadline: Deadline, inflate: Callable[[bytes], Iterator[bytes]]
    ) -> None:
        super().__init__()
        self._response, self._deadline, self._inflate = response, deadline, inflate
        self._pieces: Iterator[bytes] = iter(())
        self._rest = memoryview(b"")
        self._length, self._got = response.length, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                data = self._read()
                if not data:
                    return 0
                self._pieces = self._inflate(data)
            else:
                self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _read(self) -> bytes:
        self._deadline.renew()
        with _named_faults():
            data = self._response.read1(_PIECE)
        self._got += len(data)
        if not data and self._length is not None and self._got < self._length:
            raise RejectedError(Reason.CONNECTION, f"it ended after {self._got} of {self._length} bytes")
        return data


def _drain(response: http.client.HTTPResponse) -> bool:
    """Read the rest of a short answer; whether the connection can then be used again."""
    if response.length is None or response.length > _DRAIN:
        return False
    with contextlib.suppress(OSError, http.client.HTTPException):
        response.read()
    return response.isclosed()


def _decoder(response: http.client.HTTPResponse) -> Callable[[bytes], Iterator[bytes]]:
    """What undoes the Content-Encoding, in pieces of bounded size; servers send one although none was asked for."""
    encoding = response.getheader("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity", "none"):
        return lambda piece: iter((piece,))
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise RejectedError(Reason.HTTP_PROTOCOL, f"Content-Encoding {encoding[:50]!r}, which was not asked for")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def inflate(piece: bytes) -> Iterator[bytes]:
        while piece:
            try:
                yield inflater.decompress(piece, _PIECE)
            except zlib.error as error:
                raise RejectedError(Reason.HTTP_PROTOCOL, f"broken {encoding} ({error})") from None
            piece = inflater.unconsumed_tail

    return inflate


@contextlib.contextmanager
def _named_faults() -> Iterator[None]:
    """Everything that can go wrong between two machines, as a reason."""
    try:
        yield
    except TimeoutError as error:
        raise TryAgain(Reason.NET_TIMEOUT, str(error) or "no answer") from None
    except ssl.SSLCertVerificationError as error:
        raise RejectedError(Reason.CONNECTION, f"TLS: {error.verify_message}") from None
    except http.client.IncompleteRead as error:
        raise RejectedError(Reason.CONNECTION, f"it ended after {len(error.partial)} bytes") from None
    except http.client.RemoteDisconnected:
        raise RejectedError(Reason.CONNECTION, "closed without an answer") from None
    except (http.client.HTTPException, ValueError) as error:  # ValueError: numbers in headers that are none
        raise RejectedError(Reason.HTTP_PROTOCOL, f"{type(error).__name__} {error}".strip()[:200]) from None
    except OSError as error:
        raise RejectedError(Reason.CONNECTION, (error.strerror or str(error))[:200]) from None
