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
from seerctl.shards.index import Sample
from seerctl.shards.plan import ReadingPlan, WeightedPlan
from seerctl.shards.subset import Samples


@dataclass(slots=True)
class StepBatch:
    """One rank's part of a global step: `epochs`, `indices` and `copies` are int64 (batch // world,), as `samples`.

    `copies` counts how often the sample came before in the same epoch: 0 but where samples are drawn by weights.
    """

    step: int
    epochs: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    copies: npt.NDArray[np.int64]
    samples: list[Sample]


@dataclass(frozen=True, slots=True)
class Slice:
    """Which part of a run is read here: steps [start, stop) of global size `batch`, rank `rank` of `world`.

    `neighbours`: the first and the number of the ranks on this machine; None: this one alone.
    """

    batch: int
    start: int = 0
    stop: int | None = None
    rank: int = 0
    world: int = 1
    neighbours: tuple[int, int] | None = None

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

    @property
    def places_here(self) -> slice:
        """The places of all ranks on this machine."""
        share = self.batch // self.world
        first, count = self.neighbours or (self.rank, 1)
        return slice(first * share, min(self.batch, (first + count) * share))

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

    def __init__(self, shards: Samples, plan: ReadingPlan | WeightedPlan, part: Slice) -> None:
        self.shards, self.plan, self.part = shards, plan, part

    def read(self, step: int) -> StepBatch:
        """This rank's part of `step`."""
        epochs, indices, copies = self._places(step, self.part.places)
        # Read in the order of the disk, hand over in the order of the plan.
        read = {index: self.shards.read(index) for index in np.unique(indices).tolist()}
        return StepBatch(step, epochs, indices, copies, [read[index] for index in indices.tolist()])

    def _places(
        self, step: int, places: slice
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(epochs, samples, copies) of some places in `step`."""
        if isinstance(self.plan, WeightedPlan):
            return self.plan.step(step, self.part.batch, places)
        epochs, indices = self.plan.step(step, self.part.batch, places)
        return epochs, indices, np.zeros_like(indices)

    def __iter__(self) -> Iterator[StepBatch]:
        worker = get_worker_info()
        steps = self.part.steps(worker.id, worker.num_workers) if worker else self.part.steps(0, 1)
        here = self.part.places_here
        return map(self.read, self.shards.ahead(steps, lambda step: self._places(step, here)[1], self.part.stop))

    def close(self) -> None:
        """Close the shard files (called by `DataPipeline.close`)."""
        self.shards.close()


def pipeline(
    shards: Samples,
    *,
    batch: int,
    seed: int,
    start: int = 0,
    stop: int | None = None,
    rank: int = 0,
    world: int = 1,
    neighbours: tuple[int, int] | None = None,
    stages: Sequence[Callable[..., Any]] = (),
    weights: npt.NDArray[np.float64] | None = None,
) -> DataPipeline:
    """Steps [start, stop) of global batch size `batch`, this rank's contiguous slice of each, then the user's stages.

    `weights` (N,) in the order of the index: how often each sample is to come, see `plan.WeightedPlan`; without them
    each comes once an epoch. `neighbours`: the first and the number of the ranks on this machine, which share what is
    fetched of a set at a URL. Endless without `stop`. In a `DataLoader(..., batch_size=None, num_workers=any)` the
    steps come in the same order.

    Raises:
        InputError: the set is empty; while iterating: a damaged or missing shard.
        ValueError: `batch` is not a positive multiple of `world`, or the weights are not N usable numbers.
    """
    part = Slice(batch, start, stop, rank, world, neighbours)
    if not len(shards):
        raise InputError(f"{shards.location}: the shard set is empty", "Choose another split or larger shares")
    plan = ReadingPlan(len(shards), shards.sha256, seed)
    return DataPipeline(Steps(shards, plan if weights is None else WeightedPlan(plan, weights), part), *stages)
