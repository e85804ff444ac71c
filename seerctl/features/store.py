"""Reading feature files: ours are opened, anything else is refused in one line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from seerctl.columns import Column
from seerctl.errors import InputError
from seerctl.features.layout import CHUNK_ROWS, READ_ROWS, SCHEMA, Header, column_name, text_attribute
from seerctl.files import blame

_BLOCK_VALUES = 1 << 24  # read at a time for statistics
_LISTED = 1000  # categories of a column whose rows are counted one by one


class FeatureFile:
    """A finished feature file, opened for reading; metadata and keys are read at once, features on demand.

    path. header. keys: (N,) bytes. columns: metadata by name. shape: (N, D). dtype: "float32" or "float16".
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file
        self.header = _header(path, file)
        data = plain_dataset(path, file, "features", 2)
        self.shape: tuple[int, int] = data.shape
        self.dtype: str = data.dtype.name
        if data.dtype.kind != "f":
            raise InputError(f"{path}: 'features' holds {self.dtype}, not floats")
        if self.header.regions and self.shape[1] % self.header.regions:
            raise InputError(f"{path}: its {self.shape[1]} values a row are not those of {self.header.regions} regions")
        _check_storage(path, data)
        self.keys = self._keys()
        self.columns = self._columns()

    @classmethod
    def open(cls, path: str | Path) -> FeatureFile:
        """Open a file that `extract` finished.

        Raises:
            InputError: missing, not HDF5, truncated, not of our schema, unfinished, or not in itself consistent.
        """
        path = Path(path)
        if path.is_dir():
            raise InputError(f"{path}: a directory", "Name one feature file in it, such as " + str(path / "avgpool.h5"))
        with reading_hdf5(path):
            file = h5py.File(path, "r")
            try:
                return cls(path, file)
            except BaseException:
                file.close()
                raise

    def features(self, dtype: str = "float32") -> NDArray[Any]:
        """All features as one (N, D) array.

        Raises:
            InputError: the file is damaged.
        """
        with reading_hdf5(self.path):
            array = np.empty(self.shape, dtype=dtype)
            for first in range(0, self.shape[0], READ_ROWS):  # many times faster than the whole in one call
                array[first : first + READ_ROWS] = self._file["features"][first : first + READ_ROWS]
            return array

    def blocks(self, rows: int = READ_ROWS) -> Iterator[NDArray[np.float32]]:
        """The features in order, as (n, D) float32 arrays of at most `rows` rows.

        Raises:
            InputError: the file is damaged.
        """
        for first in range(0, self.shape[0], rows):
            yield self.rows(first, first + rows).astype(np.float32, copy=False)

    def rows(self, first: int, last: int) -> NDArray[Any]:
        """Features of the rows from `first` to before `last`, in the dtype of the file.

        Raises:
            InputError: the file is damaged.
        """
        with reading_hdf5(self.path):
            return np.asarray(self._file["features"][first:last])

    def _keys(self) -> NDArray[np.bytes_]:
        data = plain_dataset(self.path, self._file, "keys", 1)
        if data.dtype.kind != "S" or len(data) != self.shape[0]:
            raise InputError(f"{self.path}: 'keys' does not name the {self.shape[0]} rows of 'features'")
        return np.asarray(data[:])

    def _columns(self) -> dict[str, Column]:
        group = self._file.get("columns")
        if not isinstance(group, h5py.Group):
            return {}
        return {column_name(name): self._column(f"columns/{name}") for name in group}

    def _column(self, name: str) -> Column:
        data = plain_dataset(self.path, self._file, name, 1)
        if len(data) != self.shape[0] or data.dtype.kind not in "iuf":
            raise InputError(f"{self.path}: '{name}' is not a number or code for each of the {self.shape[0]} rows")
        values = np.asarray(data[:])
        if "categories" not in data.attrs:
            return Column(values.astype(np.float64 if values.dtype.kind == "f" else np.int64))
        categories = data.attrs["categories"]
        if isinstance(categories, h5py.Reference):
            categories = self._file[categories].asstr()[:]
        names = tuple(str(text.decode() if isinstance(text, bytes) else text) for text in np.atleast_1d(categories))
        if len(values) and not -1 <= values.min() <= values.max() < len(names):
            raise InputError(f"{self.path}: '{name}' holds codes outside its {len(names)} categories")
        return Column(values.astype(np.int32), names)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        return self.shape[0]

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def describe(
    path: str | Path, progress: Callable[[int], None] | None = None, *, verify: bool = False
) -> dict[str, Any]:
    """What a feature file holds, for `seerctl inspect`: plain JSON values; every row is read, a block at a time.

    Row counts, checksums and codes of columns are always checked. verify: also look for rows that are not finite and
    for keys that are empty or come twice, and list what is found under `damage`.

    Raises:
        InputError: as `FeatureFile.open`, or a checksum does not match.
    """
    with FeatureFile.open(path) as file:
        found = {
            "kind": "features", "schema": SCHEMA, "path": str(path), "bytes": Path(path).stat().st_size,
            "rows": file.shape[0], "dim": file.shape[1], "dtype": file.dtype, "model": file.header.model,
            "layer": file.header.layer, "weights_sha256": file.header.weights_sha256,
            "index_sha256": file.header.index_sha256, "preprocess": file.header.preprocess,
            **({"corruption": file.header.corruption} if file.header.corruption else {}),
            **({"regions": file.header.regions} if file.header.regions else {}),
            **_statistics(file, progress),
            "columns": {name: _describe_column(column) for name, column in file.columns.items()},
            "lineage": dict(file.header.lineage),
        }  # fmt: skip
        if verify:
            found["damage"] = _damage(file.keys, found["not_finite_rows"])
            found["verified"] = not found["damage"]
        return found


