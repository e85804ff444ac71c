"""Small training sets: which rows are drawn depends on their keys and the seed alone, not on the order of a file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.errors import UsageError
from seerctl.probes.report import ALPHA, metric
from seerctl.stats import Interval, t_quantile


def ranks_of(keys: NDArray[np.bytes_], seed: int, draw: int) -> NDArray[np.uint64]:
    """(N,) a number for each key, by which rows are drawn: a row that is drawn is so from any superset with few more.

    8 bytes of BLAKE2b of the key, salted with seed and draw.
    """
    salt = seed.to_bytes(8, "little", signed=True) + draw.to_bytes(8, "little")
    digests = b"".join(hashlib.blake2b(key, digest_size=8, salt=salt).digest() for key in keys.tolist())
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def per_class(labels: NDArray[np.int64], ranks: NDArray[np.uint64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows drawn, ascending: of class c the `counts[c]` ones of the lowest rank."""
    order = np.lexsort((ranks, labels))
    sizes = np.bincount(labels, minlength=len(counts))
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[place < counts[labels[order]]])


def usable_shots(shots: Sequence[int], available: int, protocol: str) -> tuple[list[int], list[str]]:
    """Those of `shots` that every class has rows for, and a warning for each of the others.

    Raises:
        UsageError: none is, or one is not positive.
    """
    unique = list(dict.fromkeys(shots))
    if any(k < 1 for k in unique):
        raise UsageError(f"{protocol}: a class needs 1 row or more", "Write --k 8")
    usable = [k for k in unique if k <= available]
    if unique and not usable:
        raise UsageError(
            f"{protocol}: the rarest class has {available} training rows, too few for k {min(unique)}",
            f"Write --k {max(1, available)}",
        )
    left = [k for k in unique if k > available]
    return usable, [f"{protocol}: k {k} is left out, the rarest class has {available} training rows" for k in left]


def spread_metric(values: Sequence[float], rows: int) -> dict[str, Any]:
    """The mean of scores of several draws with Student's interval over them, their least, largest and deviation."""
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    deviation = float(found.std(ddof=1)) if len(found) > 1 else 0.0
    half = t_quantile(ALPHA, len(found) - 1) * deviation / math.sqrt(len(found)) if len(found) > 1 else math.nan
    limits = (max(0.0, mean - half), min(1.0, mean + half)) if math.isfinite(half) else (math.nan, math.nan)
    entry = metric(Interval(*(np.asarray(number) for number in (mean, *limits))), rows)
    return {**entry, "min": float(found.min()), "max": float(found.max()), "std": deviation, "draws": len(found)}
