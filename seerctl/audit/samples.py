"""The samples of a shard set as columns, for suites that look at data: keys, contents and metadata of every sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.columns import Column, columns_from_rows
from seerctl.errors import UsageError, did_you_mean
from seerctl.shards.index import Sample, ShardSet

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class SampleRows:
    """N samples in the order of the index: keys (N,) S25, contents (N,) S64 hex SHA-256, metadata columns by name."""

    keys: NDArray[np.bytes_]
    contents: NDArray[np.bytes_]
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """The key of one sample."""
        return str(self.keys[row].decode())


class RowsBuilder:
    """Rows of a set that is read once, for whatever else its pictures are needed."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._contents: list[bytes] = []
        self._columns: list[dict[str, Any]] = []

    def watch(self, samples: Iterator[Sample], progress: Callable[[int], None] | None = None) -> Iterator[Sample]:
        """Every sample, noted on its way."""
        for sample in samples:
            self._keys.append(sample.key.encode())
            self._contents.append(sample.meta["sha256"].encode())
            self._columns.append(sample.meta["columns"])
            if progress is not None:
                progress(1)
            yield sample

    def finish(self, names: Sequence[str]) -> SampleRows:
        """The rows; `names` are columns that exist even when no sample has them."""
        return SampleRows(
            np.array(self._keys, dtype="S25"), np.array(self._contents, dtype="S64"),
            columns_from_rows(self._columns, names),
        )  # fmt: skip


def members(
    rows: SampleRows, grouping: Sequence[str], where: Path | str
) -> Iterator[tuple[dict[str, str], NDArray[np.int64]]]:
    """The groups of columns `grouping` (none: one group of all) and the positions of their samples, in order of name.

    Samples without a value in one of the columns belong to no group.

    Raises:
        UsageError: a column that the set does not have.
    """
    if not grouping:
        yield {}, np.arange(len(rows))
        return
    coded = []
    for name in grouping:
        if name not in rows.columns:
            hint = did_you_mean(name, rows.columns) if rows.columns else "Its samples have no columns"
            raise UsageError(f"{where}: no column '{name}' to group by", hint)
        coded.append(rows.columns[name].coded())
    there = np.flatnonzero(np.all([column.values >= 0 for column in coded], axis=0))
    if not len(there):
        return
    codes = np.stack([column.values[there] for column in coded])
    found, inverse = np.unique(codes, axis=1, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    bounds = np.searchsorted(inverse.ravel()[order], np.arange(found.shape[1] + 1))
    for number in range(found.shape[1]):
        names = {
            name: str((column.categories or ())[code])
            for name, column, code in zip(grouping, coded, found[:, number], strict=True)
        }
        yield names, there[order[bounds[number] : bounds[number + 1]]]


def groupings(groups: Sequence[str]) -> list[tuple[str, ...]]:
    """The groupings of a check: `a` and `a*b` as tuples of columns; none is the whole."""
    return [tuple(part.strip() for part in group.split("*")) for group in groups] or [()]


def describe_set(shards: ShardSet) -> dict[str, Any]:
    """What a report says of a shard set that it looked at."""
    return {"path": shards.location, "index_sha256": shards.sha256, "samples": len(shards)}
