"""Sample weights: how often each sample of a shard set is to be seen, as a file, or as a column of the set.

HDF5 (`.h5`): keys (N,) S32 and weight (N,) float64 in the order of the index; attributes `schema, index_sha256,
lineage` (JSON). Tables (`.csv`, `.jsonl`, `.parquet`): the columns `key` and `weight`, one row for each sample of the
set in any order; the keys themselves say which set they are of.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.features.layout import text_attribute
from seerctl.features.store import plain_dataset, reading_hdf5
from seerctl.files import atomic_write, blame, sha256_file
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import read_keys, read_metadata
from seerctl.tables import open_table

SCHEMA = "seerctl.weights/1"
SUFFIXES = (".h5", ".hdf5", ".csv", ".jsonl", ".parquet")
_KEY_DTYPE = "S32"
_SPOT_CHECKS = 16  # keys of an HDF5 file that are compared with the set's; its index_sha256 vouches for the rest
_AGAIN = "Write the weights again, as 'seerctl audit --balance' does"

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SampleWeights:
    """Weights of N samples. keys: (N,) bytes. weight: (N,) float64, none negative, not all 0.

    index_sha256: of the index whose order this is ("" for a table). lineage: what made them, as plain JSON.
    """

    keys: NDArray[np.bytes_]
    weight: Weights
    index_sha256: str
    lineage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Sampling:
    """What training samples by. weight: (N,) float64 in the order of the index. source: the file or column as named.

    sha256: of the file's bytes, or of a column's weights as little-endian doubles.
    """

    weight: Weights
    source: str
    sha256: str


def write_weights(path: Path, weights: SampleWeights) -> None:
    """Write `weights` atomically: HDF5, or csv without the attributes, by the suffix.

    Raises:
        UsageError: another suffix.
        InputError: weights that are negative or not finite, or all 0.
    """
    check_weights(weights.weight, str(path), weights.keys)
    if path.suffix == ".csv":
        with atomic_write(path, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("key", "weight"))
            keys = (key.decode() for key in weights.keys.tolist())
            writer.writerows(zip(keys, map(repr, weights.weight.tolist()), strict=True))
        return
    if path.suffix not in (".h5", ".hdf5"):
        raise UsageError(f"{path}: not a format of weights", "End the name with .h5 or .csv")
    with atomic_write(path) as file, h5py.File(file, "w") as data:
        data.attrs["schema"] = SCHEMA
        data.attrs["index_sha256"] = weights.index_sha256
        data.attrs["lineage"] = json.dumps(dict(weights.lineage), ensure_ascii=False, sort_keys=True)
        data.create_dataset("keys", data=weights.keys.astype(_KEY_DTYPE), chunks=True, fletcher32=True)
        data.create_dataset("weight", data=weights.weight.astype(np.float64), chunks=True, fletcher32=True)


def is_weights(path: Path) -> bool:
    """Whether `path` is an HDF5 file that says it holds sample weights."""
    try:
        with blame(path), h5py.File(path, "r") as file:
            return bool(file.attrs.get("schema") == SCHEMA)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError):
        return False


def describe(path: Path) -> dict[str, Any]:
    """What a weights file holds, for `seerctl inspect`: plain JSON values.

    Raises:
        InputError: as `read_weights`.
    """
    found = read_weights(path)
    weight = found.weight
    return {
        "kind": "sample weights", "schema": SCHEMA, "path": str(path), "samples": len(weight),
        "index_sha256": found.index_sha256, "mean": float(weight.mean()), "least": float(weight.min()),
        "greatest": float(weight.max()), "zero": int((weight == 0).sum()),
        "effective_samples": float(weight.sum() ** 2 / (weight @ weight)), "lineage": dict(found.lineage),
    }  # fmt: skip


def read_weights(path: Path) -> SampleWeights:
    """The weights in a file.

    Raises:
        UsageError: a suffix that is none of `SUFFIXES`.
        InputError: no such file, damaged, of another schema, or a weight that is negative or no number.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: not a format of weights", f"End the name with one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file", "Name a weights file, or a numeric column of the shard set")
    found = _read_hdf5(path) if path.suffix in (".h5", ".hdf5") else _read_table(path)
    check_weights(found.weight, str(path), found.keys)
    return found


def _read_hdf5(path: Path) -> SampleWeights:
    try:
        with reading_hdf5(path), h5py.File(path, "r") as file:
            if file.attrs.get("schema") != SCHEMA:
                raise InputError(f"{path}: an HDF5 file, but not one of '{SCHEMA}'")
            keys, weight = plain_dataset(path, file, "keys", 1), plain_dataset(path, file, "weight", 1)
            lineage = json.loads(text_attribute(file, "lineage"))
            if keys.dtype.kind != "S" or weight.dtype.kind != "f" or len(keys) != len(weight):
                raise InputError(f"{path}: not one key and one weight for each sample")
            if not isinstance(lineage, dict):
                raise InputError(f"{path}: its lineage is not a JSON object")
            index = text_attribute(file, "index_sha256")
            return SampleWeights(np.asarray(keys[:]), np.asarray(weight[:], dtype=np.float64), index, lineage)
    except InputError as error:
        raise InputError(error.message, _AGAIN) from None


