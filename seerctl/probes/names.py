"""Rows of a feature file by the names that people know their pictures by: keys, a column's values, or file names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from seerctl.errors import InputError
from seerctl.features.store import FeatureFile
from seerctl.probes.task import column_of, key_texts

_SEVERAL = -1


def sources_of(data: Sequence[Path | str]) -> dict[str, str]:
    """The source of every sample in the shard sets `data`, by key.

    Raises:
        InputError: no shard set, or a damaged one.
    """
    from seerctl.shards.index import ShardSet  # noqa: PLC0415  # for those whose names are file names
    from seerctl.shards.metadata import read_sources  # noqa: PLC0415

    found: dict[str, str] = {}
    for where in data:
        with ShardSet.open(where) as shards:
            found.update(read_sources(shards))
    return found


class Names:
    """The names of a feature file's rows.

    A row answers to its key, to its value in `column`, and to its source: the whole path, the path without its suffix,
    the file's name, and that without its suffix ("jpg/all_souls_000013.jpg" is also "all_souls_000013").
    """

    def __init__(self, file: FeatureFile, column: str | None = None, sources: dict[str, str] | None = None) -> None:
        self.path = file.path
        self.keys = key_texts(file.keys).tolist()
        self._rows: dict[str, int] = {}
        values = column_of(file, column).texts() if column is not None else []
        for row, key in enumerate(self.keys):
            for name in {key, *([values[row]] if values else []), *_forms((sources or {}).get(key, ""))} - {""}:
                self._rows[name] = row if self._rows.setdefault(name, row) == row else _SEVERAL

    def row(self, name: str) -> int:
        """The row called `name`.

        Raises:
            InputError: none is, or several are.
        """
        found = self._rows.get(name)
        if found is None:
            raise InputError(
                f"{self.path}: no row is called '{name}'",
                "Name the column with the names (--names) or the shard set that knows the file names (--data)",
            )
        if found == _SEVERAL:
            raise InputError(f"{self.path}: several rows are called '{name}'", "Use longer names, or keys")
        return found


def _forms(source: str) -> set[str]:
    if not source:
        return set()
    path = PurePosixPath(source)
    return {source, str(path.with_suffix("")), path.name, path.stem}
