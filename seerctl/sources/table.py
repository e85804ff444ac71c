"""Images named by a table (CSV, TSV or JSON lines), whose other columns travel with them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.sources.item import Item
from seerctl.sources.listing import path_item
from seerctl.sources.names import clean, normal
from seerctl.sources.reasons import Reason

PATH_COLUMNS = ("path", "file", "image", "filename", "file_name", "filepath", "image_path")
SUFFIXES = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": ""}
MAX_FIELD = 1 << 20  # characters of one field or line
_SAFE_INTEGER = 1 << 53
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")


def table_items(path: Path, opener: Callable[[], BinaryIO], path_column: str | None) -> Iterator[Item]:
    """One item a row of the table at `path`, opened by `opener`: files relative to it, all other columns kept.

    Empty fields are missing values. A column of a CSV or TSV whose every field is written as JSON writes numbers holds
    numbers, any other text: `007`, `1,5` and `n/a` make it text. To know that, the table is read twice.

    Raises:
        UsageError: `path_column`, or without it any usual name, is no column.
        InputError: not a table.
    """
    delimiter = _delimiter(path)
    rows: Iterator[tuple[int, dict[str, Any] | None]]
    rows = _csv_rows(path, opener, delimiter, path_column) if delimiter else _json_rows(opener)
    column = path_column
    for number, row in rows:
        if row is None:
            yield Item(clean(f"{path.name}:{number}"), verdict=(Reason.BAD_ROW, "not a JSON object"))
            continue
        column = column or _find_column(path, row)
        if column not in row and (delimiter or path_column):
            raise UsageError(f"{path}:{number}: no column '{column}'", did_you_mean(column, row))
        name = row.pop(column, None)
        if not isinstance(name, str) or not name:
            verdict = (Reason.BAD_ROW, f"no path in column '{column}'")
            yield Item(clean(f"{path.name}:{number}"), verdict=verdict)
            continue
        columns = {column_name(key): value for key, value in row.items() if value is not None}
        yield path_item(clean(normal(name)), os.path.join(path.parent, name), columns)  # noqa: PTH118


def _delimiter(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return SUFFIXES[os.path.splitext(name)[1]]  # noqa: PTH122


def _find_column(path: Path, row: Mapping[str, Any]) -> str:
    for name in PATH_COLUMNS:
        if name in row:
            return name
    raise UsageError(
        f"{path}: none of its columns {', '.join(map(str, row))} is called {', '.join(PATH_COLUMNS)}",
        "Say which one names the files: --path-column NAME",
    )


def column_name(name: str) -> str:
    """A column's name as it is stored: odd characters percent-encoded, and '/' as '_', which HDF5 takes for a group."""
    return clean(name.strip()).replace("/", "_")


def _csv_rows(
    path: Path, opener: Callable[[], BinaryIO], delimiter: str, path_column: str | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) with the types of whole columns; what names a file stays text."""
    kinds: dict[str, Callable[[str], Any]] = {}
    for _, row in _text_rows(path, opener, delimiter):
        for name, field in row.items():
            if field and kinds.get(name) is not plain_text:
                kinds[name] = _wider(kinds.get(name, int), _kind(field))
    kept_as_text = {path_column} if path_column else set(PATH_COLUMNS)
    kinds |= dict.fromkeys(kept_as_text & kinds.keys(), str)
    for number, row in _text_rows(path, opener, delimiter):
        yield number, {name: kinds[name](field) if field else None for name, field in row.items()}


def _text_rows(
    path: Path, opener: Callable[[], BinaryIO], delimiter: str
) -> Iterator[tuple[int, dict[str, str | None]]]:
    csv.field_size_limit(MAX_FIELD)
    # utf-8-sig: spreadsheets begin a file with a byte order mark.
    with io.TextIOWrapper(opener(), encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter)
        try:
            names = [name.strip() for name in next(reader, [])]
            if not any(names) or len(set(names)) < len(names):
                raise InputError(f"{path}: its first line does not name the columns, each once", "Add a header line")
            for fields in reader:
                if fields:
                    yield reader.line_num, dict.fromkeys(names) | dict(zip(names, fields, strict=False))
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: not a table ({error})", "Check its quotes") from None


def _kind(field: str) -> Callable[[str], Any]:
    """What a field could be: int, float, or text."""
    if _INTEGER.fullmatch(field):  # longer ones are names of things, which a float would round
        return int if len(field) < 17 and abs(int(field)) <= _SAFE_INTEGER else plain_text
    return float if _NUMBER.fullmatch(field) and math.isfinite(float(field)) else plain_text


def _wider(first: Callable[[str], Any], second: Callable[[str], Any]) -> Callable[[str], Any]:
    """The type that holds both."""
    order = (int, float, plain_text)
    return max(first, second, key=order.index)


def plain_text(field: str) -> str:
    """Text whose bytes that are no UTF-8 are marked as such."""
    return field.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _json_rows(opener: Callable[[], BinaryIO]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with opener() as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_FIELD), b""), start=1):
            if line.strip():
                yield number, parse_row(line)


def parse_row(line: bytes) -> dict[str, Any] | None:
    """A JSON object whose NaN, infinities and broken text are gone, or None when it is none."""
    _, row = parse_json(line)
    return row if isinstance(row, dict) else None


def parse_json(text: bytes) -> tuple[bool, Any]:
    """(whether it is JSON, its value without NaN, infinities and broken text)."""
    try:
        return True, sound(json.loads(text, parse_constant=lambda _: None))
    except (ValueError, RecursionError):
        return False, None


def sound(value: Any) -> Any:
    """A JSON value that can be written again: no lone surrogates, no numbers beyond a double."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 1 << 63 else str(value)
    if isinstance(value, list):
        return [sound(item) for item in value]
    if isinstance(value, dict):
        return {str(sound(name)): sound(item) for name, item in value.items()}
    return value