def _read_table(path: Path) -> SampleWeights:
    with blame(path):
        header, blocks = open_table(path)
        for name in ("key", "weight"):
            if header.count(name) != 1:
                raise InputError(f"{path}: no column '{name}', or not just one", f"It has: {', '.join(header)}")
        keys: list[bytes] = []
        weight = array("d")
        for block in blocks(("key", "weight")):
            try:
                keys += [str(key).encode() for key in block["key"]]
                weight.extend(map(float, block["weight"]))
            except (TypeError, ValueError):
                raise InputError(f"{path}: row {len(weight) + 1}: its weight is not a number") from None
    return SampleWeights(np.array(keys, dtype=bytes), np.frombuffer(weight, dtype=np.float64).copy(), "")


def check_weights(weight: Weights, where: str, keys: NDArray[np.bytes_] | None = None) -> None:
    """Nothing, if these can be sampled by.

    Raises:
        InputError: one is negative or not a finite number (the message names it), or all are 0, or there is none.
    """
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(wrong):
        row = int(wrong[0])
        name = f"sample {row}" if keys is None else f"sample {keys[row].decode(errors='replace')}"
        raise InputError(
            f"{where}: the weight of {name} is {weight[row]:g} ({len(wrong)} such)",
            "Weights are finite and not negative",
        )
    if not weight.any():
        raise InputError(f"{where}: no sample has a weight above 0", "At least one has to")


def load_sampling(shards: ShardSet, source: str) -> Sampling:
    """The weights that `source` names for the samples of `shards`: a file by its suffix, else a numeric column.

    Raises:
        UsageError: no such column, one that is not of numbers or lacks some, or the weights of another set.
        InputError: a file that is missing or damaged, or a weight that is negative or not finite.
    """
    if not source.endswith(SUFFIXES) and os.sep not in source:
        return _from_column(shards, source)
    path = Path(source)
    found = read_weights(path)
    weight = _in_order(shards, path, found) if not found.index_sha256 else _same_index(shards, path, found)
    return Sampling(weight, source, sha256_file(path))


def _from_column(shards: ShardSet, name: str) -> Sampling:
    if name not in shards.columns:
        hint = did_you_mean(name, shards.columns) if shards.columns else "It has no columns"
        raise UsageError(
            f"{shards.location}: no column '{name}' to take weights from, and not the name of a file", hint
        )
    found = read_metadata(shards, [name])
    column = found.columns[name]
    where = f"{shards.location}: column '{name}'"
    if column.categories is not None:
        raise UsageError(f"{where} holds text, not weights", f"It has values such as '{column.categories[0]}'")
    missing = np.flatnonzero(column.missing)
    if len(missing):
        key = found.keys[missing[0]].decode()
        raise UsageError(f"{where} is missing for {len(missing):,} samples, {key} the first", "Each needs a weight")
    weight = column.values.astype(np.float64)
    check_weights(weight, where, found.keys)
    return Sampling(weight, name, hashlib.sha256(weight.astype("<f8").tobytes()).hexdigest())


def _same_index(shards: ShardSet, path: Path, found: SampleWeights) -> Weights:
    """The weights of a file that is in the order of an index, if it is this set's."""
    if found.index_sha256 != shards.sha256:
        raise UsageError(
            f"{path}: weights of another shard set (index {found.index_sha256[:12]}, {shards.location} has "
            f"{shards.sha256[:12]})", "Balance this set, or name the one they were made for",
        )  # fmt: skip
    if len(found.weight) != len(shards):
        raise InputError(f"{path}: {len(found.weight)} weights for {len(shards)} samples", _AGAIN)
    for position in np.unique(np.linspace(0, len(shards) - 1, _SPOT_CHECKS).astype(np.int64)).tolist():
        if found.keys[position].decode(errors="replace") != shards.read(position).key:
            raise InputError(f"{path}: its row {position} is not sample {position} of the index", _AGAIN)
    return found.weight


def _in_order(shards: ShardSet, path: Path, found: SampleWeights) -> Weights:
    """The weights of a table in the order of the index; its keys must be those of the set, each once."""
    keys, theirs = read_keys(shards), found.keys
    order = np.argsort(theirs)
    twice = np.flatnonzero(theirs[order][1:] == theirs[order][:-1])
    if len(twice):
        raise InputError(f"{path}: key '{theirs[order][twice[0]].decode(errors='replace')}' comes twice")
    places = np.searchsorted(theirs, keys, sorter=order) if len(theirs) else np.zeros(len(keys), dtype=np.int64)
    rows = order[np.minimum(places, len(theirs) - 1)] if len(theirs) else places
    absent = np.flatnonzero(theirs[rows] != keys) if len(theirs) else np.arange(len(keys))
    if len(absent):
        raise UsageError(
            f"{path}: no weight for {len(absent):,} of the {len(keys):,} samples of {shards.location}, "
            f"{keys[absent[0]].decode()} the first", "Weights are of one set: give each of its samples a row",
        )  # fmt: skip
    if len(theirs) > len(keys):
        raise UsageError(f"{path}: {len(theirs) - len(keys):,} of its samples are not in {shards.location}",
                         "Weights are of one set")  # fmt: skip
    return found.weight[rows]
