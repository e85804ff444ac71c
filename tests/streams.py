"""Streams made without `ingest`: small, quick, with known contents."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seerctl.shards.index import ShardSet
from seerctl.shards.setwriter import ShardOptions
from seerctl.shards.writer import ShardReport, write_shards
from seerctl.stream.records import encode_sample
from seerctl.stream.writer import StreamWriter


def meta_of(data: bytes, source: str, columns: Mapping[str, Any] | None = None, side: int = 8) -> dict[str, Any]:
    """The json of a sample; `data` need not be a picture."""
    return {
        "sha256": hashlib.sha256(data).hexdigest(), "width": side, "height": side + 2, "format": "JPEG", "mode": "RGB",
        "orientation": 1, "source": source, "columns": dict(columns or {}),
    }  # fmt: skip


def payload(number: int) -> bytes:
    """Bytes whose length varies around the size of a block."""
    lengths = (700, 1, 512, 1300, 511, 513)
    return (hashlib.sha256(str(number).encode()).digest() * 64)[: lengths[number % 6]]


def numbered(numbers: Iterable[int]) -> list[tuple[bytes, dict[str, Any]]]:
    """(bytes, json) of samples by number, with a label, a number and a text in their columns."""
    return [
        (data, meta_of(data, f"pictures/{number}.jpg", {"label": "abc"[number % 3], "size": number, "even": None}))
        for number in numbers
        for data in (payload(number) + number.to_bytes(4, "big"),)
    ]


def stream_of(samples: Iterable[tuple[bytes, Mapping[str, Any]]], **finish: Any) -> bytes:
    """A whole stream of `samples`."""
    file = io.BytesIO()
    writer = StreamWriter(file, {"check": "decode"})
    for data, meta in samples:
        writer.write(*encode_sample(data, "jpg", meta))
    writer.finish(**{"rejects": {}, **finish})
    return file.getvalue()


def shards_of(directory: Path, *streams: bytes, **options: Any) -> ShardReport:
    """Write whole streams into `directory`."""
    files = [(f"stream {number}", io.BytesIO(stream)) for number, stream in enumerate(streams)]
    return write_shards(files, directory, ShardOptions(**options))


def set_of(directory: Path, count: int, **options: Any) -> ShardSet:
    """A shard set of `count` numbered samples."""
    shards_of(directory, stream_of(numbered(range(count))), **options)
    return ShardSet.open(directory)


def listing(directory: Path) -> dict[str, bytes]:
    """Every file below `directory` with its bytes."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }
