"""torchrun's --max-restarts: what a restart mended is no failure, and the run goes on from its newest checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seerctl.errors import EnvironmentFault, InputError, Saved, SeerctlError
from seerctl.shards.index import ShardSet
from seerctl.train.data import loader
from seerctl.train.launch import OUTCOME, raise_reported, report_outcome
from seerctl.train.metrics import Metrics
from seerctl.train.world import World
from tests.distributed.kills import seen, share
from tests.training import SMALL, make_shards, small_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"


@pytest.fixture
def outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(OUTCOME, str(tmp_path / "outcome.json"))
    monkeypatch.setenv(ATTEMPT, "0")
    return tmp_path / "outcome.json"


def test_the_first_report_of_the_last_attempt_counts(outcome: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report_outcome(EnvironmentFault("rank 1 was lost"))
    monkeypatch.setenv(ATTEMPT, "1")
    assert report_outcome(InputError("a.tar is damaged"))
    assert report_outcome(EnvironmentFault("rank 0 was lost"))
    with pytest.raises(SeerctlError, match=r"a\.tar is damaged") as error:
        raise_reported(outcome, outcome.with_suffix(".killed"), 1)
    assert error.value.exit_code == 4


def test_what_a_restart_mended_is_no_failure(outcome: Path) -> None:
    assert report_outcome(EnvironmentFault("rank 1 was lost"))
    killed = outcome.with_suffix(".killed")
    raise_reported(outcome, killed, 0)
    with pytest.raises(EnvironmentFault, match="rank 1 was killed by SIGKILL"):
        raise_reported(outcome, _written(killed, "rank 1 was killed by SIGKILL\n"), 1)


def test_ranks_that_saved_end_well_and_are_heard(outcome: Path) -> None:
    assert report_outcome(Saved("stopped by SIGTERM"))
    with pytest.raises(SeerctlError, match="stopped by SIGTERM") as error:
        raise_reported(outcome, outcome.with_suffix(".killed"), 0)
    assert error.value.exit_code == 75


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.slow
@pytest.mark.distributed
def test_a_killed_rank_is_restarted_and_the_run_ends_well(tmp_path: Path) -> None:
    shards, run = make_shards(tmp_path), tmp_path / "run"
    command = [sys.executable, "-m", "seerctl.train.torchrun", "--standalone", "--nproc-per-node", "2",
               "--max-restarts", "3", "-m", "tests.distributed.noted", "pretrain", "--recipe", str(SMALL),
               "--data", str(shards), "-o", str(run), "--set", "checkpoint.every=1"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1",
                   "NOTES": str(run.with_suffix(".keys")), "PAUSE": "0.3"}  # fmt: skip
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while len(seen(run)) < 6:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(_rank(1, run), signal.SIGKILL)
    _, said = process.communicate(timeout=250)
    assert process.returncode == 0, said
    assert [row["step"] for row in Metrics(run / "metrics.jsonl").rows()] == list(range(1, 9))
    keys = {batch.step: batch.keys for batch in loader(ShardSet.open(shards), small_recipe(), World(), 0, 8)}
    notes = seen(run)
    assert all(note["keys"] == share(keys[note["step"]], note) for note in notes)
    steps = [note["step"] for note in notes if note["rank"] == 0]
    again = next(place for place in range(1, len(steps)) if steps[place] <= steps[place - 1])
    assert steps[again] > 0  # from a checkpoint, not from the start
    assert steps == [*range(again), *range(steps[again], 8)]


def _rank(rank: int, run: Path) -> int:
    """The process of a rank of the run."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(run).encode() in (folder / "cmdline").read_bytes() and (
                f"\0LOCAL_RANK={rank}\0".encode() in b"\0" + (folder / "environ").read_bytes()
            ):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"no process of rank {rank}")
