"""The labels of a supervised run: which classes there are, and which samples it sees.

Classes are the distinct values of a column as text ("3", "true", "cat"), sorted as numbers where all are whole numbers.
Samples without a value are left out and counted. A fraction takes from each class the samples whose key hashes lowest
with the seed: the same ones for any number of ranks, in any order of the shards, and a part of every larger fraction.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.columns import Column, number_text, sort_names
from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.recipe import Recipe
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import Metadata, read_metadata
from seerctl.shards.subset import Samples, Subset

EXACT_KINDS = ("string", "integer", "boolean")  # whose values the index lists in the form that `class_of` gives


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What a supervised run learns from the column `target` of a set of `total` samples.

    classes: sorted names. positions: (M,) int64, rising, of the samples that it sees; None for all. unlabelled: how
    many have no label. keys_sha256: of the keys of the samples at `positions`, one a line ("" for all samples).
    """

    target: str
    classes: tuple[str, ...]
    total: int
    positions: NDArray[np.int64] | None = None
    unlabelled: int = 0
    fraction: float = 1.0
    keys_sha256: str = ""

    def __len__(self) -> int:
        return self.total if self.positions is None else len(self.positions)

    def of(self, shards: ShardSet) -> Samples:
        """The samples of `shards` that the run sees."""
        return shards if self.positions is None else Subset(shards, self.positions)

    def facts(self) -> dict[str, Any]:
        """What the run directory says of them."""
        return {
            "target": self.target, "classes": list(self.classes), "samples": len(self), "of": self.total,
            "unlabelled": self.unlabelled, "fraction": self.fraction, "keys_sha256": self.keys_sha256,
        }  # fmt: skip


def class_of(value: Any) -> str:
    """The class name of one value of a label column; "" where it is missing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return number_text(value) if isinstance(value, float) else str(value)


def labels_for(recipe: Recipe, shards: ShardSet) -> Labels | None:
    """The labels that `recipe` learns from in `shards`; None where its objective has none.

    Raises:
        UsageError: no such column, one of fractions or lists, another number of classes than `loss.classes`, or a
            `data.fraction` that leaves a class empty.
        InputError: fewer than two classes, or damaged shards.
    """
    if recipe.loss.objective != "supervised":
        return None
    loss = recipe.loss
    found = _found(shards.where, shards.sha256, loss.target, recipe.data.fraction, recipe.run.seed)
    if loss.classes not in (0, len(found.classes)):
        raise UsageError(
            f"{shards.location}: column '{loss.target}' has {len(found.classes)} classes, loss.classes is "
            f"{loss.classes}", "Leave loss.classes out to take them as they are",
        )  # fmt: skip
    return found


@functools.lru_cache(maxsize=4)  # the command line asks for the size of a run before the run does
def _found(path: str, sha256: str, target: str, fraction: float, seed: int) -> Labels:
    shards = ShardSet.open(path)
    listed = _listed(shards, target)
    if listed is not None and fraction == 1:
        classes = _checked(shards, target, listed)
        return Labels(target, classes, len(shards))
    metadata = read_metadata(shards, [target])
    column = as_classes(shards, target, metadata.columns[target])
    assert column.categories is not None
    codes = column.values
    names = [column.categories[code] for code in np.unique(codes[codes >= 0]).tolist()]
    classes = _checked(shards, target, names)
    unlabelled = int((codes < 0).sum())
    if not unlabelled and fraction == 1:
        return Labels(target, classes, len(shards))
    chosen = _share(shards, target, metadata, column, fraction, seed) if fraction < 1 else np.flatnonzero(codes >= 0)
    digest = hashlib.sha256(b"\n".join(metadata.keys[chosen].tolist())).hexdigest()
    return Labels(target, classes, len(shards), chosen.astype(np.int64), unlabelled, fraction, digest)


def _listed(shards: ShardSet, target: str) -> list[str] | None:
    """The classes as the index lists them, if every sample has one; None where the samples have to be read."""
    if target not in shards.columns:
        hint = did_you_mean(target, shards.columns) if shards.columns else "It has no columns, so no labels"
        raise UsageError(f"{shards.location}: no column '{target}' to learn from", f"{hint}; set loss.target")
    entry: Mapping[str, Any] = shards.index["columns"][target]
    if entry.get("type") == "json":
        raise UsageError(f"{shards.location}: '{target}' holds lists or tables", "Name a column of one label a sample")
    values = entry.get("values")
    whole = isinstance(values, Mapping) and "" not in values and entry.get("count") == len(shards)
    return list(values) if whole and values is not None and entry.get("type") in EXACT_KINDS else None


def as_classes(shards: ShardSet, target: str, column: Column) -> Column:
    """`column` with its values as classes.

    Raises:
        UsageError: they are fractions.
    """
    if column.categories is None:
        there = column.values[~column.missing]
        if (there != np.floor(there)).any():
            raise UsageError(f"{shards.location}: '{target}' holds fractions, not classes", "Name a column of labels")
    return column.coded()


def _checked(shards: ShardSet, target: str, names: list[str]) -> tuple[str, ...]:
    classes = tuple(sort_names(names))
    if len(classes) < 2:
        what = f"a single class, '{classes[0]}'" if classes else "no label"
        raise InputError(f"{shards.location}: column '{target}' has {what}", "Learning needs two classes or more")
    return classes


def _share(
    shards: ShardSet, target: str, metadata: Metadata, column: Column, fraction: float, seed: int
) -> NDArray[np.int64]:
    """Positions, rising, of `fraction` of the samples of each class (rounded to the nearest number)."""
    rank = ranks_of(metadata.keys, seed)
    chosen = []
    for code in np.unique(column.values[column.values >= 0]).tolist():
        members = np.flatnonzero(column.values == code)
        count = round(fraction * len(members))
        if not count:
            assert column.categories is not None
            raise UsageError(
                f"{shards.location}: data.fraction={fraction:g} leaves nothing of the class "
                f"'{column.categories[code]}', which has {len(members)} samples",
                f"{1 / len(members):.3g} leaves one",
            )
        chosen.append(members[np.argsort(rank[members], kind="stable")[:count]])
    return np.sort(np.concatenate(chosen))


def ranks_of(keys: NDArray[np.bytes_], seed: int) -> NDArray[np.uint64]:
    """(N,) the first 64 bits of SHA-256 of seed and key: an order that no other sample changes."""
    prefix = hashlib.sha256(f"{seed}\n".encode())
    words = bytearray()
    for key in keys.tolist():
        one = prefix.copy()
        one.update(key)
        words += one.digest()[:8]
    return np.frombuffer(bytes(words), dtype=">u8").astype(np.uint64)
