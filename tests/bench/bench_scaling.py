"""Weak scaling from one process to two, a core each and the same batch a process: images a second, and what they cost.

One process and two train in turn, a block of steps at a time, each in the trainer's own loop; all figures are those of
their metrics.jsonl. What a rank's thread neither runs nor is ready to run for (`step_seconds`) it waits for the other.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

BATCH, STEPS, ROUNDS = 32, 6, 5
REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = (
    "data.workers=0", "run.device=cpu", f"run.log_every={STEPS}", "schedule.steps=1000000",
    "augment.crops=[{size=64, count=2, scale=[0.14, 1.0]}, {size=32, count=4, scale=[0.05, 0.14]}]",
)  # fmt: skip


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        _make_shards(folder)
        groups = [_started(folder, ranks, stack) for ranks in (1, 2)]
        for _ in range(ROUNDS + 1):  # the first warms up
            for group in groups:
                _turn(group)
        one, two = (_figures(folder / f"run-{ranks}" / "metrics.jsonl", ranks) for ranks in (1, 2))
    efficiency = two["rate"] / (2 * one["rate"])
    note = f"weak scaling on 2 cores, {BATCH} images a process; 2: " + "; 1: ".join(
        f"{100 * found['data']:.0f} % data, {100 * found['waiting']:.0f} % communication" for found in (two, one)
    )
    return [
        {"name": "scaling", "ours": two["rate"], "peer": 2 * one["rate"], "ratio": efficiency, "unit": "images/s",
         "peer_name": "twice one process", "note": note}
    ]  # fmt: skip


def _make_shards(folder: Path) -> None:
    from seerctl.cli import run as seerctl
    from tests.bench.bench_multicrop import jpegs

    (folder / "pictures").mkdir()
    for number, data in enumerate(jpegs()):
        (folder / "pictures" / f"{number}.jpg").write_bytes(data)
    assert seerctl(["-q", "ingest", str(folder / "pictures"), "-o", str(folder / "stream.tar")]) == 0
    assert seerctl(["-q", "shard", str(folder / "stream.tar"), "-o", str(folder / "shards")]) == 0


def _started(folder: Path, ranks: int, stack: ExitStack) -> list[subprocess.Popen[str]]:
    """The processes of a run, each on a core of its own where there are two; they wait for `_turn`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = []
    for rank in range(ranks):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks,
                  "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if ranks > 1 else {}  # fmt: skip
        environment = {**os.environ, **{name: str(value) for name, value in places.items()}, "OMP_NUM_THREADS": "1",
                       "PYTHONPATH": str(REPOSITORY)}  # fmt: skip
        command = [sys.executable, __file__, str(folder), str(ranks)]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(process.wait)
        stack.callback(process.kill)
        processes.append(process)
    return processes


def _turn(group: Sequence[subprocess.Popen[str]]) -> None:
    """Let the processes of a run train for one metrics row."""
    for process in group:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in group:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n", "a process broke down"


def _figures(metrics: Path, ranks: int) -> dict[str, float]:
    """Images a second, and shares of the time for data and for waiting in collectives: medians of the rows."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()][1:]
    steps = [ranks * BATCH / row["images_per_second"] for row in rows]
    return {
        "rate": statistics.median(row["images_per_second"] for row in rows),
        "data": statistics.median(row["data_wait"] for row in rows),
        "waiting": statistics.median(
            max(0.0, 1 - row["step_seconds"] / seconds) for row, seconds in zip(rows, steps, strict=True)
        ),
    }


def _train(folder: Path, ranks: int) -> None:
    """One process of a run: it trains for a metrics row whenever a line comes in."""
    import torch

    from seerctl.recipe import load_recipe
    from seerctl.shards.index import ShardSet
    from seerctl.train.clock import Clock
    from seerctl.train.data import CropBatch
    from seerctl.train.run import RunDirectory
    from seerctl.train.trainer import Trainer
    from seerctl.train.world import join

    class InTurns(Trainer):
        def wait(self) -> None:
            if not sys.stdin.readline():
                raise SystemExit
            self._clock = Clock(time.perf_counter(), met=self._busy())

        def _batches(self) -> Iterator[CropBatch]:
            self.wait()
            return super()._batches()

        def _write_metrics(self, batch: CropBatch, found: dict[str, torch.Tensor]) -> None:
            super()._write_metrics(batch, found)
            sys.stdout.write("done\n")
            sys.stdout.flush()
            self.wait()

    torch.set_num_threads(1)
    recipe = load_recipe("nano", [*SETTINGS, f"data.batch={ranks * BATCH}"])
    run = RunDirectory(folder / f"run-{ranks}")
    run.path.mkdir(exist_ok=True)
    with join("cpu", 30) as world:
        trainer = InTurns(recipe, ShardSet.open(folder / "shards"), run, world)
        trainer.fit()


if __name__ == "__main__":
    _train(Path(sys.argv[1]), int(sys.argv[2]))
