"""A linear classifier on frozen features, its penalty chosen on training rows alone: fitted once, used on any features.

Features are standardised by the training set and rotated for the solver; what is kept are weights and biases for the
features as they come.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from seerctl.errors import InputError, UsageError
from seerctl.files import atomic_write, blame, json_text
from seerctl.probes.axes import Rotation, Scaler
from seerctl.probes.logistic import Problem, solve
from seerctl.probes.task import log

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
VALIDATION = 0.2
SCHEMA = "seerctl.fitted/1"
METADATA = "seerctl"
ROWS = 65536  # rows whose logits are worked out at a time


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """weight (C, D) and bias (C,), float64, of plain features; settings: how they were found, for a report."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    settings: dict[str, Any]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, C) of features (n, D)."""
        blocks = [
            features[start : start + ROWS].astype(np.float64) @ self.weight.T + self.bias
            for start in range(0, len(features), ROWS)
        ]
        return np.concatenate(blocks)

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, C) softmax of the logits."""
        return torch.from_numpy(self.logits(features)).softmax(1).numpy()


def fit_classifier(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, penalties: Sequence[float] = PENALTIES, *,
    validation: float = VALIDATION, seed: int = 0, device: str = "cpu", progress: Callable[[int], None] | None = None,
) -> Classifier:  # fmt: skip
    """L2-regularised logistic regression on features (n, D) with labels (n,) below `classes`.

    A stratified part of the rows, `validation` of each class, is held out; every penalty is fitted on the rest and
    scored on the part; the best (equal accuracy: the lower cross-entropy) is refitted on all rows. With one penalty
    there is no choice and no validation.

    Raises:
        UsageError: no penalty, or one that is not positive.
        InputError: too few rows of any class to hold one out.
    """
    if not penalties or min(penalties) <= 0 or not all(map(math.isfinite, penalties)):
        raise UsageError("linear: an L2 penalty has to be above 0", "Write --l2 0.01")
    scaler = Scaler.fit(torch.from_numpy(features))
    scaled = scaler(torch.from_numpy(features)).to(device)
    rotation = Rotation.fit(scaled)
    problem = Problem(rotation(scaled), torch.from_numpy(labels).to(device), classes, rotation.variance)
    path: list[dict[str, Any]] = []
    if len(penalties) > 1:
        held = held_out(labels, validation, seed)
        path = _path(problem, torch.from_numpy(held).to(device), sorted(penalties, reverse=True), progress)
    best = _best(path) if path else float(penalties[0])
    (solution,) = solve(problem, [best])
    if progress is not None:
        progress(1)
    weight = (solution.weight @ rotation.axes.T).cpu() / scaler.scale
    settings = {
        "l2": best, "penalties": sorted(penalties), "validation": validation if path else None, "seed": seed,
        "standardised": True, "solver": "l-bfgs", "steps": solution.steps, "loss": solution.loss,
        "choice": path, "device": device,
    }  # fmt: skip
    return Classifier(weight.numpy(), (solution.bias.cpu() - weight @ scaler.mean).numpy(), settings)


def held_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """(n,) True for the held-out rows: `share` of each class, rounded, never all rows of a class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    held = np.zeros(len(labels), dtype=np.bool_)
    for code in np.unique(labels):
        rows = order[labels[order] == code]
        held[rows[: min(len(rows) - 1, round(share * len(rows)))]] = True
    if not held.any():
        raise InputError(
            f"linear: too few training rows ({len(labels)}) to hold any out for a choice",
            "Name a single candidate, with --l2 (or --lr)",
        )
    return held


def _path(
    problem: Problem, held: Tensor, penalties: Sequence[float], progress: Callable[[int], None] | None
) -> list[dict[str, Any]]:
    """Scores on the held-out rows, from the strongest penalty to the weakest."""
    inside, outside = problem.take(~held), problem.take(held)
    path = []
    for solution in solve(inside, penalties):
        logp = solution.logits(outside.features).log_softmax(1)
        correct = int((logp.argmax(1) == outside.labels).sum())
        path.append({
            "l2": solution.l2, "rows": len(outside.labels), "top1": correct / len(outside.labels),
            "cross_entropy": -float(logp.gather(1, outside.labels[:, None]).double().mean()), "steps": solution.steps,
        })  # fmt: skip
        if progress is not None:
            progress(1)
    return path


def _best(path: Sequence[dict[str, Any]]) -> float:
    chosen = max(path, key=lambda entry: (entry["top1"], -entry["cross_entropy"]))
    if chosen is path[0] or chosen is path[-1]:
        side = "largest" if chosen is path[0] else "smallest"
        log.warning("linear: the best penalty, %g, is the %s tried; widen the choice with --l2", chosen["l2"], side)
    return float(chosen["l2"])


# ------------------------------------------------------------------------------------------------ kept in a file


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A classifier with the names of its classes and what its features are of (see `task.MUST_AGREE`)."""

    classifier: Classifier
    classes: tuple[str, ...]
    target: str
    features: Mapping[str, str]


def save_fitted(path: Path, fitted: Fitted) -> None:
    """Write a classifier as safetensors `weight (C, D)`, `bias (C,)`, with the rest as JSON in the metadata."""
    about = {
        "schema": SCHEMA, "classes": list(fitted.classes), "target": fitted.target, "features": dict(fitted.features),
        "settings": fitted.classifier.settings,
    }  # fmt: skip
    tensors = {"weight": fitted.classifier.weight, "bias": fitted.classifier.bias}
    with atomic_write(path) as file:
        file.write(safetensors.numpy.save(tensors, {METADATA: json_text(about)}))


def load_fitted(path: Path) -> Fitted:
    """The classifier in `path`.

    Raises:
        InputError: no such file, or not one that `save_fitted` wrote.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with blame(path), safetensors.safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {})[METADATA])
            weight, bias = (np.asarray(file.get_tensor(name), dtype=np.float64) for name in ("weight", "bias"))
        classes, features = [str(name) for name in about["classes"]], {k: str(v) for k, v in about["features"].items()}
        target, settings, schema = str(about["target"]), dict(about["settings"]), about["schema"]
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise InputError(f"{path}: not a fitted probe", "Write one with 'seerctl probe ood --save FILE'") from None
    whole = weight.ndim == 2 and bias.shape == (len(weight),) and len(set(classes)) == len(weight) > 1
    if schema != SCHEMA or not whole or not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise InputError(f"{path}: a fitted probe whose classes, weights and biases do not belong together")
    return Fitted(Classifier(weight, bias, settings), tuple(classes), target, features)
