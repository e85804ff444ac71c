"""A run that goes on with fewer or more ranks sees the same samples in the same global steps, and learns the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seerctl.shards.index import ShardSet
from seerctl.train.data import loader
from seerctl.train.world import World
from tests.distributed import elastic
from tests.distributed.kills import share
from tests.training import make_shards, small_recipe

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
REPOSITORY = Path(__file__).resolve().parents[2]
STEPS, SAVED = 8, 75


def test_ranks_come_and_go(tmp_path: Path) -> None:
    shards, recipe = make_shards(tmp_path), small_recipe()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, elastic.__file__, str(tmp_path), "1", "2,1,2", "1,2,1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = json.loads((tmp_path / "elastic.json").read_text())
    keys = {batch.step: batch.keys for batch in loader(ShardSet.open(shards), recipe, World(), 0, STEPS)}
    for plan, report in reports.items():
        parts = [int(ranks) for ranks in plan.split(",")]
        stopped = [[SAVED] * ranks for ranks in parts[:-1]]
        assert report["codes"] == [*stopped, [0] * parts[-1]], done.stderr[-3000:]
        assert report["steps"] == list(range(1, STEPS + 1))
        assert report["losses"] == pytest.approx(reports["1"]["losses"], abs=1e-4)
        ranks = {step: parts[min(step // elastic.PART, len(parts) - 1)] for step in range(STEPS)}
        wanted = [(step, rank, count) for step, count in ranks.items() for rank in range(count)]
        assert sorted((note["step"], note["rank"], note["ranks"]) for note in report["seen"]) == wanted
        for note in report["seen"]:
            # The whole part of a rank at once: more samples on fewer ranks, no micro-batches.
            assert note["keys"] == share(keys[note["step"]], note)
            assert len(note["keys"]) == recipe.data.batch // note["ranks"]
