"""URLs of shard sets: a directory, its index, or some shards in it by braces."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from seerctl.errors import UsageError
from seerctl.shards.index import INDEX
from seerctl.sources.places import spread_braces
from seerctl.sources.web.urls import is_web, masked, named

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)(?=[^/])")


def url_of(where: str | os.PathLike[str]) -> str | None:
    """`where` as a URL, if it is one; a Path that was made of one has lost a slash."""
    text = os.fspath(where)
    match = _URL.match(text)
    if match is None or not (match[2] or isinstance(where, Path)):
        return None
    return f"{match[1].lower()}://{text[match.end() :]}"


def named_shards(where: str) -> tuple[str, tuple[str, ...]]:
    """The directory, and the names of the shards in it that braces stand for; without braces `where`, and none.

    Raises:
        UsageError: braces that stand for other things than shards of one directory.
    """
    names = spread_braces(where)
    if names == [where]:
        return where, ()
    found = [name.rpartition("/") for name in names]
    folders = {folder for folder, _, _ in found}
    if len(folders) > 1 or not all(name.endswith(".tar") for _, _, name in found):
        raise UsageError(
            f"{masked(where)}: braces stand for shards of one set",
            "Name its directory, or DIR/shard-{000000..000009}.tar",
        )
    return folders.pop() or ".", tuple(name for _, _, name in found)


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of a set at a URL: `base` with its last slash, and the `query` of each request."""

    base: str
    query: str = ""

    @classmethod
    def of(cls, url: str) -> Place:
        """The place of a set named by its directory or its index."""
        path, mark, query = url.partition("?") if is_web(url) else (url, "", "")
        path = path.removesuffix(f"/{INDEX}").rstrip("/")
        return cls(path + "/", mark + query)

    def url(self, name: str) -> str:
        """The URL of one of its files."""
        return f"{self.base}{name}{self.query}"

    def printed(self, name: str = "") -> str:
        """The same without logins and signatures."""
        url = self.url(name)
        return named(url) if is_web(url) else masked(url)
