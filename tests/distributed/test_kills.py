"""A run that is killed at random moments goes on with the same samples, and ends where an uninterrupted one does."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import kills
from tests.training import make_shards

pytestmark = pytest.mark.distributed
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("steps", "count"), [(8, 4), pytest.param(50, 50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_killed_runs_see_the_same_samples_and_end_alike(tmp_path: Path, steps: int, count: int) -> None:
    make_shards(tmp_path)
    command = [sys.executable, kills.__file__, str(tmp_path), str(steps), str(count), "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "kills.json").read_text())
    whole = report["whole"]
    keys = {note["step"]: note["keys"] for note in whole["seen"]}
    assert sorted(keys) == list(range(steps))
    runs = [*report["same"], *report["mixed"]]
    assert sum(run["kills"] for run in runs) == count
    for run in runs:
        assert run["seen"]
        for note in run["seen"]:
            assert note["keys"] == kills.share(keys[note["step"]], note)
        assert {note["step"] for note in run["seen"]} == set(keys)
    # Where the steps jump back, an attempt went on from a checkpoint in the middle.
    first = [note["step"] for run in runs for note in _first_of_attempts(run["seen"])]
    assert any(step > 0 for step in first)
    for run in report["same"]:
        assert run["losses"] == whole["losses"]  # bit by bit
    for run in report["mixed"]:
        assert run["losses"] == pytest.approx(whole["losses"], abs=1e-4)  # over all steps


def _first_of_attempts(notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Notes of the first rank that do not follow the one before."""
    mine = [note for note in notes if note["rank"] == 0]
    return [note for before, note in itertools.pairwise(mine) if note["step"] != before["step"] + 1]
