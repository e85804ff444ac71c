"""Training that is killed again and again: `python kills.py FOLDER STEPS KILLS SEED` -> FOLDER/kills.json.

Attempts are forks of this process, which has imported everything, so that a start takes no seconds. Each goes on where
the one before was killed, with 1 or 2 ranks and 0 to 4 loader processes, and notes the keys of every step it begins.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seerctl.errors import SeerctlError
from seerctl.recipe import Recipe
from seerctl.train.checkpoint import checkpoints, step_of
from seerctl.train.metrics import Metrics
from seerctl.train.start import train
from tests.distributed.noted import note_keys
from tests.training import small_recipe

_PATIENCE = 60.0  # seconds in which an attempt has to get on


Progress = Callable[[int], None]


def attempt(recipe: Recipe, shards: Path, run: Path, ranks: int, progress: Progress | None = None) -> list[int]:
    """Start `ranks` processes that train, and return their ids."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return [_child(recipe, shards, run, rank, ranks, port, progress) for rank in range(ranks)]


def _child(
    recipe: Recipe, shards: Path, run: Path, rank: int, ranks: int, port: int, progress: Progress | None
) -> int:  # fmt: skip
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        if ranks > 1:
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks,
                      "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
            os.environ |= {name: str(value) for name, value in places.items()}
        note_keys(run.with_suffix(".keys"), rank, ranks)
        train(recipe, shards, run, progress=progress)
        code = 0
    except SeerctlError as error:
        code = int(error.exit_code)
        print(error, file=sys.stderr)
    finally:
        os._exit(code)


def seen(run: Path) -> list[dict[str, Any]]:
    """What the attempts of a run noted; a line that a kill tore is left out."""
    path, found = run.with_suffix(".keys"), []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def share(keys: list[str], note: dict[str, Any]) -> list[str]:
    """What of a step's keys the rank of a note has to see."""
    count = len(keys) // note["ranks"]
    return keys[note["rank"] * count : (note["rank"] + 1) * count]


def killed_run(shards: Path, run: Path, steps: int, kills: int, choices: random.Random, most_ranks: int) -> int:
    """One run to its end, with up to `kills` kills on its way: how many there were."""
    done = 0
    while True:
        ranks, workers = choices.randint(1, most_ranks), choices.randint(0, 4)
        recipe = small_recipe(f"schedule.steps={steps}", "checkpoint.every=1", f"data.workers={workers}")
        processes = attempt(recipe, shards, run, ranks)
        if done < kills and _wait(run, processes, _newest(run) + choices.randint(0, 2), choices.uniform(0, 0.3)):
            done += 1
            for process in processes:
                os.kill(process, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        if codes == [0] * ranks:
            return done
        unexpected = {code for code in codes if code not in (0, 7, -signal.SIGKILL)}
        assert not unexpected, unexpected  # 7: the killed one's lock is not free yet, or a peer is gone
        time.sleep(0.05)


def _newest(run: Path) -> int:
    return max((step_of(path) for path in checkpoints(run / "checkpoints")), default=0)


def _wait(run: Path, processes: list[int], step: int, more: float) -> bool:
    """Wait until there is a checkpoint of `step`, then `more` seconds; whether all processes still live."""
    deadline = time.monotonic() + _PATIENCE
    while _newest(run) < step and time.monotonic() < deadline:
        if any(os.waitid(os.P_PID, one, os.WEXITED | os.WNOHANG | os.WNOWAIT) for one in processes):
            return False
        time.sleep(0.005)
    time.sleep(more)
    return not any(os.waitid(os.P_PID, one, os.WEXITED | os.WNOHANG | os.WNOWAIT) for one in processes)


def main(folder: Path, steps: int, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    choices, shards = random.Random(seed), folder / "shards"
    killed_run(shards, folder / "whole", steps, 0, choices, 1)
    report: dict[str, Any] = {"whole": _facts(folder / "whole", 0), "same": [], "mixed": []}
    for kind, most_ranks in (("same", 1), ("mixed", 2)):
        left = kills // 2 if kind == "same" else kills - kills // 2
        while left > 0:
            run = folder / f"{kind}-{left}"
            done = killed_run(shards, run, steps, left, choices, most_ranks)
            report[kind].append(_facts(run, done))
            left -= max(done, 1)
    (folder / "kills.json").write_text(json.dumps(report))


def _facts(run: Path, done: int) -> dict[str, Any]:
    losses = [row["loss"] for row in Metrics(run / "metrics.jsonl").rows()]
    return {"kills": done, "losses": losses, "seen": seen(run)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
