"""How well the trunk tells classes apart while it trains: kNN on a labelled shard set, every so many steps.

Nothing of the training is touched: the model is in eval mode without gradients, statistics of BatchNorm that differ
between ranks are put back, no random number is drawn.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from seerctl.columns import sort_names
from seerctl.errors import InputError, UsageError
from seerctl.features.batches import Batches, by_threads, default_workers
from seerctl.features.pixels import View
from seerctl.model.heads import Model
from seerctl.probes.classification import rank
from seerctl.probes.knn import TEMPERATURE, neighbours, unit, vote
from seerctl.recipe import Recipe
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import check_columns, read_metadata
from seerctl.shards.subset import Subset
from seerctl.train.labels import as_classes, ranks_of
from seerctl.train.predict import normalised
from seerctl.train.world import World

_CONTENT = 16  # characters of a key that name the picture: the same pictures go to the same side
_QUERIES_OF_ONE_SET = 0.2  # at most this share of a set that has to give the bank too
_BATCH = 128


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Labelled samples: the shard set, positions (N,) int64 rising, and their classes as codes (N,) int64."""

    samples: Subset
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, slots=True, eq=False)
class OnlineKnn:
    """`queries` classified by their `k` nearest of `bank` (cosine, T = 0.07) among `classes` classes."""

    bank: Side
    queries: Side
    classes: int
    k: int
    view: View

    @classmethod
    def of(cls, recipe: Recipe, sets: Sequence[Path]) -> OnlineKnn | None:
        """What `--knn SET`, or `--knn BANK --knn QUERIES`, asks for; None where it is not given.

        Of each side at most `watch.knn_bank` and `watch.knn_queries` samples are taken, those whose content hashes
        lowest; a single set gives both, a fifth of it at most as queries.

        Raises:
            UsageError: more than two sets, or no such column in them.
            InputError: no such set, damaged shards, or too few labelled samples.
        """
        watch = recipe.watch
        if not sets:
            return None
        if len(sets) > 2:
            raise UsageError(f"--knn: {len(sets)} sets", "Name one set, or the bank and then the queries")
        found = [_Labelled.of(ShardSet.open(where), watch.knn_target) for where in sets]
        classes = sort_names({name for one in found for name in one.names.tolist() if name})
        bank, queries = found[0].order, found[-1].order
        if len(found) == 1:
            count = min(watch.knn_queries, int(_QUERIES_OF_ONE_SET * len(bank)))
            bank, queries = bank[count:], bank[:count]
        bank, queries = bank[: watch.knn_bank], queries[: watch.knn_queries]
        if len(bank) < watch.knn_k or not len(queries):
            raise InputError(
                f"--knn {' '.join(map(str, sets))}: {len(bank)} labelled samples to look among and {len(queries)} to "
                f"look for, for k {watch.knn_k}",
                "Name a larger labelled set, or lower watch.knn_k",
            )
        size = recipe.predict.size or recipe.augment.crops[0].size
        sides = found[0].side(bank, classes), found[-1].side(queries, classes)
        return cls(*sides, len(classes), watch.knn_k, View.of(size, recipe.predict.crop or None))

    def measure(self, model: Model, world: World) -> dict[str, Any]:
        """`knn_top1` (a share), of how many (`knn_queries`), and `knn_seconds`; the same on all ranks, which all call.

        Raises:
            InputError: damaged shards, or an image that cannot be decoded.
        """
        began, was_training = time.perf_counter(), model.training
        model.eval()
        with torch.no_grad(), _statistics_of_the_first(model, world):
            bank, queries = (self._features(side, model, world) for side in (self.bank, self.queries))
        model.train(was_training)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # a checkpoint or the optimiser comes next
        top1 = world.on_first(lambda: self._top1(bank, queries))
        return {"knn_top1": top1, "knn_queries": len(self.queries), "knn_seconds": time.perf_counter() - began}

    def _features(self, side: Side, model: Model, world: World) -> NDArray[np.float32]:
        """Pooled trunk features (N, D) of a side; its batches are dealt over the ranks."""
        batches = Batches(side.samples, self.view, _BATCH)
        numbers = [turn * world.size + world.rank for turn in range(math.ceil(len(batches) / world.size))]
        last, found, seen = len(batches) - 1, list[NDArray[np.float32]](), list[Tensor]()
        # Sharded parameters are gathered by the whole model's forward, so the trunk is not called alone.
        hook = model.trunk.register_forward_hook(lambda *call: seen.append(call[2]))
        read = by_threads(lambda number: batches(min(number, last)), numbers, max(1, default_workers("cuda")))
        for number, batch in zip(numbers, read, strict=True):
            # A rank without a batch of its own in the last round computes the last one too, and drops it.
            model(normalised(batch.pixels.to(world.device)))
            features = seen.pop().float().cpu().numpy()
            if number < len(batches):
                found.append(features)
        hook.remove()
        everyones = world.gather(found)
        return np.concatenate([mine[turn] for turn in range(len(numbers)) for mine in everyones if turn < len(mine)])

    def _top1(self, bank: NDArray[np.float32], queries: NDArray[np.float32]) -> float:
        similarity, index = neighbours(unit(queries), unit(bank), self.k)
        votes = vote(similarity, self.bank.codes[index], self.classes, [self.k], TEMPERATURE)[self.k]
        return float((rank(votes)[0][:, 0] == self.queries.codes).mean())


@dataclass(frozen=True, slots=True, eq=False)
class _Labelled:
    """A set, the class names (N,) of its samples ("": none), and where the labelled ones stand, by their content."""

    shards: ShardSet
    names: NDArray[np.object_]
    order: NDArray[np.int64]

    @classmethod
    def of(cls, shards: ShardSet, target: str) -> _Labelled:
        check_columns(shards, [target])
        metadata = read_metadata(shards, [target])
        names = np.array(as_classes(shards, target, metadata.columns[target]).texts(), dtype=object)
        # The same pictures hash alike, so that none is on both sides but at the border.
        order = np.lexsort((metadata.keys, ranks_of(metadata.keys.astype(f"S{_CONTENT}"), 0)))
        return cls(shards, names, order[names[order] != ""])

    def side(self, positions: NDArray[np.int64], classes: Sequence[str]) -> Side:
        code = {name: number for number, name in enumerate(classes)}
        rising = np.sort(positions)
        return Side(Subset(self.shards, rising), np.array([code[name] for name in self.names[rising]], dtype=np.int64))


@contextlib.contextmanager
def _statistics_of_the_first(model: nn.Module, world: World) -> Iterator[None]:
    """BatchNorm's statistics of the first rank on all of them for a while: ranks that share none have their own."""
    if world.size == 1:
        yield
        return
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for buffer, _ in before:
        dist.broadcast(buffer, src=0)
    try:
        yield
    finally:
        for buffer, own in before:
            buffer.copy_(own)
