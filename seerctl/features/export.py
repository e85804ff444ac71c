"""Feature files in other formats, piece by piece: NumPy's npz (nothing pickled) and Parquet.

npz      arrays `features`, `keys`, `columns/<name>` and `categories/<name>` as in HDF5 (see `layout`), and the text
         `attributes`: JSON of the HDF5 file's attributes, `rows` and `dtype`
parquet  columns `key` (text), `features` (a list of D numbers) and the metadata columns by their names, categories as
         their texts (a dictionary), missing ones null; the same JSON in the schema's metadata under `seerctl`
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seerctl.columns import Column
from seerctl.errors import InputError, UsageError
from seerctl.features.layout import CHUNK_ROWS, dataset_name
from seerctl.features.store import FeatureFile
from seerctl.files import atomic_write, claim, json_text
from seerctl.tables import pyarrow

HDF5 = "h5"
FORMATS = {HDF5: ".h5", "npz": ".npz", "parquet": ".parquet"}
EXPORTS = ("npz", "parquet")
_PIECE_BYTES = 64 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same features give the same bytes
_RESERVED = ("key", "features")


def format_of(path: Path) -> str | None:
    """The format that the name of `path` says, if any."""
    return next((name for name, suffix in FORMATS.items() if path.suffix.lower() == suffix), None)


def convert_features(source: Path, output: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the feature file `source` as `output`, whose name says the format; returns what was written.

    Raises:
        UsageError: another format, `output` exists, or pyarrow is missing for Parquet.
        InputError: as `FeatureFile.open`. EnvironmentFault: the disk is full.
    """
    kind = format_of(output)
    if kind not in EXPORTS:
        raise UsageError(f"{output}: feature files are written as .npz or .parquet", f"Name it {output.stem}.npz")
    claim(output, overwrite=overwrite)
    check_installed(output)
    with FeatureFile.open(source) as file:
        export(file, output)
        return {
            "input": str(source), "output": str(output), "format": kind, "rows": file.shape[0], "dim": file.shape[1],
            "dtype": file.dtype, "columns": list(file.columns), "bytes": output.stat().st_size,
        }  # fmt: skip


def export(file: FeatureFile, output: Path) -> None:
    """Write an opened feature file to `output`, atomically, in the format that its name says (not HDF5)."""
    write = {"npz": _write_npz, "parquet": _write_parquet}[format_of(output) or ""]
    with atomic_write(output) as target:
        write(file, target)


def check_installed(output: Path) -> None:
    """Nothing, if the format of `output` can be written here.

    Raises:
        UsageError: it needs pyarrow.
    """
    if format_of(output) == "parquet":
        pyarrow(output)


def exported_attributes(path: Path) -> dict[str, Any]:
    """The attributes in an exported file.

    Raises:
        InputError: it is none.
    """
    try:
        if format_of(path) == "npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                text = str(arrays["attributes"])
        else:
            _, parquet = pyarrow(path)
            text = parquet.read_schema(path).metadata[b"seerctl"].decode()
        found = json.loads(text)
    except (OSError, ValueError, KeyError, TypeError, UsageError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: not an exported feature file ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: its attributes are no table")
    return found


def _attributes(file: FeatureFile) -> str:
    return json_text({**file.header.attributes(), "rows": file.shape[0], "dtype": file.dtype})


def _pieces(file: FeatureFile) -> Iterator[tuple[int, NDArray[Any]]]:
    """First row and rows of consecutive pieces, in the dtype of the file."""
    row_bytes = file.shape[1] * np.dtype(file.dtype).itemsize
    step = max(1, _PIECE_BYTES // (row_bytes * CHUNK_ROWS)) * CHUNK_ROWS
    for first in range(0, file.shape[0], step):
        yield first, file.rows(first, first + step)


def _write_npz(file: FeatureFile, target: IO[bytes]) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("features.npy", _EPOCH), "w", force_zip64=True) as member:
            descr = np.lib.format.dtype_to_descr(np.dtype(file.dtype))
            header = {"descr": descr, "fortran_order": False, "shape": file.shape}
            np.lib.format.write_array_header_1_0(member, header)
            for _, rows in _pieces(file):
                member.write(rows.tobytes())
        keys = file.keys.view(f"S{file.keys.dtype.itemsize}")  # without what h5py adds to the type
        arrays: dict[str, NDArray[Any]] = {"keys": keys, "attributes": np.array(_attributes(file))}
        for name, column in file.columns.items():
            arrays[f"columns/{dataset_name(name)}"] = column.values
            if column.categories is not None:
                arrays[f"categories/{dataset_name(name)}"] = np.array(column.categories, dtype=np.str_)
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_parquet(file: FeatureFile, target: IO[bytes]) -> None:
    pa, parquet = pyarrow(file.path)
    dim = file.shape[1]
    names = {f"columns.{name}" if name in _RESERVED else name: column for name, column in file.columns.items()}
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("features", pa.list_(pa.from_numpy_dtype(np.dtype(file.dtype)), dim)),
            *((name, _arrow_type(pa, column)) for name, column in names.items()),
        ],
        metadata={"seerctl": _attributes(file)},
    )
    with parquet.ParquetWriter(target, schema, compression="none") as writer:
        for first, rows in _pieces(file):
            span = slice(first, first + len(rows))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dim)
            keys = pa.array(np.char.decode(file.keys[span], "ascii"), pa.string())
            columns = [_arrow(pa, column.take(np.arange(*span.indices(len(file))))) for column in names.values()]
            writer.write_batch(pa.record_batch([keys, vectors, *columns], schema=schema))


def _arrow_type(pa: Any, column: Column) -> Any:
    if column.categories is not None:
        return pa.dictionary(pa.int32(), pa.string())
    return pa.from_numpy_dtype(column.values.dtype)


def _arrow(pa: Any, column: Column) -> Any:
    if column.categories is None:
        return pa.array(column.values, mask=column.missing)
    codes = pa.array(column.values, pa.int32(), mask=column.missing)
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(column.categories), pa.string()))
