"""From a shard set to crops: the reading plan's steps, decoded and augmented in loader workers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from seerctl.augment.decode import DecodeError, Pixels, to_rgb
from seerctl.augment.device import finish
from seerctl.augment.multicrop import MultiCrop
from seerctl.errors import InputError, SeerctlError
from seerctl.recipe import Recipe
from seerctl.shards.index import Sample
from seerctl.shards.pipeline import StepBatch, pipeline
from seerctl.shards.subset import Samples
from seerctl.train.labels import Labels, class_of
from seerctl.train.world import Fault, World, portable, rebuilt

_PATIENCE = 16  # damaged samples in a row that are passed over


@dataclass(slots=True)
class CropBatch:
    """One rank's part of a step: per kind of crop a float32 tensor (count * B, 3, S, S), crop-major.

    With `augment.mode = "device"` the crops are uint8, and `colors` has per kind what `on` finishes them by.
    `labels` (B,) int64 codes into the classes, of a supervised run. `damaged`: what was to come and could not be
    decoded, as (key, reason); `keys` has what came instead.

    `fault` stands for crops when reading failed: (class, message, hint), as a worker process cannot raise here.
    """

    step: int
    epoch: int
    keys: list[str]
    crops: list[Tensor]
    labels: Tensor | None = None
    damaged: list[tuple[str, str]] = field(default_factory=list)
    fault: Fault | None = None
    colors: list[Tensor] = field(default_factory=list)

    def on(self, device: torch.device, *, channels_last: bool = True) -> tuple[list[Tensor], Tensor | None]:
        """Finished crops, float32, and labels, on `device`."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        crops = [kind.to(device, non_blocking=True, memory_format=layout) for kind in self.crops]
        if self.colors:
            pairs = zip(crops, self.colors, strict=True)
            crops = [finish(*pair).contiguous(memory_format=layout) for pair in pairs]
        return crops, None if self.labels is None else self.labels.to(device, non_blocking=True)

    def pin_memory(self) -> CropBatch:
        """The same in page-locked memory (called by the DataLoader for GPUs)."""
        self.crops = [kind.pin_memory() for kind in self.crops]
        self.labels = None if self.labels is None else self.labels.pin_memory()
        return self


class Views:
    """The pipeline stage that turns samples into crops; views depend on (seed, epoch, sample, copy) alone."""

    def __init__(self, recipe: Recipe, shards: Samples, labels: Labels | None = None) -> None:
        self.multicrop = MultiCrop(recipe.augment, recipe.run.seed)
        self.shards, self.location, self.samples = shards, shards.location, len(shards)
        self.target = "" if labels is None else labels.target
        self.codes = {} if labels is None else {name: code for code, name in enumerate(labels.classes)}

    def __call__(self, batches: Iterable[StepBatch]) -> Iterator[CropBatch]:
        """Crops of every batch; after a fault, one last batch that carries it."""
        try:
            for batch in batches:
                yield self.crops(batch)
        except SeerctlError as error:
            yield CropBatch(-1, -1, [], [], fault=portable(error))

    def crops(self, batch: StepBatch) -> CropBatch:
        """Decode and augment one batch.

        Raises:
            InputError: a sample that cannot be decoded, or whose label is none of the classes; the message names it.
        """
        damaged: list[tuple[str, str]] = []
        pairs = list(zip(batch.samples, batch.indices.tolist(), strict=True))
        samples, images = zip(*(self.picture(sample, index, damaged) for sample, index in pairs), strict=True)
        draws = batch.indices + self.samples * batch.copies  # a sample that comes twice is seen in two ways
        crops, colors = self.multicrop.halves(images, draws, batch.epochs)
        labels = torch.tensor([self.label(sample) for sample in samples]) if self.target else None
        keys = [sample.key for sample in samples]
        return CropBatch(batch.step, int(batch.epochs[0]), keys, crops, labels, damaged, colors=colors)

    def picture(self, sample: Sample, index: int, damaged: list[tuple[str, str]]) -> tuple[Sample, Pixels]:
        """`sample`, which stands at `index`, decoded; or the first after it that can be, which no rank decides.

        Raises:
            InputError: `_PATIENCE` of them in a row cannot.
        """
        reason = ""
        for place in range(index, index + _PATIENCE):
            taken = sample if place == index else self.shards.read(place % self.samples)
            try:
                return taken, to_rgb(taken.image)
            except DecodeError as error:
                reason = reason or str(error)
                damaged.append((taken.key, str(error)))
        raise InputError(
            f"{self.location}: sample {sample.key} cannot be decoded ({reason}), nor can the {_PATIENCE - 1} after it",
            "Write the set again from 'seerctl ingest --check decode'",
        )

    def label(self, sample: Sample) -> int:
        """The code of a sample's class.

        Raises:
            InputError: it is none of the classes.
        """
        name = class_of((sample.meta.get("columns") or {}).get(self.target))
        if name not in self.codes:
            raise InputError(
                f"{self.location}: the '{self.target}' of sample {sample.key} is '{name}', not in the index",
                "Run 'seerctl inspect DIR --verify'",
            )  # fmt: skip
        return self.codes[name]


def loader(
    shards: Samples,
    recipe: Recipe,
    world: World,
    start: int,
    stop: int,
    weights: npt.NDArray[np.float64] | None = None,
    labels: Labels | None = None,
) -> Iterator[CropBatch]:
    """The crops of steps [start, stop) for this rank, in order, made ahead by `data.workers` processes.

    `weights` (N,): how often each sample is to come, in the order of `shards`; without them once an epoch. `labels`:
    what the batches' labels are codes of.

    Raises:
        SeerctlError: what went wrong while reading, as a worker met it.
    """
    stages = [Views(recipe, shards, labels)]
    steps = pipeline(
        shards,
        batch=recipe.data.batch,
        seed=recipe.run.seed,
        start=start,
        stop=stop,
        rank=world.rank,
        world=world.size,
        neighbours=(world.rank - world.local_rank, world.local_size),
        stages=stages,
        weights=weights,
    )
    workers = min(worker_count(recipe, world), max(stop - start, 0))
    options: dict[str, Any] = {"worker_init_fn": _quiet_worker, "prefetch_factor": 2} if workers else {}
    batches = DataLoader(steps, batch_size=None, num_workers=workers, pin_memory=world.device.type == "cuda", **options)
    for batch in batches:
        if batch.fault is not None:
            raise rebuilt(batch.fault)
        yield batch


def worker_count(recipe: Recipe, world: World) -> int:
    """Loader processes of this rank: as the recipe says, or its share of the cores."""
    if recipe.data.workers == "auto":
        return max(1, len(os.sched_getaffinity(0)) // world.local_size)
    return recipe.data.workers


def _quiet_worker(_: int) -> None:
    # Signals of a terminal or a scheduler reach workers too: they go on until the trainer has saved and closes them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        # Linux: end with a trainer that is killed, or its lock on the run directory would live on in this process.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    torch.set_num_threads(1)
