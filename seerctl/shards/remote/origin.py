"""Where shards come from: bytes of a file at a URL, asked for again where that may help, faults named with the URL.

HTTP is spoken by the client of `ingest`, everything else by fsspec. The host of `--data` was named by the user himself,
so it may be on a private network or this machine; a redirect from it to another private address is refused.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from seerctl import __version__
from seerctl.errors import EnvironmentFault, InputError, SeerctlError
from seerctl.shards.remote.place import Place
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.stores import Stores
from seerctl.sources.web.fetch import Fetcher
from seerctl.sources.web.options import WebOptions
from seerctl.sources.web.retry import TryAgain, backoff
from seerctl.sources.web.urls import is_web, parse_url

_PIECE = 1 << 20  # most bytes handed over at a time
_STORE_PIECE = 1 << 24  # bytes asked of a store at a time
_PROGRESS = 1 << 22  # bytes after which the tries are counted anew
_CHECK = "Check the URL"
_CREDENTIALS = "Check the login, or the credentials of the store's library (AWS_PROFILE, AWS_ACCESS_KEY_ID, ...)"
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

Write = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a request is repeated, from how many seconds on (doubled each time), and the longest Retry-After."""

    tries: int = 6
    base: float = 1.0
    longest: float = 120.0
    silence: float = 30.0


@dataclass(slots=True)
class _Told:
    """What a server said of a file: its ETag at first."""

    etag: str | None = None


