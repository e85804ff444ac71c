"""Where shards from elsewhere are kept on this machine, and how much of them: recipe, environment, default."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from seerctl.errors import UsageError

DIRECTORY, SIZE = "SEERCTL_CACHE", "SEERCTL_CACHE_SIZE"  # environment variables
DEFAULT_SIZE = "20GB"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """The directory of the cache, and the bytes that it may hold."""

    directory: Path
    size: int


_chosen: ContextVar[tuple[str, str]] = ContextVar("cache", default=("", ""))


@contextlib.contextmanager
def caching(directory: str, size: str) -> Iterator[None]:
    """What is opened inside keeps its shards in `directory`, up to `size` ("" each: as the environment says)."""
    token = _chosen.set((directory, size))
    try:
        yield
    finally:
        _chosen.reset(token)


def cache_options() -> CacheOptions:
    """What `caching` says, else SEERCTL_CACHE and SEERCTL_CACHE_SIZE, else ~/.cache/seerctl/shards (XDG) and 20 GB.

    Raises:
        UsageError: a size that is none.
    """
    directory, size = _chosen.get()
    directory = directory or os.environ.get(DIRECTORY, "")
    place = Path(directory).expanduser() if directory else _home() / "seerctl" / "shards"
    size = size or os.environ.get(SIZE, "") or DEFAULT_SIZE
    found = byte_size(size)
    if found is None:
        raise UsageError(f"cache size '{size}': no size", f"Write data.cache_size or {SIZE} as 20GB or 500MiB")
    return CacheOptions(place.absolute(), found)


def _home() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given) if given.startswith("/") else Path("~/.cache").expanduser()


def byte_size(text: str) -> int | None:
    """The bytes that a text such as 500000000, 500M, 20GB or 1GiB stands for; None if it is no size, or 0."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", text.strip().upper())
    return (int(float(match[1]) * _UNITS[match[2] or ""]) or None) if match else None
