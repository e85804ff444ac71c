"""`seerctl --help` and a pipe stage's start against `python -c pass` (ratio: our time over theirs; limit 8)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.measure import in_turn


def run() -> list[dict[str, Any]]:
    executable = Path(sys.executable).with_name("seerctl")
    results = []
    for name, arguments in (("startup", ["--help"]), ("startup_ingest", ["ingest", "--help"])):
        ours, peer = in_turn(
            lambda arguments=arguments: subprocess.run([executable, *arguments], stdout=subprocess.DEVNULL, check=True),
            lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
            repeats=15,
        )
        results.append(
            {
                "name": name, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": "s",
                "peer_name": "python -c pass", "note": f"seerctl {' '.join(arguments)}; lower is better, limit 8",
            }
        )  # fmt: skip
    return results
