"""`pretrain --recipe 10b --nodes 62 --dry-run` against its limits: 60 s, 2 GB of memory, and 11 GiB planned."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SECONDS, MEMORY, PEAK = 60.0, 2e9, 11.0
_COMMAND = ("pretrain", "--recipe", "10b", "--nodes", "62", "--gpus-per-node", "8", "--dry-run",
            "--output-format", "json")  # fmt: skip


def run() -> list[dict[str, Any]]:
    executable = Path(sys.executable).with_name("seerctl")
    began = time.perf_counter()
    done = subprocess.run([executable, *_COMMAND], stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    plan = json.loads(done.stdout)
    peak = plan["memory"]["peak_bytes"] / 2**30
    cpu = used.ru_utime + used.ru_stime
    figures = [
        ("plan_seconds", seconds, SECONDS, "s", f"{cpu:.0f} s of processor time"),
        ("plan_memory", used.ru_maxrss * 1024, MEMORY, "B", "peak of the command itself"),
        ("plan_peak", peak, PEAK, "GiB", f"planned for each of {plan['ranks']} GPUs; {plan['verdict']}"),
    ]
    return [
        {"name": name, "ours": ours, "peer": limit, "ratio": limit / ours, "unit": unit, "peer_name": "limit",
         "note": note}
        for name, ours, limit, unit, note in figures
    ]  # fmt: skip
