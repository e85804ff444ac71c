"""Object stores and whatever else fsspec reads: `s3://bucket/prefix/`, `gs://`, and their like.

Credentials, endpoints and regions are those of the store's own library (AWS_PROFILE, AWS_ENDPOINT_URL, ...).
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from seerctl.errors import EnvironmentFault, InputError, SeerctlError, UsageError
from seerctl.sources.folder import labelled
from seerctl.sources.item import Item
from seerctl.sources.magic import PREFIX, detect, named_like_image
from seerctl.sources.names import clean
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.web.retry import TryAgain
from seerctl.sources.web.urls import masked, scheme_of

_REFUSED = ("file", "local", "http", "https", "reference")
_BLOCK = 1 << 22  # bytes an archive is read ahead
_HINT = "pip install 'seerctl[cloud]', and for others than S3 the package that fsspec names"


class Stores:
    """One file system for each kind of URL; its methods may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}

    def _system(self, url: str) -> tuple[Any, str]:
        """fsspec's file system for `url`, and what it calls the place."""
        scheme = scheme_of(url)
        with self._lock:
            if scheme not in self._known:
                self._known[scheme] = _make(url, scheme)
        system = self._known[scheme]
        return system, str(system._strip_protocol(url))

    def items(self, url: str, labels: bool, max_bytes: int) -> Iterator[Item]:
        """Every object at `url`: one, all below a prefix in the order of a folder, or those of a pattern.

        Raises:
            InputError: there is none.
            EnvironmentFault: the store cannot be reached, or says no.
        """
        system, path = self._system(url)
        with _named_faults(url):
            if any(symbol in path for symbol in "*?["):
                entries = [(name, name.rpartition("/")[2], system.info(name)) for name in sorted(system.glob(path))]
            else:
                info = system.info(path)
                entries = [] if info["type"] == "directory" else [(path, path.rpartition("/")[2], info)]
        if entries:
            for name, source, info in entries:
                yield self._item(system, name, source, info, labels, max_bytes)
            return
        for name, source, info in _walk(system, path.rstrip("/"), "", url):
            yield self._item(system, name, source, info, labels, max_bytes)

    @staticmethod
    def _item(system: Any, name: str, source: str, info: dict[str, Any], labels: bool, max_bytes: int) -> Item:
        cleaned = clean(source)
        size = int(info.get("size") or 0)
        item = Item(
            cleaned, size=size, columns=labelled(cleaned, labels), named=named_like_image(source),
            url=system.unstrip_protocol(name),
        )  # fmt: skip
        if size > max_bytes and item.named:
            item.verdict, item.size = (Reason.TOO_LARGE, f"{size} bytes, more than {max_bytes}"), 0
        return item

    def get(self, item: Item, max_bytes: int, claim: Callable[[int], float]) -> bytes:
        """The bytes of one object; of one that is not called an image, only if its first bytes are one's.

        Raises:
            RejectedError: why there are none; TryAgain where that may pass.
        """
        try:
            system, path = self._system(item.url)
        except SeerctlError as error:
            raise RejectedError(Reason.UNREADABLE, str(error)) from None
        try:
            size = item.size or int(system.info(path)["size"])
            if not item.named and size and detect(system.cat_file(path, start=0, end=min(size, PREFIX))) is None:
                raise RejectedError(Reason.IGNORED, "its first bytes are those of no image")
            if size > max_bytes:
                raise RejectedError(Reason.TOO_LARGE, f"{size} bytes, more than {max_bytes}")
            claim(size)
            data = system.cat_file(path, start=0, end=size) if size else b""  # no more, should it have grown
        except (RejectedError, SeerctlError):
            raise
        except Exception as error:  # every store has exceptions of its own
            raise _refusal(error) from None
        if len(data) != size:
            raise RejectedError(Reason.CONNECTION, f"{len(data)} of {size} bytes")
        return bytes(data)

    def size(self, url: str) -> int:
        """The bytes of one object.

        Raises:
            RejectedError, SeerctlError: as `span`.
        """
        system, path = self._system(url)
        try:
            return int(system.info(path)["size"])
        except Exception as error:  # every store has exceptions of its own
            raise _refusal(error) from None

    def span(self, url: str, first: int, end: int | None) -> bytes:
        """The bytes [first, end) of one object, or as many of them as there are.

        Raises:
            RejectedError: why there are none; TryAgain where that may pass.
            SeerctlError: no such kind of store, or a package that is missing.
        """
        system, path = self._system(url)
        try:
            return bytes(system.cat_file(path, start=first, end=end))
        except Exception as error:  # every store has exceptions of its own
            raise _refusal(error) from None

    @contextlib.contextmanager
    def open(self, url: str) -> Iterator[BinaryIO]:
        """One object as a file that can seek.

        Raises:
            InputError: it is not there.
            EnvironmentFault: the store cannot be reached, or says no.
        """
        system, path = self._system(url)
        with _named_faults(url):
            file = system.open(path, "rb", block_size=_BLOCK)
        with file:
            yield cast(BinaryIO, io.BufferedReader(_Reader(file, url), 1 << 18))


