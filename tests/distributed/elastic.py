"""Runs stopped and gone on with on other numbers of ranks: `python elastic.py FOLDER RANKS,RANKS,...` -> elastic.json.

Each run of three parts is stopped twice, as SIGTERM stops one, after three steps; the last part trains to the end.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from seerctl.train.metrics import Metrics
from tests.distributed.kills import attempt, seen
from tests.distributed.ranks import StopAfter
from tests.training import small_recipe

PART = 3  # steps


def stopped_run(shards: Path, run: Path, parts: list[int]) -> dict[str, Any]:
    """One run on `parts[0]` ranks, then on `parts[1]`, ...: exit codes of every part, keys and losses of every step."""
    codes = []
    for number, ranks in enumerate(parts):
        stop = StopAfter(PART - 1) if number + 1 < len(parts) else None
        processes = attempt(small_recipe(), shards, run, ranks, stop)
        codes.append([os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes])
    rows = Metrics(run / "metrics.jsonl").rows()
    return {"codes": codes, "seen": seen(run), "steps": [row["step"] for row in rows],
            "losses": [row["loss"] for row in rows]}  # fmt: skip


def main(folder: Path, plans: list[str]) -> None:
    torch.set_num_threads(1)
    reports = {
        plan: stopped_run(folder / "shards", folder / f"run-{plan}", [int(ranks) for ranks in plan.split(",")])
        for plan in plans
    }
    (folder / "elastic.json").write_text(json.dumps(reports))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
