"""What `seerctl pretrain` calls on every rank: join the others, claim the run directory, train."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch.distributed as dist

from seerctl.errors import EnvironmentFault, InputError, UsageError
from seerctl.model.load import size_in
from seerctl.model.sizes import SIZES, name_of
from seerctl.predictions import write_lineage
from seerctl.recipe import FROM_INIT, Recipe
from seerctl.shards.index import ShardSet
from seerctl.shards.lock import write_lock
from seerctl.shards.remote.options import caching
from seerctl.train.board import check_installed
from seerctl.train.checkpoint import checkpoints, step_of
from seerctl.train.compiling import check_compiler
from seerctl.train.estimate import check_fits, checkpoint_bytes, estimate
from seerctl.train.knn import OnlineKnn
from seerctl.train.labels import Labels, labels_for
from seerctl.train.objectives import accumulation
from seerctl.train.predict import Prediction, Predictor
from seerctl.train.preflight import check_nodes, check_readable, check_room, check_shared
from seerctl.train.run import RunDirectory
from seerctl.train.steps import check_batch, total_steps
from seerctl.train.trainer import Trainer
from seerctl.train.world import World, join
from seerctl.weighting import Sampling, load_sampling


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished call of `train` did: updates from `start` to `steps`, images and seconds of this call.

    `predicted`: what the predictions amount to, where they were asked for.
    """

    start: int
    steps: int
    images: int
    seconds: float
    weights: Path
    predicted: Prediction | None = None


def train(
    recipe: Recipe,
    data: str | Path,
    output: Path,
    *,
    init: Path | None = None,
    progress: Callable[[int], None] | None = None,
    predict: Path | None = None,
    predictions: Path | None = None,
    knn: Sequence[Path] = (),
) -> Summary:
    """Train `recipe` on the shard set `data` into the run directory `output`, or go on with the run in it.

    Under torchrun every rank calls this; alone it is the whole run. `progress` hears the images of each step. A
    supervised run that is done writes what it says of the shard set `predict` to the table `predictions`. `knn`: the
    labelled sets of `OnlineKnn.of`.

    Raises:
        UsageError: the directory holds another run, the batch does not divide over the ranks, `data.weights` is not
            of this set, or the labels are not what the recipe learns from.
        GateFailed: the state does not fit into memory.
        InputError: `data` or `init` is missing, damaged or of another size.
        EnvironmentFault: the directory cannot be written, another process writes there, a rank was lost, or
            parallel.compile has no compiler.
        Saved, Diverged: see `Trainer.fit`.
    """
    recipe = sized(recipe, init)
    run = RunDirectory(output)
    if recipe.watch.tensorboard:
        check_installed()
    with (
        caching(recipe.data.cache, recipe.data.cache_size),
        join(recipe.run.device, recipe.parallel.timeout_minutes) as world,
        _lost_ranks(world),
        contextlib.ExitStack() as stack,
    ):
        if not world.first:
            logging.getLogger("seerctl").setLevel(logging.ERROR)
        check_batch(recipe.data.batch, world.size, recipe.parallel.accumulate)
        if recipe.parallel.compile:
            world.on_all(lambda: check_compiler(world.device))
        given = _read(recipe, data, world, predict, predictions, knn)
        _settle(recipe, run, world, given, init, stack)
        trainer = Trainer(
            recipe, given.shards, run, world, init=init, progress=progress, sampling=given.sampling,
            labels=given.labels, knn=given.neighbours,
        )  # fmt: skip
        _tell(recipe, given.labels)
        start, began = trainer.step, time.monotonic()
        trainer.fit()
        images, seconds = (trainer.step - start) * recipe.data.batch, time.monotonic() - began
        predictor = given.predictor
        predicted = predictor.write(trainer.model, world) if predictor else None
        if predictor:
            world.on_first(lambda: write_lineage(predictor.path, "pretrain", predictor.made_from(run.weights)))
        return Summary(start, trainer.step, images, seconds, run.weights, predicted)


@dataclass(frozen=True, slots=True)
class _Given:
    """What a run reads before it trains."""

    shards: ShardSet
    sampling: Sampling | None
    labels: Labels | None
    predictor: Predictor | None
    neighbours: OnlineKnn | None

    @property
    def classes(self) -> int:
        """Of a supervised run, else 0."""
        return len(self.labels.classes) if self.labels else 0


