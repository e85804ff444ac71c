"""Tables from strangers, block by block: csv, jsonl and (with pyarrow) parquet, columns picked by name."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from seerctl.errors import InputError, UsageError

CHUNK = 512  # rows in a block: their cells stay in the cache, which is twice as fast as 65,536
SNIFF = 65536  # rows of a jsonl that make up its column names


class Encoded(Sequence[Any]):
    """Values of some rows as codes into the few different ones there are: a sequence, for those who want the codes.

    codes: (n,) integers. values: any JSON values, None among them.
    """

    def __init__(self, codes: Any, values: list[Any]) -> None:
        self.codes, self.values = codes, values

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self.values[code] for code in self.codes[place]]
        return self.values[self.codes[place]]


Block = dict[str, Sequence[Any]]  # column name -> values of some rows
Blocks = Callable[[Sequence[str]], Iterator[Block]]


def open_table(path: Path) -> tuple[list[str], Blocks]:
    """The column names of the table at `path`, and a function that yields its rows block by block for some of them.

    csv cells are str; jsonl and parquet ones any JSON value. The names of a jsonl are those of its first 65,536 rows.

    Raises:
        InputError: not a table of the suffix's format; also raised later, by the blocks, where the damage lies.
        UsageError: an unknown suffix, or parquet without pyarrow.
    """
    return _READERS[check_suffix(path).suffix](path)


def check_suffix(path: Path) -> Path:
    """`path` if its suffix names a format that can be read and written here.

    Raises:
        UsageError: it does not, or pyarrow is missing for parquet.
    """
    if path.suffix not in _READERS:
        raise UsageError(f"{path}: not a format of tables", f"End the name with one of {', '.join(_READERS)}")
    if path.suffix == ".parquet":
        pyarrow(path)
    return path


def _open_csv(path: Path) -> tuple[list[str], Blocks]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = _next_csv_row(path, csv.reader(file)) or []
    if not header:
        raise InputError(f"{path}: empty, without even a header line")

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            _next_csv_row(path, reader)
            places = [header.index(name) for name in wanted]
            while rows := _csv_rows(path, reader):
                columns = _transpose(rows)
                if len(columns) != len(header):
                    columns = _transpose(_repair(path, rows, header, reader.line_num))
                    if not columns:  # nothing but blank lines
                        continue
                yield {name: columns[place] for name, place in zip(wanted, places, strict=True)}

    return header, blocks


def _transpose(rows: list[list[str]]) -> list[tuple[str, ...]]:
    """Rows as columns, or nothing when they are not all of one width."""
    try:
        return list(zip(*rows, strict=True))
    except ValueError:
        return []


def _csv_rows(path: Path, reader: Any) -> list[list[str]]:
    try:
        return list(itertools.islice(reader, CHUNK))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a csv table near line {reader.line_num + 1} ({error})") from None


def _next_csv_row(path: Path, reader: Any) -> list[str] | None:
    try:
        return next(reader, None)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a csv table ({error})") from None


def _repair(path: Path, rows: list[list[str]], header: list[str], line: int) -> list[list[str]]:
    """Rows without blank lines; a row of another width is an error that names its line."""
    for index, row in enumerate(rows):
        if row and len(row) != len(header):
            raise InputError(
                f"{path}: line {line - len(rows) + index + 1} has {len(row)} cells, the header has {len(header)}"
            )
    return [row for row in rows if row]


def _open_jsonl(path: Path) -> tuple[list[str], Blocks]:
    names: dict[str, None] = {}
    for row in itertools.islice(_json_rows(path), SNIFF):
        names.update(dict.fromkeys(row))
    if not names:
        raise InputError(f"{path}: no rows")

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        rows = _json_rows(path)
        while chunk := list(itertools.islice(rows, CHUNK)):
            yield {name: [row.get(name) for row in chunk] for name in wanted}

    return list(names), blocks


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    with path.open("rb") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputError(f"{path}: line {number} is not a JSON object")
                yield row
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is not JSON ({error})") from None


def _open_parquet(path: Path) -> tuple[list[str], Blocks]:
    arrow, parquet = pyarrow(path)
    try:
        file = parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a parquet table ({str(error).splitlines()[0]})") from None

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        try:
            for batch in file.iter_batches(batch_size=SNIFF, columns=list(wanted)):
                yield {name: _arrow_values(arrow, batch.column(name)) for name in wanted}
        except (arrow.ArrowException, OSError) as error:
            raise InputError(f"{path}: damaged parquet table ({str(error).splitlines()[0]})") from None

    return list(file.schema_arrow.names), blocks


def _arrow_values(arrow: Any, column: Any) -> Sequence[Any]:
    """A column of a batch: text with few different values as `Encoded`, which spares a Python object a cell."""
    kinds = (arrow.types.is_string, arrow.types.is_large_string, arrow.types.is_integer, arrow.types.is_boolean)
    if not any(kind(column.type) for kind in kinds):
        return cast("list[Any]", column.to_pylist())
    head = column.slice(0, CHUNK).dictionary_encode()
    if 2 * len(head.dictionary) > len(head):
        return cast("list[Any]", column.to_pylist())
    coded = column.dictionary_encode()
    values = coded.dictionary.to_pylist()
    codes = coded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    return Encoded(codes, [*values, None] if column.null_count else values)


def pyarrow(path: Path) -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        UsageError: they are not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(f"{path}: parquet needs pyarrow", "pip install pyarrow, or use .csv or .jsonl") from None


_READERS: dict[str, Callable[[Path], tuple[list[str], Blocks]]] = {
    ".csv": _open_csv,
    ".jsonl": _open_jsonl,
    ".parquet": _open_parquet,
}
