"""A classification on several layers of one model: a feature file of each, of the same rows in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seerctl.errors import UsageError
from seerctl.probes.task import Task, load_task


@dataclass(frozen=True, slots=True, eq=False)
class LayersTask:
    """The task `one` of the first layer, and of all layers the names and features, (N, D of the layer) float32."""

    one: Task
    layers: tuple[str, ...]
    train_layers: tuple[NDArray[np.float32], ...]
    test_layers: tuple[NDArray[np.float32], ...]


def load_layers(train: Sequence[Path], test: Sequence[Path], target: str) -> LayersTask:
    """Open a training and a test file for each layer, in the same order on both sides.

    Raises:
        UsageError: not as many test files as training files, the same layer twice, or other rows. Else as `load_task`.
    """
    if len(train) != len(test):
        raise UsageError(
            f"{len(train)} training files and {len(test)} test files", "Name one of each for every layer, in order"
        )
    tasks = [load_task(one, two, target) for one, two in zip(train, test, strict=True)]
    for task in tasks[1:]:
        for side, first in ((task.train, tasks[0].train), (task.test, tasks[0].test)):
            if not np.array_equal(side.keys, first.keys):
                raise UsageError(f"{side.origin['path']}: other rows than {first.origin['path']}",
                                 "Extract all layers of a set in one go")  # fmt: skip
    names = tuple(str(task.train.origin["layer"]) for task in tasks)
    if len(set(names)) < len(names):
        raise UsageError(f"layer '{next(n for n in names if names.count(n) > 1)}' comes twice", "Name each layer once")
    more = {
        f"{role}_{task.train.origin['layer']}": dict(side.origin)
        for task in tasks[1:] for role, side in (("train", task.train), ("test", task.test))
    }  # fmt: skip
    one = replace(tasks[0], more_inputs=more, warnings=tuple(dict.fromkeys(w for task in tasks for w in task.warnings)))
    return LayersTask(
        one, names, tuple(task.train.features for task in tasks), tuple(task.test.features for task in tasks)
    )
