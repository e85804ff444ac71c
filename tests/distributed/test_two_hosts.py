"""The printed commands on two hosts: they train what one process trains, and stop and go on together."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seerctl.cli import run as seerctl
from seerctl.shards.index import ShardSet
from seerctl.train.data import loader
from seerctl.train.interface import interface_to
from seerctl.train.metrics import Metrics
from seerctl.train.start import train
from seerctl.train.world import World
from tests.distributed.hosts import Hosts, two_hosts
from tests.distributed.kills import seen, share
from tests.training import SMALL, make_shards, small_recipe

pytestmark = pytest.mark.distributed
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with two_hosts() as found:
        yield found


def _start(hosts: Hosts, commands: list[str], run: Path, pause: float) -> list[subprocess.Popen[str]]:
    """The printed commands, each on its host, noting keys beside the run."""
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HEAD": hosts.addresses[0],
        "NOTES": str(run.with_suffix(".keys")), "PAUSE": str(pause),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    noted = [command.replace("-m seerctl pretrain", "-m tests.distributed.noted pretrain") for command in commands]
    assert noted != commands
    return [
        subprocess.Popen(hosts.on(host, ["sh", "-c", f"exec {command}"]), env=environment, text=True,
                         stderr=subprocess.PIPE)
        for host, command in enumerate(noted)
    ]  # fmt: skip


def _end(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


@pytest.mark.slow
def test_printed_commands_train_on_two_hosts_what_one_process_trains(
    hosts: Hosts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, run = make_shards(tmp_path), tmp_path / "run"
    train(small_recipe(), shards, tmp_path / "one")
    capsys.readouterr()
    call = ["pretrain", "--recipe", str(SMALL), "--data", str(shards), "-o", str(run), "--launcher", "print"]
    assert seerctl([*call, "--nodes", "2", "--gpus-per-node", "1"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 2
    assert shlex.split(commands[0])[:3] == ["python", "-m", "seerctl.train.torchrun"]

    processes = _start(hosts, commands, run, pause=0.5)
    deadline = time.monotonic() + 100
    while len(seen(run)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    (code_a, said_a), (code_b, said_b) = _end(processes)
    assert (code_a, code_b) == (75, 75), said_a + said_b
    assert "stopped by another rank's request" in said_a
    assert "stopped by SIGTERM" in said_b
    assert 0 < len(Metrics(run / "metrics.jsonl").rows()) < 8

    for code, said in _end(_start(hosts, commands, run, pause=0)):
        assert code == 0, said
    one, two = (Metrics(folder / "metrics.jsonl").rows() for folder in (tmp_path / "one", run))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=1e-4)
    assert sorted((note["step"], note["rank"]) for note in seen(run)) == [(s, r) for s in range(8) for r in range(2)]
    whole = {batch.step: batch.keys for batch in loader(ShardSet.open(shards), small_recipe(), World(), 0, 8)}
    for note in seen(run):
        assert note["keys"] == share(whole[note["step"]], note)


def test_the_interface_towards_a_host() -> None:
    assert interface_to("127.0.0.1") == "lo"
    assert interface_to("no-such-host.invalid") is None