def _damage(keys: NDArray[np.bytes_], not_finite: int) -> list[str]:
    names, counts = np.unique(keys, return_counts=True)
    twice, empty = names[(counts > 1) & (names != b"")], int((keys == b"").sum())
    return [
        *([f"{not_finite:,} rows are not finite"] if not_finite else []),
        *([f"{empty:,} rows have no key"] if empty else []),
        *(
            [f"{len(twice):,} keys come more than once, first {twice[0].decode(errors='replace')}"]
            if len(twice)
            else []
        ),
    ]


def _statistics(file: FeatureFile, progress: Callable[[int], None] | None) -> dict[str, Any]:
    """Rows that are not finite, rows of zeros, values that are the same in all rows, and the rows' lengths (L2)."""
    lengths, finite = [], 0
    low, high = np.full(file.shape[1], np.inf, np.float32), np.full(file.shape[1], -np.inf, np.float32)
    step = max(CHUNK_ROWS, _BLOCK_VALUES // file.shape[1] // CHUNK_ROWS * CHUNK_ROWS)
    for block in file.blocks(step):
        whole = block[np.isfinite(block).all(axis=1)]
        finite += len(whole)
        lengths.append(np.sqrt(np.einsum("nd,nd->n", whole, whole, dtype=np.float64)))
        np.minimum(low, whole.min(axis=0, initial=np.inf), out=low)
        np.maximum(high, whole.max(axis=0, initial=-np.inf), out=high)
        if progress is not None:
            progress(len(block))
    found = np.concatenate(lengths)
    ends = {"least": found.min(), "mean": found.mean(), "greatest": found.max()} if len(found) else {}
    return {
        "not_finite_rows": file.shape[0] - finite, "zero_rows": int((found == 0).sum()),
        "constant_values": int((low == high).sum()),
        "row_length": {name: float(f"{value:.6g}") for name, value in ends.items()},
    }  # fmt: skip


def _describe_column(column: Column) -> dict[str, Any]:
    missing = int(column.missing.sum())
    if column.categories is None:
        there = column.values[~column.missing]
        span = {"min": there.min().item(), "max": there.max().item()} if len(there) else {}
        return {"type": "numbers", "missing": missing, **span}
    found = {"type": "categories", "categories": len(column.categories), "missing": missing}
    if len(column.categories) > _LISTED:
        return found
    counts = np.bincount(column.values[column.values >= 0], minlength=len(column.categories))
    return {**found, "values": dict(zip(column.categories, counts.tolist(), strict=True))}


@contextlib.contextmanager
def reading_hdf5(path: Path) -> Iterator[None]:
    """One line for all that HDF5 says about a file that is not one, is cut short, or is damaged inside."""
    try:
        with blame(path):
            yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except BlockingIOError:
        raise InputError(f"{path}: another process is still writing it") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        if "truncated" in text or "eof" in text:
            raise InputError(f"{path}: truncated HDF5 file", "Extract it again") from None
        if "filter returned failure" in text:  # the only filter is the checksum
            raise InputError(f"{path}: damaged, a checksum of its rows does not match", "Extract it again") from None
        if "signature" in text:
            raise InputError(f"{path}: not an HDF5 file") from None
        raise InputError(f"{path}: damaged or not a feature file ({text[:120]})") from None


def _header(path: Path, file: h5py.File) -> Header:
    schema = file.attrs.get("schema")
    if schema != SCHEMA:
        raise InputError(f"{path}: an HDF5 file, but not one of '{SCHEMA}'", "Write features with 'seerctl extract'")
    names = ("model", "weights_sha256", "index_sha256", "layer", "preprocess")
    lineage = json.loads(text_attribute(file, "lineage"))
    if not isinstance(lineage, dict):
        raise InputError(f"{path}: its lineage is not a JSON object")
    corruption = text_attribute(file, "corruption") if "corruption" in file.attrs else ""
    texts = {name: text_attribute(file, name) for name in names}
    return Header(**texts, lineage=lineage, corruption=corruption, regions=_regions(path, file))


def _regions(path: Path, file: h5py.File) -> int:
    """How many vectors a row holds, 0 for one."""
    count = file.attrs.get("regions", 0)
    if not isinstance(count, (int, np.integer)) or count < 0:
        raise InputError(f"{path}: its attribute 'regions' is not a count")
    return int(count)


def plain_dataset(path: Path, file: h5py.File, name: str, dimensions: int) -> h5py.Dataset:
    """A dataset that really lies in this file: HDF5 links and external storage could make us read any other file."""
    group, _, leaf = name.rpartition("/")
    link = file[group or "/"].get(leaf, getlink=True)
    if link is None:
        raise InputError(f"{path}: it has no '{name}'")
    data = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external or data.ndim != dimensions:
        raise InputError(f"{path}: '{name}' is not a plain array of {dimensions} dimensions")
    return data


def _check_storage(path: Path, data: h5py.Dataset) -> None:
    """Refuse rows that were never written (they would read as zeros) and sizes that the file cannot hold."""
    done = int(data.file.attrs["rows_done"])
    if done != data.shape[0]:
        raise InputError(f"{path}: unfinished, {done} of {data.shape[0]} rows", "Run the same 'extract' again")
    if 0 in data.shape:
        raise InputError(f"{path}: holds no features")
    held = data.id.get_storage_size()
    if not data.compression and held < data.size * data.dtype.itemsize:
        raise InputError(f"{path}: holds {held} of the {data.size * data.dtype.itemsize} bytes of 'features'")
