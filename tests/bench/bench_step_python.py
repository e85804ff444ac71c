"""Processor time of a training step in our own Python, operators left out, on one of 496 ranks: 5 ms at most.

The trainer's own loop runs the 10b recipe as rank 0 of a process group whose other 495 members do not exist (torch's
backend "fake"), with tensors that do: channels and crops are narrow, but blocks, parameters, collectives and batch are
as many as in 10b, and so are the lines of Python that a step runs. Its time is what cProfile finds in the frames of
seerctl's files, and in what they call of C that is not torch's. The profiler's own cost is in it, and so are operators
that are written as such (`a * b`), which it does not see as calls. The normalising of BatchNorm is torch's, as on GPUs.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import tempfile
import time
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
WARM, STEPS = 1, 4
OURS = str(Path(seerctl.__file__).parent)
SETTINGS = (
    "model.size=narrow", "model.head=[64, 64, 32]", "model.prototypes=64", "data.workers=1", "run.device=cpu",
    "augment.crops=[{size=32, count=2, scale=[0.14, 1.0]}, {size=16, count=4, scale=[0.05, 0.14]}]",
    "schedule.steps=1000", "checkpoint.background=false",
)  # fmt: skip


class _Enough(Exception):
    pass


class _Torch:
    """In place of our BatchNorm for CPUs: what torch's own does beside it is none of our Python."""

    @staticmethod
    def apply(x: Tensor, weight: Tensor, bias: Tensor, eps: float, _: object) -> tuple[Tensor, None, None, None]:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps), None, None, None


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    narrow = RegNetSize(SIZES["10b"].depths, (16, 24, 32, 64), (8, 8, 8, 8), stem_width=16)
    with (
        mock.patch.dict(SIZES, narrow=narrow), mock.patch.multiple(batchnorm, _Normalise=_Torch),
        mock.patch.object(batchnorm.SyncBatchNorm, "_track"), tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("ignore", FutureWarning)
        profile = _profiled(Path(folder))
    shares = own_seconds(profile)
    total = 1e3 * sum(shares.values()) / STEPS
    most = sorted(shares.items(), key=lambda item: -item[1])[:3]
    listed = ", ".join(f"{name} {1e3 * seconds / STEPS:.2f}" for name, seconds in most)
    return [
        {"name": "step_python", "ours": total, "peer": LIMIT, "ratio": LIMIT / total, "unit": "ms a step",
         "peer_name": "limit", "note": f"one of {RANKS} ranks, {STEPS} steps under cProfile; most in {listed}"}
    ]  # fmt: skip


def _profiled(folder: Path) -> cProfile.Profile:
    """`STEPS` steps of the trainer's loop, after `WARM` others."""
    profile, done = cProfile.Profile(time.thread_time), 0

    def progress(_: int) -> None:
        nonlocal done
        done += 1
        if done == WARM:
            profile.enable()
        elif done == WARM + STEPS:
            profile.disable()
            raise _Enough

    shards_of(folder / "shards", stream_of((data, meta_of(data, f"{n}.png")) for n, data in enumerate(_pictures())))
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    try:
        world = World(size=RANKS, local_size=PER_NODE)
        (folder / "run").mkdir()
        run = RunDirectory(folder / "run")
        trainer = Trainer(load_recipe("10b", SETTINGS), ShardSet.open(folder / "shards"), run, world, progress=progress)
        trainer.fit()
    except _Enough:
        return profile
    finally:
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
    for (file, _, name), (_, _, seconds, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if file.startswith(OURS):
            found[name] = found.get(name, 0.0) + seconds
        elif file == "~" and "torch" not in name:
            for caller, times in callers.items():
                if caller[0].startswith(OURS):
                    found[caller[2]] = found.get(caller[2], 0.0) + times[2]
    return found
