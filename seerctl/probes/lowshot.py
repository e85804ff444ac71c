"""Low-shot classification: logistic regression on k rows of each class, or on a share of each, over several draws.

The penalty is chosen by stratified folds of the drawn rows alone (VISSL's low-shot tool takes the one that is best on
the test set). With one row of a class there is nothing to choose by: the penalty is the middle one of those given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seerctl.errors import UsageError
from seerctl.probes.axes import Rotation, Scaler, pieces
from seerctl.probes.binary import EXACT
from seerctl.probes.draws import per_class, ranks_of, spread_metric, usable_shots
from seerctl.probes.logistic import Problem, solve
from seerctl.probes.report import ALPHA, ProbeResult, make_report
from seerctl.probes.task import Task, say_all

SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
SHARES = (0.01, 0.1)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 3
ROUGH = 1e-4  # tolerance of fits that are only compared
SAMPLES = 5


def metric_names(shots: Sequence[int], shares: Sequence[float]) -> list[str]:
    """What a low-shot report can hold."""
    names = [f"k{k}" for k in shots] + [share_name(share) for share in shares]
    return [f"{kind}_{name}" for name in names for kind in ("top1", "mean_per_class")]


def share_name(share: float) -> str:
    """How a share is called in metrics: 0.01 is "1pct"."""
    return f"{100 * share:g}pct"


def lowshot(
    task: Task,
    shots: Sequence[int] = SHOTS,
    *,
    shares: Sequence[float] = (),
    samples: int = SAMPLES,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> ProbeResult:
    """Draw, fit and score `samples` times for each of `shots` (rows of a class) and `shares` (of the rows of a class).

    Raises:
        UsageError: nothing to draw, a share outside 0 to 1, a penalty that is not positive, or k beyond every class.
    """
    if not penalties or min(penalties) <= 0 or not all(map(math.isfinite, penalties)):
        raise UsageError("lowshot: an L2 penalty has to be above 0", "Write --l2 0.01")
    if (not shots and not shares) or not all(0 < share <= 1 for share in shares):
        raise UsageError("lowshot: a share of the rows is above 0 and up to 1", "Write --k 8 or --share 0.1")
    sizes = np.bincount(task.train.labels, minlength=len(task.classes))
    usable, left_out = usable_shots(shots, int(sizes.min()), "lowshot")
    say_all(left_out)
    counts = {f"k{k}": np.minimum(k, sizes) for k in usable}
    counts |= {share_name(share): np.maximum(1, np.round(share * sizes)).astype(np.int64) for share in shares}
    test = torch.from_numpy(task.test.features).to(device)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in counts}
    for sample in range(samples):
        ranks = ranks_of(task.train.keys, seed, sample)
        for name, count in counts.items():
            rows = per_class(task.train.labels, ranks, count)
            found[name].append(_fit_and_score(task, rows, test, sorted(penalties), device))
            if progress is not None:
                progress(1)
    report = make_report(
        "lowshot",
        {
            "k": usable, "shares": list(shares), "samples": samples, "penalties": sorted(penalties), "folds": FOLDS,
            "seed": seed, "classifier": "logistic", "standardised": True, "device": device,
        },
        {
            f"{kind}_{name}": spread_metric([draw[kind] for draw in drawn], len(task.test))
            for name, drawn in found.items() for kind in ("top1", "mean_per_class")
        },
        {"train": task.train.origin, "test": task.test.origin},
        interval={"method": "student over draws", "level": 1 - ALPHA},
        target=task.target,
        more={"samples": found, "classes": len(task.classes)},
        warnings=[*task.warnings, *left_out],
    )  # fmt: skip
    return ProbeResult(report)


def _fit_and_score(
    task: Task, rows: NDArray[np.int64], test: Tensor, penalties: Sequence[float], device: str
) -> dict[str, Any]:
    """Accuracies of one draw on the test rows, and the penalty chosen for it."""
    few = torch.from_numpy(task.train.features[rows]).to(device)
    few = few.double() if few.numel() <= EXACT else few
    scaler = Scaler.fit(few)
    rotation = Rotation.fit(scaler(few))
    labels = torch.from_numpy(task.train.labels[rows]).to(device)
    problem = Problem(rotation(scaler(few)), labels, len(task.classes), rotation.variance)
    l2 = _choose(problem, penalties)
    (solution,) = solve(problem, [l2])
    weight = (rotation.axes @ solution.weight.T) / scaler.scale[:, None]  # of the features as they are
    answers = [
        ((test[piece].double() - scaler.mean) @ weight + solution.bias).argmax(1) for piece in pieces(len(test), 1)
    ]
    hits = torch.cat(answers).cpu().numpy() == task.test.labels
    sizes = np.bincount(task.test.labels, minlength=len(task.classes))
    correct = np.bincount(task.test.labels[hits], minlength=len(task.classes))
    there = sizes > 0
    return {
        "rows": len(rows), "l2": l2, "top1": float(hits.mean()),
        "mean_per_class": float((correct[there] / sizes[there]).mean()),
    }  # fmt: skip


def _choose(problem: Problem, penalties: Sequence[float]) -> float:
    """The penalty with the most hits over stratified folds; of equals the one of the lower cross-entropy."""
    labels = problem.labels.cpu().numpy()
    folds = min(FOLDS, int(np.bincount(labels, minlength=problem.classes).min()))
    if folds < 2 or len(penalties) == 1:
        return penalties[len(penalties) // 2]
    order = np.lexsort((np.arange(len(labels)), labels))
    fold_of = np.empty(len(labels), dtype=np.int64)
    fold_of[order] = np.arange(len(labels)) % folds
    rough = replace(problem, features=problem.features.float())
    hits, losses = np.zeros(len(penalties)), np.zeros(len(penalties))
    for fold in range(folds):
        held = torch.from_numpy(fold_of == fold).to(problem.labels.device)
        outside = rough.take(held)
        for place, solution in enumerate(solve(rough.take(~held), penalties, ROUGH)):
            logp = solution.logits(outside.features).log_softmax(1)
            hits[place] += int((logp.argmax(1) == outside.labels).sum())
            losses[place] -= float(logp.gather(1, outside.labels[:, None]).sum())
    return float(penalties[np.lexsort((losses, -hits))[0]])
