"""Where a step's samples come from at 10,000,000 samples: by weights against the plain reading plan."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from typing import Any

import numpy as np

from seerctl.shards.plan import ReadingPlan, WeightedPlan

SAMPLES, STEPS = 10_000_000, 40


def _step(plan: ReadingPlan | WeightedPlan, batch: int) -> float:
    """Median milliseconds of a step."""
    seconds = []
    for step in range(STEPS):
        started = time.perf_counter()
        plan.step(step * 7, batch)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[1:])


def run() -> list[dict[str, Any]]:
    weights = np.random.default_rng(0).gamma(2.0, size=SAMPLES)
    plain = ReadingPlan(SAMPLES, "ab" * 32, 0)
    tracemalloc.start()
    started = time.perf_counter()
    weighted = WeightedPlan(plain, weights)
    built = time.perf_counter() - started
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    note = f"{SAMPLES:,} samples; built in {built:.2f} s, holds {held / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB"
    results = []
    for batch in (256, 4096):
        ours, peer = _step(weighted, batch), _step(plain, batch)
        results.append({"name": f"weighted_step_{batch}", "ours": ours, "peer": peer, "ratio": peer / ours,
                        "unit": "ms", "peer_name": "without weights", "note": note})  # fmt: skip
    return results
