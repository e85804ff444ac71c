"""What a rank's time went into between two metrics rows, and which of its time is its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_STATISTICS = Path("/proc/thread-self/schedstat")  # Linux: nanoseconds running, nanoseconds ready to run, ...


@dataclass(slots=True)
class Clock:
    """What happened since the last metrics row: seconds, of them waiting for data, steps, and damaged images.

    `busy`: seconds by a `busy_clock` from where this rank went on after all had met until it came to meet them again.
    """

    started: float = 0.0
    waited: float = 0.0
    busy: float = 0.0
    met: float = 0.0
    steps: int = 0
    damaged: int = 0


def busy_clock(device: torch.device) -> Callable[[], float]:
    """Seconds, of which differences count, that the calling thread is kept busy on a step.

    Ranks on CPUs wait for each other within a step, in every collective, so that a slow one makes all steps slow; its
    own are those in which its thread runs or is ready to (waiting for a core that others use). With a GPU the host
    waits for nobody before the step's end: there it is the time of day.
    """
    if device.type != "cpu":
        return time.perf_counter
    return _running_or_ready if _STATISTICS.exists() else time.thread_time


def _running_or_ready() -> float:
    return sum(map(int, _STATISTICS.read_bytes().split()[:2])) / 1e9
