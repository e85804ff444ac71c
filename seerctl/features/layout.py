"""The layout of a feature file: what its reader and its writer agree on.

features (N, D)      float32 or float16, chunks (256, D), no compression
keys (N,)            S32
columns/<name> (N,)  int64 or float64 numbers (missing: NaN), or int32 codes (missing: -1) with the attribute
                     `categories`: the names, or a reference to the dataset that holds them where they are too many
                     for an attribute (HDF5 allows 64 KB). In <name>, "/" is written %2F and "%" %25
attributes           schema, model, weights_sha256, index_sha256, layer, preprocess, rows_done, lineage (JSON);
                     `corruption` ("fog:3") where the pictures were corrupted: then `preprocess` has a step
                     "corruption fog:3 (VERSION, seed N)" and the column `corruption` the same name for every row;
                     `regions` (an integer R) where the layer is pooled by "regionsL": `features` are then R vectors of
                     D / R values, one after another, each of unit length or, where a shape of picture has fewer, zero
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py

from seerctl.columns import Column

SCHEMA = "seerctl.features/1"
CHUNK_ROWS = 256
READ_ROWS = 64 * CHUNK_ROWS
KEY_DTYPE = "S32"
ATTRIBUTES = ("schema", "model", "weights_sha256", "index_sha256", "layer", "preprocess")  # and rows_done, lineage
STEP = "; "  # between the steps of `preprocess`
CORRUPTION_STEP = "corruption "
MAX_CATEGORIES = 3500  # in an attribute: a variable-length string takes 16 bytes of HDF5's 64 KB


@dataclass(frozen=True, slots=True)
class Header:
    """What features are of; two files compare only where these agree.

    model: a name for people. weights_sha256, index_sha256: 64 hex digits ("" where there is none). preprocess:
    everything between stored bytes and the model's input. lineage: what made the file, as plain JSON. corruption: what
    was done to the pictures on purpose, as "fog:3", "" for nothing. regions: how many vectors a row holds, 0 where it
    is one.
    """

    model: str
    weights_sha256: str
    index_sha256: str
    layer: str
    preprocess: str
    lineage: Mapping[str, Any] = field(default_factory=dict)
    corruption: str = ""
    regions: int = 0

    @property
    def clean_preprocess(self) -> str:
        """`preprocess` without its corruption: what has to agree between clean and corrupted views."""
        steps = self.preprocess.split(STEP)
        return STEP.join(step for step in steps if not step.startswith(CORRUPTION_STEP))

    def attributes(self) -> dict[str, str | int]:
        """The HDF5 attributes, without `rows_done`."""
        special: dict[str, str | int] = {"corruption": self.corruption} if self.corruption else {}
        return special | ({"regions": self.regions} if self.regions else {}) | {
            "schema": SCHEMA, "model": self.model, "weights_sha256": self.weights_sha256,
            "index_sha256": self.index_sha256, "layer": self.layer, "preprocess": self.preprocess,
            "lineage": json.dumps(dict(self.lineage), ensure_ascii=False, sort_keys=True),
        }  # fmt: skip


def create_datasets(file: h5py.File, rows: int, dim: int, dtype: str) -> None:
    """Make `features` and `keys` at their final size, so that appending changes no structure."""
    chunk = min(CHUNK_ROWS, rows)
    file.create_dataset("features", (rows, dim), dtype, chunks=(chunk, dim), fletcher32=True)
    file.create_dataset("keys", (rows,), KEY_DTYPE, chunks=(chunk,), fletcher32=True)


def write_column(file: h5py.File, name: str, column: Column) -> None:
    """Write one metadata column of a file whose rows are complete."""
    safe = dataset_name(name)
    data = file.create_dataset(f"columns/{safe}", data=column.values)
    if column.categories is None:
        return
    text, count = h5py.string_dtype(), len(column.categories)
    if count <= MAX_CATEGORIES:
        data.attrs.create("categories", list(column.categories), (count,), text)
    else:
        data.attrs["categories"] = file.create_dataset(
            f"categories/{safe}", data=list(column.categories), dtype=text
        ).ref


def dataset_name(column: str) -> str:
    """A column's name as one HDF5 link: a slash would make groups of it, and "." is the group itself."""
    escaped = column.replace("%", "%25").replace("/", "%2F")
    return escaped.replace(".", "%2E") if set(escaped) <= {"."} else escaped


def column_name(dataset: str) -> str:
    """The inverse of `dataset_name`."""
    return dataset.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def text_attribute(file: h5py.File, name: str) -> str:
    """The attribute `name` as text.

    Raises:
        KeyError: it is not there. TypeError: it is no text.
    """
    value = file.attrs[name]
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        raise TypeError(f"attribute '{name}' is not text")
    return value
