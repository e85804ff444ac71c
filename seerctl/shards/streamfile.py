"""What a file written by `ingest -o` holds, and whether it is whole."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seerctl.errors import InputError
from seerctl.files import blame
from seerctl.shards.summary import Summary, quantiles
from seerctl.stream.reader import read_streams
from seerctl.stream.records import START, StreamEnd


def is_stream(path: Path) -> bool:
    """Whether a file begins as a stream does."""
    with blame(path), path.open("rb") as file:
        return file.read(len(START) + 1) == START.encode() + b"\0"


def describe_stream(path: Path, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """What a stream, or several in one file, hold: plain JSON values as of a shard set.

    Everything is read, and the hash of every picture checked; `whole` says whether all of it is as it was written,
    `fault` what is not: from there on nothing was counted.
    """
    summary, ends, rejects = Summary(), 0, Counter[str]()
    samples = stored = 0
    over_limit, fault = False, ""
    options: list[dict[str, Any]] = []
    try:
        with blame(path), path.open("rb") as file:
            for item in read_streams(file, str(path)):
                if isinstance(item, StreamEnd):
                    ends += 1
                    rejects.update(item.rejects)
                    over_limit |= item.over_limit
                    options += [dict(item.start["options"])] if item.start["options"] not in options else []
                    continue
                if hashlib.sha256(item.image).hexdigest() != item.meta["sha256"]:
                    raise InputError(f"{path}: the bytes of {item.key}.{item.ext} are not those of its sha256")
                summary.add(item.meta)
                samples, stored = samples + 1, stored + len(item.raw)
                if progress is not None:
                    progress(1)
    except InputError as error:
        fault = error.message
    counted = summary.to_json()
    return {
        "kind": "stream", "location": str(path), "whole": not fault, **({"fault": fault} if fault else {}),
        "streams": ends, "samples": samples, "bytes": stored, "formats": counted["formats"], "modes": counted["modes"],
        "sides": {name: quantiles(counts) for name, counts in summary.sides.items() if counts},
        "columns": {name: {**entry, "missing": samples - entry["count"]} for name, entry in counted["columns"].items()},
        "rejects": dict(sorted(rejects.items())), "over_limit": over_limit, "options": options,
    }  # fmt: skip
