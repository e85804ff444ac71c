"""What `seerctl pretrain` calls on every rank: join the others, claim the run directory, train."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from seerctl.errors import EnvironmentFault
from seerctl.recipe import Recipe
from seerctl.shards.index import ShardSet
from seerctl.shards.lock import write_lock
from seerctl.train.checkpoint import checkpoints, step_of
from seerctl.train.estimate import check_fits
from seerctl.train.run import RunDirectory
from seerctl.train.steps import check_batch, total_steps
from seerctl.train.trainer import Trainer
from seerctl.train.world import World, join
from seerctl.weighting import load_sampling


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished call of `train` did: updates from `start` to `steps`, images and seconds of this call."""

    start: int
    steps: int
    images: int
    seconds: float
    weights: Path


def train(
    recipe: Recipe,
    data: str | Path,
    output: Path,
    *,
    init: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Train `recipe` on the shard set `data` into the run directory `output`, or go on with the run in it.

    Under torchrun every rank calls this; alone it is the whole run. `progress` hears the images of each step.

    Raises:
        UsageError: the directory holds another run, the batch does not divide over the ranks, or `data.weights` is not
            of this set.
        GateFailed: the state does not fit into memory.
        InputError: `data` or `init` is missing, damaged or of another size.
        EnvironmentFault: the directory cannot be written, another process writes there, or a rank was lost.
        Saved, Diverged: see `Trainer.fit`.
    """
    shards, run = ShardSet.open(data), RunDirectory(output)
    sampling = load_sampling(shards, recipe.data.weights) if recipe.data.weights else None
    with (
        join(recipe.run.device, recipe.parallel.timeout_minutes) as world,
        _lost_ranks(world),
        contextlib.ExitStack() as stack,
    ):
        if not world.first:
            logging.getLogger("seerctl").setLevel(logging.ERROR)
        check_batch(recipe.data.batch, world.size, recipe.parallel.accumulate)
        check_fits(recipe, world)
        world.on_first(lambda: stack.enter_context(_claimed(run)))
        world.on_first(lambda: run.prepare(recipe, shards, sampling))
        trainer = Trainer(recipe, shards, run, world, init=init, progress=progress, sampling=sampling)
        if recipe.parallel.accumulate > 1:
            logging.getLogger("seerctl").warning("%s", _accumulation(recipe))
        start, began = trainer.step, time.monotonic()
        trainer.fit()
        images = (trainer.step - start) * recipe.data.batch
        return Summary(start, trainer.step, images, time.monotonic() - began, run.weights)


def _accumulation(recipe: Recipe) -> str:
    codes = {"micro": "each micro-batch alone", "batch": "a pass over the whole batch"}
    return (
        f"{recipe.parallel.accumulate} micro-batches a step are another objective than one batch: BatchNorm sees a "
        f"micro-batch, codes come from {codes[recipe.parallel.accumulated_codes]}"
    )


def images_to_go(recipe: Recipe, data: str | Path, output: Path) -> int:
    """Images that `train` has before it, for a progress bar."""
    done = checkpoints(RunDirectory(output).checkpoints)
    steps = total_steps(recipe, len(ShardSet.open(data))) - (step_of(done[-1]) if done else 0)
    return max(0, steps) * recipe.data.batch


@contextlib.contextmanager
def _claimed(run: RunDirectory) -> Iterator[None]:
    run.make()
    with write_lock(run.path):
        yield


@contextlib.contextmanager
def _lost_ranks(world: World) -> Iterator[None]:
    """Say that another rank is gone in one line; its own rank, where it still could, said why."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        if world.size == 1 or not lost:
            raise
        raise EnvironmentFault(
            f"rank {world.rank} of {world.size} lost the others ({str(error).splitlines()[0]})",
            "Start again to go on from the newest checkpoint",
        ) from error
