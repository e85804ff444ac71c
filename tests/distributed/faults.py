"""Faults injected into runs of two ranks on two hosts: `python faults.py FOLDER HOST HOST SEED KIND...`.

Every run is hit once, then started again without the fault. Ranks are forks of this process, as in kills.py; each
writes what it ended with, and the keys of every step that it began. FOLDER/faults.jsonl gets a line a run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seerctl.errors import SeerctlError
from seerctl.recipe import Recipe
from seerctl.train.checkpoint import checkpoints, step_of
from seerctl.train.data import CropBatch
from seerctl.train.metrics import Metrics
from seerctl.train.start import train
from seerctl.train.trainer import Trainer
from tests.distributed.hosts import Hosts
from tests.distributed.kills import seen
from tests.distributed.noted import note_keys
from tests.training import small_recipe

KINDS = ("kill", "gone", "cut", "stall", "slow", "nan", "full", "stop", "flip", "missing", "short")
STEPS = 8
SLOW = 0.3  # seconds of work that a slow rank has more in every step
_SIGNALS = {
    "kill": signal.SIGKILL, "gone": signal.SIGKILL, "stall": signal.SIGSTOP,
    **dict.fromkeys(("stop", "flip", "missing", "short"), signal.SIGTERM),
}  # fmt: skip
LOAD = float(os.environ.get("SEERCTL_TEST_LOAD", "1"))  # how many times slower than alone this machine is
_TIMEOUT = 0.1 * LOAD  # minutes: parallel.timeout_minutes
_PATIENCE = 120.0 * LOAD  # seconds in which everything has to happen
_PAUSE = 0.15  # seconds that a step takes at least, so that a fault hits it in the middle


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens to which rank when the run has got to which step."""

    kind: str
    rank: int
    step: int


def start(recipe: Recipe, shards: Path, run: Path, hosts: Hosts, port: int, fault: Fault | None) -> list[int]:
    """The two ranks of a run, each on its host."""
    return [_child(recipe, shards, run, hosts, rank, port, fault) for rank in range(2)]


def _child(
    recipe: Recipe, shards: Path, run: Path, hosts: Hosts, rank: int, port: int, fault: Fault | None
) -> int:  # fmt: skip
    process = os.fork()
    if process:
        return process
    code, said = 1, ""
    try:
        hosts.enter(rank)
        places = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1,
                  "MASTER_ADDR": hosts.addresses[0], "MASTER_PORT": port}  # fmt: skip
        os.environ |= {name: str(value) for name, value in places.items()}
        note_keys(run.with_suffix(".keys"), rank, 2, _PAUSE if fault else 0.0)
        if fault and fault.rank == rank:
            _from_inside(fault)
        train(recipe, shards, run)
        code = 0
    except SeerctlError as error:
        code, said = int(error.exit_code), str(error)
    except BaseException as error:  # a bug, which the test is to see
        said = repr(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        run.with_suffix(f".said{rank}").write_text(said)
        os._exit(code)


def _from_inside(fault: Fault) -> None:
    """Faults that a rank brings about itself, at its step."""
    forward_backward = Trainer.forward_backward

    def broken(self: Trainer, batch: CropBatch) -> Any:
        if batch.step == fault.step and fault.kind == "nan":
            batch.crops[0][0] = float("nan")
        if batch.step == fault.step and fault.kind == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        if batch.step >= fault.step and fault.kind == "slow":
            _work(SLOW)
        return forward_backward(self, batch)

    Trainer.forward_backward = broken  # type: ignore[method-assign]


def _work(seconds: float) -> None:
    """Keep this thread busy for so much of its processor's time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def inject(fault: Fault, processes: list[int], run: Path, hosts: Hosts) -> None:
    """Faults that come from outside, once the rank has begun its step."""
    _until(lambda: any((note["rank"], note["step"]) == (fault.rank, fault.step) for note in seen(run)))
    if fault.kind in ("cut", "gone"):
        hosts.cut()
    if number := _SIGNALS.get(fault.kind):
        os.kill(processes[fault.rank], number)


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not done():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def _end(processes: list[int], stopped: int | None) -> list[int]:
    """Exit codes; a process that was stopped is killed when the others have ended."""
    codes: dict[int, int] = {}

    def ended() -> bool:
        for process in processes:
            if process not in codes and (found := os.waitpid(process, os.WNOHANG))[0]:
                codes[process] = os.waitstatus_to_exitcode(found[1])
        return all(process in codes or process == stopped for process in processes)

    _until(ended)
    if stopped is not None:
        os.kill(stopped, signal.SIGKILL)
        _until(lambda: ended() and stopped in codes)
    return [codes[process] for process in processes]


def damage(kind: str, checkpoint: Path) -> None:
    """Break a file of a checkpoint as disks do."""
    path = checkpoint / "__1_0.distcp"
    if kind == "missing":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if kind == "flip" else data[: len(data) // 2])


def hit(shards: Path, run: Path, hosts: Hosts, fault: Fault, port: int) -> dict[str, Any]:
    """One run, hit and started again: what both attempts ended with, said, and saw."""
    recipe = small_recipe("checkpoint.every=1", "checkpoint.keep=3", f"parallel.timeout_minutes={_TIMEOUT}")
    processes = start(recipe, shards, run, hosts, port, fault)
    inject(fault, processes, run, hosts)
    began = time.monotonic()
    codes = _end(processes, processes[fault.rank] if fault.kind == "stall" else None)
    seconds = time.monotonic() - began
    if fault.kind in ("cut", "gone"):
        hosts.mend()
    said = [path.read_text() if path.exists() else "" for path in (run.with_suffix(f".said{rank}") for rank in (0, 1))]
    left = checkpoints(run / "checkpoints")
    if fault.kind in ("flip", "missing", "short"):
        damage(fault.kind, left.pop())
    before = len(seen(run))
    again = _end(start(recipe, shards, run, hosts, port + 1, None), None)
    rows = Metrics(run / "metrics.jsonl").rows()
    return {
        **dataclasses.asdict(fault), "codes": codes, "said": said, "seconds": seconds, "again": again,
        "rows": [row["step"] for row in rows], "slowest": [row["step_seconds_rank"] for row in rows],
        "from": step_of(left[-1]) if left else 0, "before": seen(run)[:before], "after": seen(run)[before:],
    }  # fmt: skip


def main(folder: Path, names: tuple[str, str], seed: int, kinds: list[str]) -> None:
    torch.set_num_threads(1)
    choices, hosts = random.Random(seed), Hosts(names)
    for number, kind in enumerate(kinds):
        fault = Fault(kind, choices.randrange(2), choices.randrange(2, STEPS - 2))
        report = hit(folder / "shards", folder / f"run-{number}", hosts, fault, 20000 + 2 * number)
        with (folder / "faults.jsonl").open("a") as file:
            file.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), (sys.argv[2], sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
