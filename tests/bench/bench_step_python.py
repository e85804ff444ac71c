"""Time of a training step in our own Python, operators left out, on one of 496 ranks: 5 ms at most.

The trainer's own loop runs the 10b recipe as rank 0 of a process group whose other 495 members do not exist (torch's
backend "fake"), with tensors that do: channels and crops are narrow, but blocks, parameters, collectives and batch are
as many as in 10b, and so are the lines of Python that a step runs. Its time is what cProfile finds in the frames of
seerctl's files, and in what they call of C that is not torch's; the least of all steps, since other processes may come
in between. The profiler's own cost is in it, and so are operators that are written as such (`a * b`), which it does not
see as calls; the garbage collector is not, which strikes anywhere. BatchNorm's normalising is torch's, as on GPUs.
"""

from __future__ import annotations

import cProfile
import gc
import io
import pstats
import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

import seerctl
from seerctl.model import batchnorm
from seerctl.model.sizes import SIZES, RegNetSize
from seerctl.recipe import load_recipe
from seerctl.shards.index import ShardSet
from seerctl.train.run import RunDirectory
from seerctl.train.trainer import Trainer
from seerctl.train.world import World
from tests.pictures import draw
from tests.streams import meta_of, shards_of, stream_of

RANKS, PER_NODE, LIMIT = 496, 8, 5.0
WARM, STEPS = 1, 5
OURS = str(Path(seerctl.__file__).parent)
SETTINGS = (
    "model.size=narrow", "model.head=[64, 64, 32]", "model.prototypes=64", "data.workers=1", "run.device=cpu",
    "augment.crops=[{size=32, count=2, scale=[0.14, 1.0]}, {size=16, count=4, scale=[0.05, 0.14]}]",
    "schedule.steps=1000", "checkpoint.background=false",
)  # fmt: skip


class _Enough(Exception):
    pass


def _normalised(norm: batchnorm.SyncBatchNorm, x: Tensor) -> Tensor:
    """In place of our BatchNorm for CPUs: torch's."""
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    narrow = RegNetSize(SIZES["10b"].depths, (16, 24, 32, 64), (8, 8, 8, 8), stem_width=16)
    with (
        mock.patch.dict(SIZES, narrow=narrow), mock.patch.object(batchnorm.SyncBatchNorm, "_on_cpu", _normalised),
        tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("ignore", FutureWarning)
        shares = min(map(own_seconds, _profiled(Path(folder))), key=lambda step: sum(step.values()))
    total = 1e3 * sum(shares.values())
    most = sorted(shares.items(), key=lambda item: -item[1])[:3]
    listed = ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in most)
    return [
        {"name": "step_python", "ours": total, "peer": LIMIT, "ratio": LIMIT / total, "unit": "ms a step",
         "peer_name": "limit", "note": f"one of {RANKS} ranks, least of {STEPS} steps under cProfile; most in {listed}"}
    ]  # fmt: skip


def _profiled(folder: Path) -> list[cProfile.Profile]:
    """`STEPS` steps of the trainer's loop, after `WARM` others."""
    profiles = [cProfile.Profile() for _ in range(WARM + STEPS)]
    left = list(profiles)

    def progress(_: int) -> None:
        left.pop(0).disable()
        if not left:
            raise _Enough
        left[0].enable()

    shards_of(folder / "shards", stream_of((data, meta_of(data, f"{n}.png")) for n, data in enumerate(_pictures())))
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    try:
        world = World(size=RANKS, local_size=PER_NODE)
        (folder / "run").mkdir()
        run = RunDirectory(folder / "run")
        trainer = Trainer(load_recipe("10b", SETTINGS), ShardSet.open(folder / "shards"), run, world, progress=progress)
        gc.disable()
        profiles[0].enable()
        trainer.fit()
    except _Enough:
        return profiles[WARM:]
    finally:
        gc.enable()
        dist.destroy_process_group()
    raise AssertionError("the run ended before it was measured")


def _pictures() -> list[bytes]:
    files = [io.BytesIO() for _ in range(64)]
    for number, file in enumerate(files):
        draw(number, 48, 40).save(file, "PNG")
    return [file.getvalue() for file in files]


def own_seconds(profile: cProfile.Profile) -> dict[str, float]:
    """Seconds of `profile` by function of ours: of its own lines, and of C functions, not torch's, called by them."""
    found: dict[str, float] = {}
    for (file, line, name), (_, _, seconds, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if file.startswith(OURS):
            place = f"{Path(file).name}:{line}({name})"
            found[place] = found.get(place, 0.0) + seconds
        elif file == "~" and "torch" not in name:
            for caller, times in callers.items():
                if caller[0].startswith(OURS):
                    place = f"{Path(caller[0]).name}:{caller[1]}({caller[2]})"
                    found[place] = found.get(place, 0.0) + times[2]
    return found