@dataclass(slots=True)
class Origin:
    """The files of one place; its methods may be called by any thread, and after a fork."""

    place: Place
    patience: Patience = field(default_factory=Patience)
    _pid: int = 0
    _client: Any = None
    _lock: Any = field(default_factory=threading.Lock)

    def __del__(self) -> None:
        # In a forked child the connections are the parent's, who goes on with them.
        if self._pid == os.getpid() and isinstance(self._client, Fetcher):
            self._client.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "patience": self.patience}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(self, name: str, span: tuple[int, int] | None = None, size: int | None = None) -> bytes:
        """A whole file, or the bytes [first, end) of one that has `size`, which then must be served by themselves.

        Raises:
            SeerctlError: as `copy`; EnvironmentFault where the server has no ranges.
        """
        parts: list[bytes] = []
        self.copy(name, parts.append, span or (0, None), size, alone=span is not None, anew=parts.clear)
        return b"".join(parts)

    def copy(
        self, name: str, write: Write, span: tuple[int, int | None], size: int | None, *, alone: bool = False,
        anew: Callable[[], Any] | None = None,
    ) -> None:  # fmt: skip
        """Hand the bytes [first, end) of a file to `write`, in order, each once; of what breaks off the rest is asked
        for again.

        alone: a server that sends the whole file instead is refused. anew: called where a file of unknown size (no
        end) has to be begun again.

        Raises:
            InputError: there is no such file, it is not of `size`, or it changes meanwhile.
            EnvironmentFault: the network, the server or a permission is at fault, after all tries.
        """
        at, end = span
        tries, mark, told = 0, at, _Told()
        while end is None or at < end:
            fault: RejectedError | None = None
            try:
                for piece in self._pieces(name, (at, end), size, told, alone):
                    write(piece)
                    at += len(piece)
            except RejectedError as refusal:
                fault = refusal
            if fault is None:
                if end is None or at >= end:
                    return
                fault = RejectedError(Reason.CONNECTION, f"it ended after {at:,} of {end:,} bytes")
            tries, mark = (0, at) if at - mark >= _PROGRESS else (tries, mark)
            if end is None and anew is not None:
                anew()
                at = mark = span[0]
                told = _Told()
            if not _may_pass(fault) or tries >= self.patience.tries:
                raise self._named(name, fault, tries)
            self._pause(name, fault, tries)
            tries += 1

    def _pause(self, name: str, fault: RejectedError, tries: int) -> None:
        asked = (fault.after or 0.0) if isinstance(fault, TryAgain) else 0.0
        if asked > self.patience.longest:
            raise self._named(name, RejectedError(fault.reason, f"{fault.detail}, asks to wait {asked:g} s"), tries)
        time.sleep(max(asked, backoff(tries, self.patience.base)))

    def _pieces(
        self, name: str, span: tuple[int, int | None], size: int | None, told: _Told, alone: bool
    ) -> Iterator[bytes]:
        """The bytes of one try, as far as they come."""
        url = self.place.url(name)
        if is_web(url):
            return self._over_http(name, span, size, told, alone)
        return self._from_store(name, span, size)

    def _over_http(
        self, name: str, span: tuple[int, int | None], size: int | None, told: _Told, alone: bool
    ) -> Iterator[bytes]:
        first, end = span
        whole = not first and (end is None or end == size)
        asked = None if whole else (first, end or 0)
        with self._fetcher().span(parse_url(self.place.url(name)), asked) as (response, body):
            skip = 0
            if response.status != 206:
                if alone and not whole:
                    raise self._no_ranges(name)
                self._check_size(name, response.length, size)
                skip = first
            else:
                match = _RANGE.fullmatch(response.getheader("Content-Range", ""))
                if match is None or int(match[1]) != first:
                    raise RejectedError(Reason.HTTP_PROTOCOL, "other bytes than were asked for")
                self._check_size(name, None if match[2] == "*" else int(match[2]), size)
            etag = response.getheader("ETag")
            if told.etag is not None and etag != told.etag:
                raise self._changed(name)
            told.etag = etag
            left = None if end is None else end - first
            while left is None or left > 0:
                # What has come is handed over before it shows that no more does.
                piece = body.read1(_PIECE if left is None else min(_PIECE, left + skip))
                if not piece:
                    return
                dropped = min(skip, len(piece))  # what was there before
                skip -= dropped
                piece = piece[dropped:]
                if left is not None:
                    left -= len(piece)
                yield piece

    def _from_store(self, name: str, span: tuple[int, int | None], size: int | None) -> Iterator[bytes]:
        first, end = span
        url, stores = self.place.url(name), self._stores()
        while end is None or first < end:
            stop = None if end is None else min(end, first + _STORE_PIECE)
            piece = stores.span(url, first, stop)
            if stop is not None and len(piece) != stop - first:
                self._check_size(name, stores.size(url), size)
                raise RejectedError(Reason.CONNECTION, f"{len(piece):,} of {stop - first:,} bytes")
            yield piece
            if stop is None:
                return
            first = stop

    def _check_size(self, name: str, found: int | None, size: int | None) -> None:
        if found is not None and size is not None and found != size:
            raise InputError(
                f"{self.place.printed(name)}: {found:,} bytes, not {size:,}",
                "It is not the file of this index: copy the whole set there again",
            )

    def _changed(self, name: str) -> SeerctlError:
        return InputError(
            f"{self.place.printed(name)}: changed while it was read (its ETag did)", "Start again with the set as it is"
        )

    def _no_ranges(self, name: str) -> SeerctlError:
        return EnvironmentFault(
            f"{self.place.printed(name)}: the server sends no ranges of a file, and the set is larger than the cache",
            "Raise data.cache_size (or SEERCTL_CACHE_SIZE) above the size of the set, or use another server",
        )

    def _named(self, name: str, fault: RejectedError, tries: int) -> SeerctlError:
        """A refusal as the documented kind of error."""
        where, reason = self.place.printed(name), fault.reason
        if reason in (Reason.MISSING, "http-404", "http-410"):
            return InputError(f"{where}: not there ({reason})", _CHECK)
        if reason in (Reason.UNREADABLE, "http-401", "http-403"):
            return EnvironmentFault(f"{where}: access denied ({fault.detail})", _CREDENTIALS)
        if reason == Reason.PRIVATE_ADDRESS:
            detail = fault.detail.partition(" (")[0]
            return InputError(f"{where}: leads to a private address ({detail})", "Name that URL itself")
        if reason == Reason.BAD_URL:
            return InputError(f"{where}: {fault.detail}", _CHECK)
        again = f" (tries: {tries + 1})" if tries else ""
        return EnvironmentFault(f"{where}: {reason}: {fault.detail}{again}", "Try again: what is here already stays")

    def _fetcher(self) -> Fetcher:
        found: Fetcher = self._of_this_process(self._new_fetcher)
        return found

    def _stores(self) -> Stores:
        found: Stores = self._of_this_process(Stores)
        return found

    def _of_this_process(self, make: Callable[[], Any]) -> Any:
        """The client; connections and event loops do not survive a fork."""
        if self._pid != os.getpid():
            self._lock, self._client, self._pid = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._client is None:
                self._client = make()
            return self._client

    def _new_fetcher(self) -> Fetcher:
        host = parse_url(self.place.base).host
        silence = self.patience.silence
        return Fetcher(
            WebOptions(
                user_agent=f"seerctl/{__version__}", opt_outs=False, silence=silence, total=2 * silence,
                private_hosts=frozenset((host,)),
            )
        )  # fmt: skip


def _may_pass(fault: RejectedError) -> bool:
    """Whether another try may end otherwise."""
    if isinstance(fault, TryAgain):
        return True
    return fault.reason == Reason.CONNECTION and not fault.detail.startswith("TLS")
