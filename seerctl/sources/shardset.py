"""Shard sets as a source: a directory with `index.json`, ours or any of `wids`, read in the order of its index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seerctl.errors import InputError
from seerctl.files import blame

INDEX = "index.json"
_KIND = "wids-shard-index-v1"
_MAX_INDEX = 1 << 30


def shards_of(directory: Path) -> list[Path] | None:
    """The shards that the index in `directory` lists, or None where there is no index of shards.

    Raises:
        InputError: a shard is missing or has another size than the index says.
    """
    path = directory / INDEX
    with blame(path):
        if not path.is_file() or path.stat().st_size > _MAX_INDEX:
            return None
        try:
            index = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return None  # a file that happens to have this name
    if not isinstance(index, dict) or index.get("__kind__") != _KIND or not isinstance(index.get("shardlist"), list):
        return None
    return [_shard(directory, entry) for entry in index["shardlist"]]


def _shard(directory: Path, entry: Any) -> Path:
    name = entry.get("url") if isinstance(entry, dict) else None
    if not isinstance(name, str) or "/" in name or not name:
        raise InputError(f"{directory / INDEX}: {name!r} is no shard beside it", "Name the shards themselves")
    path = directory / name
    with blame(path):
        if not path.is_file():
            raise InputError(f"{path}: the shard is missing", "Run 'seerctl inspect DIR --verify'")
        size, wanted = path.stat().st_size, entry.get("filesize")
    if isinstance(wanted, int) and wanted != size:
        raise InputError(f"{path}: {size} bytes, not {wanted}", "Run 'seerctl inspect DIR --verify'")
    return path
