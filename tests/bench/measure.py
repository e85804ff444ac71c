"""Timing two things in turn, so that a machine's moods hit both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one call: by the clock on the wall, and of processor time in all threads of this process."""

    wall: float
    cpu: float


def in_turn(
    ours: Callable[[], Any], peer: Callable[[], Any], repeats: int, *, cpu: bool = False
) -> tuple[float, float]:
    """Median seconds of `ours` and of `peer`, called alternately after one warm-up each; `cpu`: of processor time."""
    one, other = all_in_turn((ours, peer), repeats)
    return (one.cpu, other.cpu) if cpu else (one.wall, other.wall)


def all_in_turn(functions: Sequence[Callable[[], Any]], repeats: int) -> list[Spent]:
    """Medians of each of `functions`, called one after the other `repeats` times, after one warm-up of all."""
    spent: list[list[Spent]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for calls, function in zip(spent, functions, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            if turn:
                calls.append(Spent(time.perf_counter() - wall, time.process_time() - cpu))
    return [
        Spent(statistics.median(call.wall for call in calls), statistics.median(call.cpu for call in calls))
        for calls in spent
    ]
