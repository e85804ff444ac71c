"""How sources are read."""

from __future__ import annotations

from dataclasses import dataclass

LIST_SUFFIXES = (".txt", ".lst", ".list")


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """`labels` from directory names, the table's column of paths or of URLs, NUL-terminated lists."""

    labels: bool = True
    path_column: str | None = None
    null: bool = False
    url_column: str | None = None
