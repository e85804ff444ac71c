"""Linear probe: L2-regularised logistic regression on frozen features, its penalty chosen on training rows alone.

Features are standardised by the training set. A stratified part of the training rows is held out, every penalty is
fitted on the rest and scored on the part; the best (equal accuracy: the lower cross-entropy) is refitted on all rows.
The test set is looked at once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seerctl.errors import InputError, UsageError
from seerctl.probes.classification import make_result, rank
from seerctl.probes.logistic import Problem, Rotation, Scaler, Solution, solve
from seerctl.probes.report import ProbeResult
from seerctl.probes.task import Task, log

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
VALIDATION = 0.2


def linear(
    task: Task,
    penalties: Sequence[float] = PENALTIES,
    *,
    validation: float = VALIDATION,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    full: bool = False,
) -> ProbeResult:
    """Fit on the training side, score on the test side; a prediction's score is its softmax probability.

    penalties: values of `l2` to choose from (see `logistic`; scikit-learn's C is 1/(rows l2)); with one value there is
    no choice and no validation. validation: the share of each class that is held out. full: keep the scores of every
    class.

    Raises:
        UsageError: no penalty, or one that is not positive.
        InputError: too few rows of any class to hold one out.
    """
    if not penalties or min(penalties) <= 0 or not all(map(math.isfinite, penalties)):
        raise UsageError("linear: an L2 penalty has to be above 0", "Write --l2 0.01")
    scaler = Scaler.fit(torch.from_numpy(task.train.features))
    features = scaler(torch.from_numpy(task.train.features)).to(device)
    rotation = Rotation.fit(features)
    features = features @ rotation.axes.to(features.dtype)
    problem = Problem(features, torch.from_numpy(task.train.labels).to(device), len(task.classes), rotation.variance)
    path: list[dict[str, Any]] = []
    if len(penalties) > 1:
        held = _held_out(task.train.labels, validation, seed)
        path = _path(problem, torch.from_numpy(held).to(device), sorted(penalties, reverse=True), progress)
    best = _best(path) if path else float(penalties[0])
    solution = solve(problem, best)
    if progress is not None:
        progress(1)
    probabilities = _probabilities(solution, rotation, scaler(torch.from_numpy(task.test.features)).to(device))
    settings = {
        "l2": best, "penalties": sorted(penalties), "validation": validation if path else None, "seed": seed,
        "standardised": True, "solver": "l-bfgs", "steps": solution.steps, "loss": solution.loss,
        "choice": path, "device": device,
    }  # fmt: skip
    return make_result(task, "linear", settings, rank(probabilities), full=probabilities if full else None)


def _held_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """(n,) True for the held-out rows: `share` of each class, rounded, never all rows of a class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    held = np.zeros(len(labels), dtype=np.bool_)
    for code in np.unique(labels):
        rows = order[labels[order] == code]
        held[rows[: min(len(rows) - 1, round(share * len(rows)))]] = True
    if not held.any():
        raise InputError(
            f"linear: too few training rows ({len(labels)}) to hold any out for the choice of the penalty",
            "Name one penalty with --l2",
        )
    return held


def _path(
    problem: Problem, held: Tensor, penalties: Sequence[float], progress: Callable[[int], None] | None
) -> list[dict[str, Any]]:
    """Scores on the held-out rows, from the strongest penalty to the weakest, each started from the one before."""
    inside, outside = problem.take(~held), problem.take(held)
    solution: Solution | None = None
    path = []
    for l2 in penalties:
        solution = solve(inside, l2, solution)
        logp = solution.logits(outside.features).log_softmax(1)
        correct = int((logp.argmax(1) == outside.labels).sum())
        path.append({
            "l2": l2, "rows": len(outside.labels), "top1": correct / len(outside.labels),
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


def _probabilities(solution: Solution, rotation: Rotation, features: Tensor) -> NDArray[np.float64]:
    turned = Solution(solution.weight @ rotation.axes.T, solution.bias, solution.loss, solution.steps)
    return turned.logits(features.double()).softmax(1).cpu().numpy()
