"""How sources are read."""

from __future__ import annotations

from dataclasses import dataclass

LIST_SUFFIXES = (".txt", ".lst", ".list")
ARCHIVE_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".zip")


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """`labels` from directory names, the table's column of paths or of URLs, NUL-terminated lists."""

    labels: bool = True
    path_column: str | None = None
    null: bool = False
    url_column: str | None = None


def named_like_archive(name: str) -> bool:
    """Whether a file in a folder is opened, if it also begins like an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)
