"""`pretrain --launcher slurm` on a real SLURM of two nodes: submitted, signalled, requeued, lost, refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seerctl.errors import UsageError
from seerctl.train.allocation import HEAD, adopt_task
from seerctl.train.launch import Layout, layout
from seerctl.train.slurm import SlurmOptions, parse_options, script
from tests.distributed import slurm
from tests.training import SMALL, make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if why := slurm.missing():
        pytest.skip(why)
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as configuration:
        yield {**os.environ, "SLURM_CONF": str(configuration)}


def start(environment: dict[str, str], shards: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "seerctl", "pretrain", "--recipe", str(SMALL), "--data", str(shards), "-o",
               str(run), "--nodes", "2", "--gpus-per-node", "1", *more]  # fmt: skip
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def scontrol(environment: dict[str, str], *arguments: str) -> str:
    return subprocess.run(["scontrol", *arguments], env=environment, capture_output=True, text=True, check=True).stdout


def job_of(run: Path) -> str:
    return next(path.stem for path in (run / "slurm").glob("[0-9]*.sh"))


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_job_that_is_signalled_saves_requeues_and_goes_on(
    environment: dict[str, str], shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(environment, shards, run, "--set", "schedule.steps=60")
    until(lambda: (run / "metrics.jsonl").exists() and len(steps(run)) > 2, process)
    job = job_of(run)
    subprocess.run(["scancel", "--signal=USR2", job], env=environment, check=True)  # as before the time limit
    until(lambda: "JobState=PENDING" in scontrol(environment, "show", "job", job), process)
    # SLURM lets a requeued job wait two minutes, which nobody has to watch.
    scontrol(environment, "update", f"JobId={job}", "StartTime=now")
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    assert "stopped by SIGUSR2" in errors  # its log was passed on
    assert steps(run) == list(range(1, 61))
    assert (run / "weights.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.distributed
def test_a_killed_task_is_named(environment: dict[str, str], shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(environment, shards, run, "--set", "schedule.steps=2000")
    until(lambda: (run / "metrics.jsonl").exists() and len(steps(run)) > 2, process)
    found = subprocess.run(["pgrep", "-f", f"seerctl pretrain .*-o {run} "], capture_output=True, text=True, check=True)
    ranks = [pid for pid in found.stdout.split() if b"SLURM_PROCID=1" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(int(ranks[0]), 9)
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 7, errors
    assert "rank 1 on n2 was lost (Killed)" in errors.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_fault_of_a_rank_is_the_exit_code_of_the_command(
    environment: dict[str, str], shards: Path, tmp_path: Path
) -> None:
    process = start(environment, shards, tmp_path / "run", "--set", "optim.lr=1e30", "--set", "schedule.steps=30")
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 8, errors
    assert "is not finite" in errors.splitlines()[-1]


@pytest.mark.distributed
def test_what_sbatch_refuses(environment: dict[str, str], shards: Path, tmp_path: Path) -> None:
    process = start(environment, shards, tmp_path / "run", "--partition", "nowhere")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 7
    assert "invalid partition" in errors.lower()
    assert errors.count("\n") == 1


def test_the_script_says_what_was_asked(tmp_path: Path) -> None:
    options = SlurmOptions({"partition": "gpu", "time": "24:00:00"})
    text = script(Layout(62, 8, "sbatch"), ["pretrain", "--data", "my shards"], tmp_path / "run", options, gpus=True)
    for line in ("--nodes=62", "--ntasks-per-node=8", "--gpus-per-node=8", "--partition=gpu", "--time=24:00:00",
                 "--signal=USR2@180"):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert "-m seerctl pretrain --data 'my shards'\n" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize("pair", ["qos", "qos=", "Q=1", "nodes=3", "mail-type=ALL\n#SBATCH --nodes=9"])
def test_options_that_are_none(pair: str) -> None:
    with pytest.raises(UsageError, match="--slurm"):
        parse_options([pair])


def test_a_task_takes_its_place_from_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {HEAD: "10.0.0.1:23456", "SLURM_NTASKS": "16", "SLURM_NNODES": "2", "SLURM_PROCID": "9",
             "SLURM_LOCALID": "1"}  # fmt: skip
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    adopt_task()
    assert (os.environ["RANK"], os.environ["LOCAL_WORLD_SIZE"], os.environ["MASTER_PORT"]) == ("9", "8", "23456")
    assert layout("auto", 2, 8, 8) == Layout(2, 8, "here")


def test_without_slurm_the_launcher_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerctl.train.allocation.shutil.which", lambda name: None)
    with pytest.raises(UsageError, match="no sbatch"):
        layout("slurm", 2, 8, 8)
    with pytest.raises(UsageError, match="no allocation of several nodes") as error:
        layout("auto", 2, 8, 8)
    assert re.search("--launcher print", error.value.hint)
