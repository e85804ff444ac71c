"""What training and extraction consume: a `webdataset.DataPipeline` over the reading plan.

Users add stages of their own (`stages=[...]`, or `.append(...)` on the result); each gets an iterator of `StepBatch`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset, get_worker_info
from webdataset import DataPipeline

from seerctl.errors import InputError
from seerctl.shards.index import Sample, ShardSet
from seerctl.shards.plan import ReadingPlan


@dataclass(slots=True)
class StepBatch:
    """One rank's part of a global step: `epochs` and `indices` are int64 (batch // world,), parallel to `samples`."""

    step: int
    epochs: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    samples: list[Sample]


@dataclass(frozen=True, slots=True)
class Slice:
    """Which part of a run is read here: steps [start, stop) of global size `batch`, rank `rank` of `world`."""

    batch: int
    start: int = 0
    stop: int | None = None
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.world < 1 or self.batch % self.world:
            raise ValueError(f"the batch size {self.batch} must be a positive multiple of the world size {self.world}")
        if not 0 <= self.rank < self.world or self.start < 0:
            raise ValueError(f"rank {self.rank} of {self.world}, start {self.start}")

    @property
    def places(self) -> slice:
        """This rank's places in a step."""
        share = self.batch // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def steps(self, worker: int, workers: int) -> Iterable[int]:
        """The steps that worker `worker` of `workers` reads."""
        if self.stop is None:
            return itertools.count(self.start + worker, workers)
        return range(self.start + worker, self.stop, workers)


class Steps(IterableDataset[StepBatch]):
    """The first stage: reads this rank's slice of every step, dealt over the workers of a DataLoader.

    Worker w of W takes the steps with (step - start) % W == w: a DataLoader asks its workers in turn, so steps arrive
    in order whatever W is.
    """

    def __init__(self, shards: ShardSet, plan: ReadingPlan, part: Slice) -> None:
        self.shards, self.plan, self.part = shards, plan, part

    def read(self, step: int) -> StepBatch:
        """This rank's part of `step`."""
        epochs, indices = self.plan.step(step, self.part.batch)
        epochs, indices = epochs[self.part.places], indices[self.part.places]
        # Read in the order of the disk, hand over in the order of the plan.
        read = {index: self.shards.read(index) for index in np.unique(indices).tolist()}
        return StepBatch(step, epochs, indices, [read[index] for index in indices.tolist()])

    def __iter__(self) -> Iterator[StepBatch]:
        worker = get_worker_info()
        return map(self.read, self.part.steps(worker.id, worker.num_workers) if worker else self.part.steps(0, 1))

    def close(self) -> None:
        """Close the shard files (called by `DataPipeline.close`)."""
        self.shards.close()


def pipeline(
    shards: ShardSet,
    *,
    batch: int,
    seed: int,
    start: int = 0,
    stop: int | None = None,
    rank: int = 0,
    world: int = 1,
    stages: Sequence[Callable[..., Any]] = (),
) -> DataPipeline:
    """Steps [start, stop) of global batch size `batch`, this rank's contiguous slice of each, then the user's stages.

    Endless without `stop`. In a `DataLoader(..., batch_size=None, num_workers=any)` the steps come in the same order.

    Raises:
        InputError: the set is empty; while iterating: a damaged or missing shard.
        ValueError: `batch` is not a positive multiple of `world`.
    """
    part = Slice(batch, start, stop, rank, world)
    if not len(shards):
        raise InputError(f"{shards.location}: the shard set is empty", "Choose another split or larger shares")
    plan = ReadingPlan(len(shards), shards.sha256, seed)
    return DataPipeline(Steps(shards, plan, part), *stages)
