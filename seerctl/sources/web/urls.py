"""URLs from strangers: what may be asked for, how it is asked for, and what of it may be written down."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from seerctl.sources.reasons import Reason, RejectedError

# Object stores that a list or a table may name: its author is a stranger, and fsspec reaches much more than that.
SCHEMES = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf"))
PORTS = {"http": 80, "https": 443}
_MAX_URL = 8192
_SAFE = "%/:=&?~+!$,;'@()*[]|-._"  # what is not encoded again in a path or a query
_HOST = re.compile(r"[A-Za-z0-9_~.-]{1,253}")
# Parameters by which stores sign a URL for whoever holds it: a key, not a name.
_SECRET = re.compile(r"(^|&)(x-(amz|goog)-[a-z-]+|awsaccesskeyid|signature|sig|(access_)?token|api_?key)=[^&]*", re.I)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: all ASCII; `host` without brackets, `path` with the query, `userinfo` for a login."""

    scheme: str
    host: str
    port: int
    path: str
    userinfo: str = ""

    @property
    def place(self) -> tuple[str, str, int]:
        """What one connection serves."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL without its login."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def name(self) -> str:
        """The URL as it may be written down: without login and signatures."""
        path, mark, query = self.path.partition("?")
        query = _SECRET.sub("", query).lstrip("&")
        return f"{self.scheme}://{self.authority}{path}{mark if query else ''}{query}"


def scheme_of(url: str) -> str:
    """The part before `://`, in lower case."""
    return url.partition("://")[0].lower()


def is_web(text: str) -> bool:
    """Whether `text` is a URL that is fetched over HTTP."""
    return text[:8].lower().startswith(("http://", "https://"))


@functools.lru_cache(4096)
def parse_url(text: str) -> Target:
    """The target of an http or https URL as people write them: spaces, umlauts and fragments are dealt with.

    Raises:
        RejectedError: `bad-url`.
    """
    text = text.strip()
    try:
        if len(text) > _MAX_URL:
            raise ValueError(f"more than {_MAX_URL} characters")
        parts = urlsplit(text)
        if parts.scheme not in PORTS:
            raise ValueError(f"not http or https but {parts.scheme or 'nothing'}")
        port = PORTS[parts.scheme] if parts.port is None else parts.port
        if not 0 < port < 65536:
            raise ValueError("port 0")
        path = _quoted(parts.path or "/") + ("?" + _quoted(parts.query) if parts.query else "")
        return Target(parts.scheme, _host(parts), port, path, parts.netloc.rpartition("@")[0])
    except ValueError as error:  # UnicodeError too: a host that IDNA refuses
        raise RejectedError(Reason.BAD_URL, str(error)) from None


def follow(target: Target, location: str) -> Target:
    """Where a redirect leads; the login stays behind when the host or the protocol changes.

    Raises:
        RejectedError: `bad-url`.
    """
    # http.client decodes headers as Latin-1; most servers that send more than ASCII send UTF-8.
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")
    found = parse_url(urljoin(target.url, location.strip()))
    if found.place != target.place or found.userinfo:
        return found
    return Target(found.scheme, found.host, found.port, found.path, target.userinfo)


def named(text: str) -> str:
    """What `text`, a URL that may be wrong, is called in samples and ledgers."""
    try:
        return parse_url(text).name
    except RejectedError:
        return quote(_bytes(masked(text[:_MAX_URL])), _SAFE + "#")


def masked(url: str) -> str:
    """A URL of any kind without the login in it."""
    return re.sub(r"^(\s*[A-Za-z][A-Za-z0-9+.-]*:/*)[^/?#]*@", r"\1", url)


def login(target: Target) -> str:
    """`user:password` as it was meant."""
    return unquote(target.userinfo)


def _quoted(text: str) -> str:
    return quote(_bytes(text), _SAFE)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if ":" in host:
        return host.partition("%")[0]
    host = host.encode("idna").decode("ascii") if not host.isascii() else host
    if not _HOST.fullmatch(host):
        raise ValueError("no host" if not host else f"no host can be called {host!r}")
    return host