def _make(url: str, scheme: str) -> Any:
    if scheme in _REFUSED:
        raise UsageError(f"{masked(url)}: {scheme}:// is not read here", "Name the path itself")
    try:
        import fsspec  # noqa: PLC0415  (with the client of a store: a second, where there is one)

        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise EnvironmentFault(f"{scheme}:// needs a package that is not there ({error})", _HINT) from None
    except ValueError as error:
        raise UsageError(f"{masked(url)}: {error}", "Known: s3://, gs://, az:// and what fsspec lists") from None


def _walk(system: Any, path: str, prefix: str, url: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, relative name, info) of all below `path`, sorted as folders are; a prefix at a time is in memory."""
    with _named_faults(url):
        listing = system.ls(path, detail=True)
    entries = {str(info["name"]).rstrip("/").rpartition("/")[2]: info for info in listing if info["name"] != path}
    for name in sorted(entries, key=os.fsencode):
        info = entries[name]
        if info["type"] == "directory":
            yield from _walk(system, str(info["name"]).rstrip("/"), f"{prefix}{name}/", url)
        elif not (info["name"].endswith("/") and not info.get("size")):  # a marker that stands for a directory
            yield str(info["name"]), prefix + name, info


class _Reader(io.RawIOBase):
    """A file of fsspec whose faults have names."""

    def __init__(self, file: Any, url: str) -> None:
        super().__init__()
        self._file, self._url = file, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with _named_faults(self._url):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def _named_faults(url: str) -> Iterator[None]:
    """What a store says, as one line that names the place."""
    try:
        yield
    except SeerctlError:
        raise
    except Exception as error:  # every store has exceptions of its own
        refusal = _refusal(error)
        if refusal.reason == Reason.MISSING:
            raise InputError(f"{masked(url)}: no such bucket or object", "Check the name") from None
        if refusal.reason == Reason.UNREADABLE:
            hint = "Check the credentials of the store's own library (AWS_PROFILE, AWS_ACCESS_KEY_ID, ...)"
            raise EnvironmentFault(f"{masked(url)}: access denied ({refusal.detail})", hint) from None
        raise EnvironmentFault(f"{masked(url)}: {refusal.detail}", "Try again, or check the endpoint") from None


def _refusal(error: Exception) -> RejectedError:
    kind = type(error).__name__
    detail = f"{kind}: {error}".partition("\n")[0][:200]
    if isinstance(error, FileNotFoundError):
        return RejectedError(Reason.MISSING, "no such object")
    if isinstance(error, PermissionError) or "Credential" in kind:
        return RejectedError(Reason.UNREADABLE, detail)
    if isinstance(error, TimeoutError) or "Timeout" in kind:
        return TryAgain(Reason.NET_TIMEOUT, detail)
    return RejectedError(Reason.CONNECTION, detail)
