"""Images named by a table (CSV, TSV, JSON lines or parquet), whose other columns travel with them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.sources.item import Item
from seerctl.sources.locate import Locate, locator, web_only
from seerctl.sources.names import clean, normal
from seerctl.sources.parquet import SUFFIX as PARQUET
from seerctl.sources.parquet import parquet_rows
from seerctl.sources.reasons import Reason

PATH_COLUMNS = ("path", "file", "image", "filename", "file_name", "filepath", "image_path")
URL_COLUMNS = ("url", "image_url", "img_url", "imageurl", "image_link", "photo_url", "photo_image_url")  # in any case
SUFFIXES = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": "", PARQUET: ""}
MAX_FIELD = 1 << 20  # characters of one field or line
_SAFE_INTEGER = 1 << 53
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which column names the pictures: `column`, holding URLs and nothing else if `url`."""

    column: str
    url: bool


def table_items(
    path: Path,
    opener: Callable[[], BinaryIO],
    path_column: str | None,
    url_column: str | None = None,
    locate: Locate | None = None,
) -> Iterator[Item]:
    """One item a row of the table at `path`, opened by `opener`: all columns but the one that names it are kept.

    Names are files relative to the table (`locate` says otherwise) or URLs, or structs of bytes and path.
    Empty fields are missing values. A column of a CSV or TSV whose every field is written as JSON writes numbers holds
    numbers, any other text: `007`, `1,5` and `n/a` make it text. To know that, the table is read twice.

    Raises:
        UsageError: `path_column`, or without it any usual name, is no column; or pyarrow is missing for parquet.
        InputError: not a table.
    """
    pointer = Pointer(url_column, True) if url_column else Pointer(path_column, False) if path_column else None
    rows, strict = _rows(path, opener, pointer)
    locate = locate or locator(str(path.parent))
    for number, row in rows:
        place = clean(f"{path.name}:{number}")
        if row is None:
            yield Item(place, verdict=(Reason.BAD_ROW, "not a JSON object"))
            continue
        pointer = pointer or _find_column(path, row)
        if pointer.column not in row and (strict or path_column or url_column):
            raise UsageError(f"{path}:{number}: no column '{pointer.column}'", did_you_mean(pointer.column, row))
        yield _row_item(place, row, pointer, locate)


def _row_item(place: str, row: dict[str, Any], pointer: Pointer, locate: Locate) -> Item:
    name = row.pop(pointer.column, None)
    columns = {column_name(key): sound(value) for key, value in row.items() if value is not None and not _binary(value)}
    if isinstance(name, dict) and isinstance(name.get("bytes"), bytes):
        inside = name.get("path")
        source = clean(normal(inside)) if isinstance(inside, str) and inside else place
        return Item(source, size=len(name["bytes"]), data=name["bytes"], columns=columns)
    if isinstance(name, bytes):
        return Item(place, size=len(name), data=name, columns=columns)
    if not isinstance(name, str) or not name.strip():
        what = "URL" if pointer.url else "path"
        return Item(place, verdict=(Reason.BAD_ROW, f"no {what} in column '{pointer.column}'"))
    return web_only(name, columns) if pointer.url else locate(name, columns)


def _binary(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, dict) and any(map(_binary, value.values())))


def _rows(
    path: Path, opener: Callable[[], BinaryIO], pointer: Pointer | None
) -> tuple[Iterator[tuple[int, dict[str, Any] | None]], bool]:
    """(number, row) of each row, and whether all have the same columns."""
    name = path.name.lower().removesuffix(".gz")
    suffix = os.path.splitext(name)[1]  # noqa: PTH122
    if suffix == PARQUET:
        return iter(parquet_rows(path, opener)), True
    delimiter = SUFFIXES[suffix]
    if delimiter:
        return iter(_csv_rows(path, opener, delimiter, pointer.column if pointer else None)), True
    return _json_rows(opener), False


def _find_column(path: Path, row: Mapping[str, Any]) -> Pointer:
    for name in PATH_COLUMNS:
        if name in row:
            return Pointer(name, False)
    lower: dict[str, str] = {}
    for name in row:
        lower.setdefault(name.lower(), name)
    for name in URL_COLUMNS:
        if name in lower:
            return Pointer(lower[name], True)
    raise UsageError(
        f"{path}: none of its columns {', '.join(map(str, row))} is called {', '.join(PATH_COLUMNS)} or url",
        "Say which one names the files: --path-column NAME or --url-column NAME",
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
    kept_as_text = (path_column,) if path_column else (*PATH_COLUMNS, *URL_COLUMNS)
    kinds |= {name: str for name in kinds if name in kept_as_text or name.lower() in kept_as_text}
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