def _read(
    recipe: Recipe, data: str | Path, world: World, predict: Path | None, predictions: Path | None, knn: Sequence[Path]
) -> _Given:
    """The data of a run, the same on all nodes."""
    shards = world.on_all(lambda: ShardSet.open(data))
    check_nodes(world, recipe, shards.sha256)
    check_readable(world, shards)
    weights = recipe.data.weights
    sampling = world.on_all(lambda: load_sampling(shards, weights)) if weights else None
    labels = world.on_first(lambda: labels_for(recipe, shards))
    predictor = world.on_first(lambda: Predictor.of(recipe, labels, predict, predictions))
    neighbours = world.on_first(lambda: OnlineKnn.of(recipe, knn))
    return _Given(shards, sampling, labels, predictor, neighbours)


def _settle(
    recipe: Recipe, run: RunDirectory, world: World, given: _Given, init: Path | None, stack: contextlib.ExitStack
) -> None:
    """Make sure of memory, take the run directory until `stack` closes, and make sure of its room."""
    check_fits(recipe, world, given.classes)
    world.on_first(lambda: stack.enter_context(_claimed(run)))
    world.on_first(lambda: run.prepare(recipe, given.shards, given.sampling, given.labels, init))
    check_shared(world, run.recipe)
    alone = estimate(recipe, 1, 1, given.classes)
    check_room(world, run.path, checkpoint_bytes(recipe, alone.trunk + alone.head))


def _tell(recipe: Recipe, labels: Labels | None) -> None:
    if recipe.parallel.accumulate > 1:
        logging.getLogger("seerctl").warning("%s", accumulation(recipe))
    if labels and len(labels) < labels.total:
        logging.getLogger("seerctl").info("%s", _seen(labels))


def sized(recipe: Recipe, init: Path | None) -> Recipe:
    """`recipe` with the size of the weights in `init`, where it says model.size = "init".

    Raises:
        UsageError: it does, and there is no `init`.
        InputError: `init` is missing or damaged, or of a size without a name.
    """
    if recipe.model.size != FROM_INIT:
        return recipe
    if init is None:
        raise UsageError('model.size is "init": the size of the weights to start from, and there are none',
                         "Pass --init WEIGHTS, or --set model.size=NAME")  # fmt: skip
    name = name_of(size_in(init))
    if name not in SIZES:
        raise InputError(f"{init}: a trunk of no named size ({name})", "Sizes by name: " + ", ".join(SIZES))
    return replace(recipe, model=replace(recipe.model, size=name))


def _seen(labels: Labels) -> str:
    without = f", {labels.unlabelled:,} have no '{labels.target}'" if labels.unlabelled else ""
    share = f" ({100 * labels.fraction:g} % of each class)" if labels.fraction < 1 else ""
    return f"learning from {len(labels):,} of {labels.total:,} samples{share}{without}"


def images_to_go(recipe: Recipe, data: str | Path, output: Path) -> int:
    """Images that `train` has before it, for a progress bar; of ranks other than the first, which show none, 0."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    done = checkpoints(RunDirectory(output).checkpoints)
    with caching(recipe.data.cache, recipe.data.cache_size):
        shards = ShardSet.open(data)
        labels = labels_for(recipe, shards)
    steps = total_steps(recipe, len(shards) if labels is None else len(labels)) - (step_of(done[-1]) if done else 0)
    return max(0, steps) * recipe.data.batch


@contextlib.contextmanager
def _claimed(run: RunDirectory) -> Iterator[None]:
    run.make()
    with write_lock(run.path):
        yield


@contextlib.contextmanager
def _lost_ranks(world: World) -> Iterator[None]:
    """Say in one line which other rank is gone; itself, where it still could, it said why."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        if world.size == 1 or not lost:
            raise
        missing = world.roll.missing() if world.roll else ""
        raise EnvironmentFault(
            f"rank {world.rank} of {world.size} lost {missing or 'the others'} ({str(error).splitlines()[0]})",
            "Start again to go on from the newest checkpoint",
        ) from error
