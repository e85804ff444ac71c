"""The web as `ingest` uses it: items with URLs get their bytes, archives and tables are opened."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from seerctl.errors import EnvironmentFault, InputError
from seerctl.sources.item import Item
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.web.options import WebOptions
from seerctl.sources.web.retry import TryAgain
from seerctl.sources.web.urls import is_web, named, parse_url, scheme_of
from seerctl.sources.web.window import Claim, fetched

if TYPE_CHECKING:
    from seerctl.sources.stores import Stores
    from seerctl.sources.web.fetch import Fetcher

_PASSING = (Reason.DNS, Reason.CONNECTION, Reason.NET_TIMEOUT)


class Web:
    """Everything that is fetched in one run; threads and connections come when they are needed."""

    def __init__(self, options: WebOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._fetcher: Fetcher | None = None
        self._stores_: Stores | None = None

    @property
    def fetcher(self) -> Fetcher:
        """Made when the first URL comes."""
        with self._lock:
            if self._fetcher is None:
                from seerctl.sources.web.fetch import Fetcher  # noqa: PLC0415  (http and TLS: 40 ms, if there are URLs)

                self._fetcher = Fetcher(self._options)
            return self._fetcher

    @property
    def _stores(self) -> Stores:
        """Made when the first URL of one comes."""
        with self._lock:
            if self._stores_ is None:
                from seerctl.sources.stores import Stores  # noqa: PLC0415

                self._stores_ = Stores()
            return self._stores_

    def fetched(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items` in their order, with the bytes of those that have a URL, or a verdict why there are none."""
        return fetched(items, self._get, self._host, self._options)

    @contextlib.contextmanager
    def open(self, url: str) -> Iterator[BinaryIO]:
        """An archive, a table or a list as a file.

        Raises:
            InputError: the server says no.
            EnvironmentFault: it cannot be had at the moment, or broke off.
        """
        if not is_web(url):
            with self._stores.open(url) as file:
                yield file
            return
        try:
            with self.fetcher.stream(parse_url(url)) as file:
                yield file
        except RejectedError as refusal:
            kind = EnvironmentFault if refusal.reason in _PASSING or isinstance(refusal, TryAgain) else InputError
            hint = "Try again" if kind is EnvironmentFault else "Check the URL"
            raise kind(f"{named(url)}: {refusal.reason}: {refusal.detail}", hint) from None

    def _get(self, item: Item, claim: Claim) -> bytes:
        if is_web(item.url):
            return self.fetcher.image(parse_url(item.url), claim)
        return self._stores.get(item, self._options.max_bytes, claim)

    @staticmethod
    def _host(item: Item) -> str:
        return parse_url(item.url).host if is_web(item.url) else f"{scheme_of(item.url)}://"

    def stored(self, url: str, labels: bool) -> Iterator[Item]:
        """Every object at the URL of an object store (see `Stores.items`)."""
        return self._stores.items(url, labels, self._options.max_bytes)

    def close(self) -> None:
        """Break off what is under way."""
        if self._fetcher is not None:
            self._fetcher.close()

    def __enter__(self) -> Web:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
