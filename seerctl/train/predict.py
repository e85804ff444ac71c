"""What a supervised run says of a labelled shard set at its end: the table that `audit` judges, and its accuracies.

Pictures are seen as `seerctl extract` sees them: the same decoder, the short side resized by Pillow's bicubic filter,
a centre crop. The ranks share the batches; every rank makes as many passes as the others, since sharded parameters are
gathered together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD
from seerctl.columns import columns_from_rows, sort_names
from seerctl.errors import InputError, UsageError
from seerctl.features.batches import Batch, Batches, by_threads, default_workers
from seerctl.features.pixels import View
from seerctl.files import sha256_file
from seerctl.model.heads import Model
from seerctl.predictions import Predictions, write_predictions
from seerctl.probes.classification import RANKS, rank
from seerctl.recipe import Recipe
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import check_columns, read_metadata
from seerctl.stats import wilson
from seerctl.tables import check_suffix
from seerctl.train.labels import EXACT_KINDS, Labels, class_of
from seerctl.train.world import World


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was written to `path`: `rows` samples, `labelled` of which have a label that the classes know.

    `top1`, `top5` (with more than five classes): shares of the labelled ones, (value, low, high) with Wilson's
    interval at 95 %.
    """

    path: Path
    rows: int
    labelled: int
    top1: tuple[float, float, float]
    top5: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Batch `number`: B keys and metadata rows, the best classes (B, K) int32 and their probabilities, best first."""

    number: int
    keys: list[str]
    columns: list[dict[str, Any]]
    top: NDArray[np.int32]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Predictor:
    """Predictions of a run with `labels` for the set `shards`, seen through `view`, to be written to `path`."""

    shards: ShardSet
    labels: Labels
    view: View
    batch: int
    path: Path

    @classmethod
    def of(cls, recipe: Recipe, labels: Labels | None, data: Path | None, path: Path | None) -> Predictor | None:
        """What `--predict` and `--predictions` ask for, checked before the training; None where they ask for nothing.

        Raises:
            UsageError: one without the other, a recipe that learns no classes, no such column in the set, or a format
                that no table has.
            InputError: no such set, or a label in it that is none of the classes.
        """
        if data is None and path is None:
            return None
        if data is None or path is None:
            there, missing = ("--predictions", "--predict SET") if data is None else ("--predict", "--predictions FILE")
            raise UsageError(f"{there} without {missing.split()[0]}", f"Pass {missing} too")
        if labels is None:
            raise UsageError(
                f"--predict: the objective '{recipe.loss.objective}' learns no classes to predict",
                "Train with loss.objective=supervised, or probe its features",
            )
        check_suffix(path)
        shards = ShardSet.open(data)
        _check_labels(shards, labels)
        size = recipe.predict.size or recipe.augment.crops[0].size
        return cls(shards, labels, View.of(size, recipe.predict.crop or None), min(recipe.data.batch, 256), path)

    def write(self, model: Model, world: World) -> Prediction:
        """Predict every sample with `model` on all ranks of `world`; the first one writes the table, atomically.

        Raises:
            InputError: damaged shards, or an image that cannot be decoded.
            EnvironmentFault: the table cannot be written.
        """
        if world.size > 1:
            for buffer in model.buffers():  # BatchNorm's statistics as the weights file has them
                dist.broadcast(buffer, src=0)
        was_training = model.training
        model.eval()
        found = self._found(model, world)
        model.train(was_training)
        parts = [part for rank in world.gather(found) for part in rank]
        return world.on_first(lambda: self._written(sorted(parts, key=lambda part: part.number)))

    def made_from(self, weights: Path) -> list[dict[str, str]]:
        """What the table is made from, for its lineage: the weights file of the run, and the set."""
        return [
            {"kind": "weights", "role": "model", "path": str(weights), "sha256": sha256_file(weights)},
            {"kind": "set", "role": "test", "path": self.shards.location, "sha256": self.shards.sha256},
        ]

    def _found(self, model: Model, world: World) -> list[_Part]:
        """This rank's batches."""
        batches = Batches(self.shards, self.view, max(1, self.batch // world.size))
        rounds = math.ceil(len(batches) / world.size)
        numbers = [turn * world.size + world.rank for turn in range(rounds)]
        found = []
        for number, batch in zip(numbers, _read(batches, numbers), strict=True):
            # A rank without a batch of its own in the last round computes the last one too, and drops it.
            with torch.no_grad():
                logits = model(normalised(batch.pixels.to(world.device)))
            if number < len(batches):
                top, scores = rank(logits.double().softmax(1).cpu().numpy())
                found.append(_Part(number, batch.keys, batch.columns, top, scores))
        return found

    def _written(self, parts: list[_Part]) -> Prediction:
        keys = [key for part in parts for key in part.keys]
        rows = [row for part in parts for row in part.columns]
        top, scores = np.concatenate([part.top for part in parts]), np.concatenate([part.scores for part in parts])
        if not np.isfinite(scores).all():
            raise InputError(f"{self.path}: the model gives scores that are not finite", "Train with a lower optim.lr")
        code = {"": -1} | {name: code for code, name in enumerate(self.labels.classes)}
        label = np.array([code[class_of(row.get(self.labels.target))] for row in rows], dtype=np.int32)
        names = [name for name in self.shards.columns if name != self.labels.target]
        columns = columns_from_rows([{name: row.get(name) for name in names} for row in rows], names)
        table = Predictions(
            np.array(keys, dtype=object), self.labels.classes, label, top[:, 0], scores[:, 0], top, scores, columns
        )
        write_predictions(self.path, table)
        known = label >= 0
        hits = top[known] == label[known, None]
        top5 = _share(hits.any(1)) if len(self.labels.classes) > RANKS else None
        return Prediction(self.path, len(keys), int(known.sum()), _share(hits[:, 0]), top5)


def _check_labels(shards: ShardSet, labels: Labels) -> None:
    """Nothing, if the set has labels, all of them among the classes; only what the index does not list is read."""
    check_columns(shards, [labels.target])
    entry = shards.index["columns"][labels.target]
    listed = entry.get("values") if entry.get("type") in EXACT_KINDS else None
    names = set(listed if listed is not None else read_metadata(shards, [labels.target]).columns[labels.target].texts())
    names.discard("")
    if not names:
        raise InputError(f"{shards.location}: no sample has a '{labels.target}'", "Predict a labelled set")
    unknown = sort_names(names - set(labels.classes))
    if unknown:
        raise InputError(
            f"{shards.location}: '{labels.target}' has {len(unknown)} classes that no training sample had: "
            + ", ".join(f"'{name}'" for name in unknown[:5]),
            "Training and predicted set have to share their classes",
        )


def _read(batches: Batches, numbers: list[int]) -> Iterator[Batch]:
    last = len(batches) - 1
    return by_threads(lambda number: batches(min(number, last)), numbers, max(1, default_workers("cuda")))


def normalised(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) as the training saw them; `features.encoder.Encoder` does the same."""
    mean = 255.0 * torch.tensor(IMAGENET_MEAN, device=pixels.device).view(1, 3, 1, 1)
    scale = 1.0 / (255.0 * torch.tensor(IMAGENET_STD, device=pixels.device).view(1, 3, 1, 1))
    return (pixels.float() - mean) * scale


def _share(hits: NDArray[np.bool_]) -> tuple[float, float, float]:
    found = wilson(hits.sum(), len(hits), 0.05)
    return float(found.value), float(found.low), float(found.high)
