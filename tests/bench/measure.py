"""Timing two things in turn, so that a machine's moods hit both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def in_turn(
    ours: Callable[[], Any], peer: Callable[[], Any], repeats: int, *, cpu: bool = False
) -> tuple[float, float]:
    """Median seconds of `ours` and of `peer`, called alternately after one warm-up each; `cpu`: of processor time."""
    clock = time.process_time if cpu else time.perf_counter
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for side, function in zip(seconds, (ours, peer), strict=True):
            started = clock()
            function()
            if turn:
                side.append(clock() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
