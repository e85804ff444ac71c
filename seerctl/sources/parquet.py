"""Parquet tables, a few hundred rows in memory at a time; pictures may lie in them, as in those of Hugging Face."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from seerctl.errors import InputError
from seerctl.tables import pyarrow

SUFFIX = ".parquet"
_ROWS = 256


def parquet_rows(path: Path, opener: Callable[[], BinaryIO]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of the parquet table that `opener` opens; numbers, texts, lists and structs as JSON has them.

    Raises:
        InputError: not a parquet table, or a damaged one.
        UsageError: pyarrow is missing.
    """
    arrow, parquet = pyarrow(path)
    number = 0
    with opener() as file:
        try:
            table = parquet.ParquetFile(file)
            for batch in table.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: _plain(value) for name, value in row.items()}
        except (arrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InputError(f"{path}: not a parquet table, or damaged ({error})", "Copy it again") from None


def _plain(value: Any) -> Any:
    """Times as ISO 8601, decimals as numbers; bytes stay, for pictures."""
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
