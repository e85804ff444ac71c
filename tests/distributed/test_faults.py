"""What is done to runs of two hosts: each ends in time, with the documented code and a cause, and goes on exactly."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seerctl.shards.index import ShardSet
from seerctl.train.data import loader
from seerctl.train.world import World
from tests.distributed import faults
from tests.distributed.hosts import Hosts, two_hosts
from tests.distributed.kills import share
from tests.training import make_shards, small_recipe

pytestmark = pytest.mark.distributed
REPOSITORY = Path(__file__).resolve().parents[2]
CODES = {
    **dict.fromkeys(("kill", "gone", "cut", "stall", "full"), 7), "nan": 8, "slow": 0,
    **dict.fromkeys(("stop", "flip", "missing", "short"), 75),
}  # fmt: skip


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(("kill", "nan", "flip"), marks=pytest.mark.slow),
        pytest.param(tuple(itertools.islice(itertools.cycle(faults.KINDS), 33)),
                     marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
    ids=len,
)  # fmt: skip
def test_hit_runs_say_why_and_go_on_with_the_same_samples(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    shards = make_shards(tmp_path)
    with two_hosts() as hosts:
        command = [sys.executable, faults.__file__, str(tmp_path), *hosts.names, "1", *kinds]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert [report["kind"] for report in reports] == list(kinds)
    whole = {
        batch.step: batch.keys for batch in loader(ShardSet.open(shards), small_recipe(), World(), 0, faults.STEPS)
    }
    for report in reports:
        _check_end(report, hosts)
        _check_sequel(report, whole)


def _check_end(report: dict[str, Any], hosts: Hosts) -> None:
    """Both ranks ended with the promised code and name the cause."""
    kind, rank, facts = report["kind"], report["rank"], json.dumps(report, indent=1)[:3000]
    hit = -9 if kind in ("kill", "gone", "stall") else CODES[kind]
    assert report["codes"][rank] == hit, facts
    assert report["codes"][1 - rank] == CODES[kind], facts
    assert report["seconds"] < 60 * faults.LOAD, facts  # since it was hit
    told = report["said"][1 - rank]
    if kind == "slow":
        late = report["slowest"][report["step"] :]
        assert late.count(rank) > len(late) / 2, facts
    elif kind in ("kill", "gone", "stall", "cut"):
        # Rank 0 keeps the list of who is there: without it the others know only that.
        cause = "lost rank 0 or the way to it" if rank == 0 else f"lost rank 1 on {hosts.names[1]}"
        if kind == "cut":  # either has lost the other
            assert f"lost rank 1 on {hosts.names[1]}" in report["said"][0], facts
            cause = f"lost rank {rank}"
        assert cause in told, facts
    elif kind == "nan":
        assert f"is not finite on rank {rank} (node {hosts.names[rank]})" in told, facts
    elif kind == "full":
        assert f"(rank {rank} on {hosts.names[rank]})" in told, facts
    else:
        assert "stopped by" in told, facts


def _check_sequel(report: dict[str, Any], whole: dict[int, list[str]]) -> None:
    """The same command went on from the newest whole checkpoint, and no step is missing or done twice."""
    facts = json.dumps(report, indent=1)[:3000]
    assert report["again"] == [0, 0], facts
    assert report["rows"] == list(range(1, faults.STEPS + 1)), facts
    for note in report["before"] + report["after"]:
        assert note["keys"] == share(whole[note["step"]], note)
    begun = {rank: [note["step"] for note in report["after"] if note["rank"] == rank] for rank in (0, 1)}
    assert begun == {rank: list(range(report["from"], faults.STEPS)) for rank in (0, 1)}, facts
    assert report["from"] > 0, facts
