"""The json of every sample of a shard, one after the other, without numpy and without reading the pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.shards.shardfile import read_offsets
from seerctl.stream.records import decode_meta
from seerctl.stream.ustar import BLOCK, padded, parse


def read_metas(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and json of every sample of the shard at `path`, without reading the pictures.

    Raises:
        InputError: it is missing or damaged there.
    """
    offsets = read_offsets(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: the shard is missing", "Run 'seerctl inspect DIR --verify'") from None
    with blame(path), file:
        for start in offsets[:-1]:
            _, size = parse(os.pread(file.fileno(), BLOCK, start), str(path), start)
            second = start + BLOCK + padded(size)
            name, length = parse(os.pread(file.fileno(), BLOCK, second), str(path), second)
            text = os.pread(file.fileno(), length, second + BLOCK)
            yield name.removesuffix(".json"), decode_meta(text, f"{path}: {name}")
