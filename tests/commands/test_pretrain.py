"""`seerctl pretrain` as it is typed: faults in one line, plans, and real processes that are stopped and lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seerctl.cli import run
from seerctl.errors import ExitCode, UsageError
from seerctl.train.launch import Layout, commands, layout
from seerctl.train.metrics import Metrics
from tests.training import SMALL, make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


def _fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = run(["pretrain", *map(str, arguments)])
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return code, error


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recipe", "nano"], 2, "missing option '--data'"),
        (["--recipe", "nano", "--data", "x"], 2, "missing option '--output'"),
        (["--recipe", "nanno", "--data", "x", "-o", "run"], 2, "no recipe 'nanno'. Did you mean 'nano'?"),
        (["--recipe", "nano", "--set", "optim.weigth_decay=1"], 2, "unknown key 'optim.weigth_decay'. Did you mean"),
        (["--recipe", "nano", "--data", "x", "-o", "run"], 4, "x: no such shard set"),
        (["--recipe", "10b", "--nodes", "62", "--data", "x", "-o", "run"], 2, "--launcher print shows"),
        (
            ["--recipe", "10b", "--launcher", "local", "--gpus-per-node", "2", "--data", "x", "-o", "r"],
            2,
            "one process",
        ),
    ],
)
def test_faults_are_one_line(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seerctl.train.allocation.shutil.which", lambda name: None)  # also where SLURM is installed
    found, error = _fails(capsys, *arguments)
    assert (found, message in error) == (code, True), error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["10b", "256gf"])
def test_the_seer_models_are_refused_here_before_memory_is_taken(
    recipe: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("seerctl.train.estimate._machine_available", lambda: 20 << 30)
    code, error = _fails(
        capsys, "--recipe", recipe, "--data", shards, "-o", tmp_path / "run", "--set", "run.device=cpu"
    )
    assert code == ExitCode.GATE
    assert "billion parameters) needs" in error
    assert "of memory is available" in error
    assert not (tmp_path / "run").exists()


def test_a_run_from_start_to_end_and_the_refusals_after_it(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["pretrain", "--recipe", str(SMALL), "--data", str(shards), "-o", str(tmp_path / "run")]
    assert run(call) == 0
    assert "steps 0 to 8, 128 images" in capsys.readouterr().err
    assert run([*call, "--output-format", "json"]) == 0
    captured = capsys.readouterr()
    assert "trained to the last of its 8 steps already" in captured.err
    summary = json.loads(captured.out)
    assert (summary["start"], summary["steps"], summary["images"]) == (8, 8, 0)
    code, error = _fails(capsys, *call[1:], "--set", "run.seed=3")
    assert (code, "another recipe (run.seed: 0 -> 3)" in error) == (2, True)
    assert run([*call, "--set", "run.seed=3", "--fresh", "--init", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run-2" / "weights.safetensors").is_file()
    capsys.readouterr()
    code, error = _fails(capsys, *call[1:-1], tmp_path / "wide", "--init", tmp_path / "run", "--set", "model.size=nano")
    assert (code, "holds a RegNet 'micro'" in error, "'nano'" in error) == (4, True, True)


@pytest.mark.slow
def test_dry_run_of_the_whole_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    call = ["pretrain", "--recipe", "10b", "--nodes", "62", "--gpus-per-node", "8", "--dry-run"]
    assert run([*call, "--output-format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["params"] == {"trunk": 9_323_934_872, "head": 304_988_416, "total": 9_628_923_288}
    assert (plan["ranks"], plan["batch"]["per_rank"], plan["fits"]) == (496, 16, True)
    assert plan["memory"]["peak_bytes"] < 11 * 2**30
    # By hand: 6.55 TFLOP forward for an image's six crops, as much again for the checkpoints, twice that backward.
    assert plan["step"]["flops_per_rank"] == pytest.approx(4 * 16 * 6.55e12, rel=0.01)
    assert plan["recipe"]["loss"]["epsilon"] == 0.03
    assert plan["peak_lr"] == pytest.approx(9.3)
    assert run([*call, "--gpu-memory", "8GB"]) == 3
    captured = capsys.readouterr()
    assert "fits 8 GB: no" in captured.err
    assert "it fits: " in captured.err or "take GPUs of " in captured.err


def test_dry_run_of_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["pretrain", "--recipe", "nano", "--nodes", "2", "--gpus-per-node", "4", "--dry-run", "--images", "1000"]
    drawn = tmp_path / "memory.svg"
    assert run([*call, "--output-format", "json", "--picture", str(drawn)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["ranks"], plan["fits"], plan["assumed"]["gpu"]["name"]) == (8, True, "a100-40gb")
    assert sum(plan["memory"]["by_category"].values()) == plan["memory"]["peak_bytes"]
    assert plan["step"]["seconds"] == max(plan["step"]["compute_seconds"], plan["step"]["communication_seconds"])
    assert b"activations" in drawn.read_bytes()
    code, error = _fails(capsys, *call[1:], "--picture", drawn)
    assert (code, "exists already" in error) == (2, True)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--gpu", "a100", "several sizes"), ("--gpu-memory", "much", "not a size"), ("--sweep", "gpus=3", "not a list"),
     ("--picture", "memory.pdf", ".svg or .png")],
)  # fmt: skip
def test_plans_that_cannot_be(option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = _fails(capsys, "--recipe", "nano", "--nodes", "2", "--dry-run", option, value)
    assert (code, said in error) == (2, True)


def test_dry_run_of_what_fits_and_what_does_not(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["pretrain", "--recipe", str(SMALL), "--dry-run", "--data", str(shards), "--output-format", "json"]
    assert run([*call, "--set", "schedule.steps=0", "--set", "schedule.epochs=4"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["fits"], plan["training"]["steps"], plan["step"]["seconds"]) == (True, 10, None)
    monkeypatch.setattr("seerctl.train.estimate._machine_available", lambda: 1000)
    assert run(call) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["fits"] is False
    assert captured.err.count("\n") == 1


def test_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerctl.train.launch.has_sbatch", lambda: False)
    assert layout("auto", 1, None, 0) == Layout(1, 1, "here")
    assert layout("auto", 1, None, 1) == Layout(1, 1, "here")
    assert layout("auto", 1, None, 8) == Layout(1, 8, "torchrun")
    assert layout("auto", 1, 2, 0) == Layout(1, 2, "torchrun")
    assert layout("torchrun", 1, None, 0) == Layout(1, 1, "torchrun")
    assert layout("print", 3, None, 0) == Layout(3, 8, "print")
    assert layout("auto", 62, None, 0, dry_run=True).ranks == 496
    with pytest.raises(UsageError, match="no allocation of several nodes"):
        layout("auto", 2, 8, 8)


def test_layout_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert layout("torchrun", 2, 4, 0) == Layout(2, 4, "here")


def test_printed_commands(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["pretrain", "--recipe", "nano", "--data", "my shards", "-o", str(tmp_path / "run"), "--launcher", "print"]
    assert run([*call, "--nodes", "2", "--gpus-per-node", "4", "--set", "data.batch=64"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.replace("--node-rank 0", "--node-rank 1") == second
    assert '--master-addr "$HEAD" --master-port 29500 -m seerctl pretrain --recipe' in first
    assert "--nnodes 2" in first
    assert "--data 'my shards'" in first
    assert first.endswith("--set data.batch=64")
    assert commands(Layout(1, 2, "print"), ["pretrain"]) == [
        "python -m seerctl.train.torchrun --standalone --nproc-per-node 2 -m seerctl pretrain"
    ]


def _start(run_directory: Path, shards: Path) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "seerctl", "pretrain", "--recipe", str(SMALL), "--set", "schedule.steps=100000"]
    return subprocess.Popen(
        [*call, "--data", str(shards), "-o", str(run_directory), "--gpus-per-node", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_steps(run_directory: Path, process: subprocess.Popen[str], steps: int) -> None:
    metrics = Metrics(run_directory / "metrics.jsonl")
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.path.exists() and len(metrics.path.read_bytes().splitlines()) >= steps:
            return
        time.sleep(0.1)
    pytest.fail(f"no {steps} steps: {process.communicate()[1][-3000:]}")


def _ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the training ranks: grandchildren whose command line holds `-m seerctl pretrain`."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    agents = [pid for pid, parent in parents.items() if parent == process.pid]
    return sorted(pid for pid, parent in parents.items() if parent in agents)


@pytest.mark.distributed
def test_two_processes_are_stopped_go_on_and_are_lost(shards: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    process = _start(place, shards)
    _wait_for_steps(place, process, 3)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == ExitCode.SAVED, error
    assert error.strip().splitlines()[-1].startswith(f"seerctl: error: {place}: stopped by SIGTERM after step ")
    assert "Traceback" not in error
    saved = len(Metrics(place / "metrics.jsonl").rows())
    assert (place / "checkpoints" / f"step-{saved:08d}").is_dir()

    process = _start(place, shards)
    _wait_for_steps(place, process, saved + 2)
    ranks = _ranks_of(process)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == ExitCode.ENVIRONMENT, error
    assert "Traceback" not in error
    assert "seerctl: error: rank 1 was killed by SIGKILL. Start again" in error.strip().splitlines()[-1], error
    assert [row["step"] for row in Metrics(place / "metrics.jsonl").rows()][: saved + 2] == list(range(1, saved + 3))
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
