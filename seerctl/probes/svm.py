"""The VOC07 protocol: linear SVMs of one class against the rest on L2-normalised features, their costs chosen by AP.

Each class has a squared-hinge SVM whose positives count twice; its cost is the one of the highest mean AP over three
stratified folds of the training rows; AP on the test rows leaves out those marked as ignored (VOC's difficult ones),
which training takes for negatives, as VISSL does. Low-shot: k positives and k (classes - 1) negatives of each class,
five draws; there VISSL takes the cost that is best on the test set, and this chooses it by folds as above (with one
positive there is nothing to choose by: the cost is 1).

Source: P. Goyal et al., ICCV 2019 (arXiv 1905.01235), section 4 and appendix; VISSL's `svm_utils`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from seerctl.errors import InputError, UsageError
from seerctl.probes.binary import Fits, fit_each
from seerctl.probes.draws import ranks_of, spread_metric, usable_shots
from seerctl.probes.labelscores import ranking_result
from seerctl.probes.precision import Rule, class_precisions
from seerctl.probes.report import ALPHA, ProbeResult, make_report
from seerctl.probes.resample import DRAWS
from seerctl.probes.targets import Answers, LabelsTask
from seerctl.probes.task import say_all

COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
COSTS_2019 = tuple(10.0**power for power in range(-7, 3))
FOLDS = 3
POSITIVE_WEIGHT = 2.0
DEFAULT_COST = 1.0
TOLERANCE = 1e-9  # the order of close scores decides
TINY = 1e-5  # added to the norm of a row
SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)


def metric_names(shots: Sequence[int] = ()) -> list[str]:
    """What an SVM report can hold."""
    return [f"map_k{k}" for k in shots] if shots else ["map"]


def svm(
    task: LabelsTask,
    costs: Sequence[float] = COSTS,
    *,
    folds: int = FOLDS,
    rule: Rule = "voc",
    ignored_in_training: bool = False,
    shots: Sequence[int] = (),
    samples: int = 5,
    draws: int = DRAWS,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    full: bool = False,
) -> ProbeResult:
    """Fit one SVM for each class, its cost chosen on the training rows, and rank the test rows by each.

    ignored_in_training: leave rows without an answer for a class out of its training too. shots: instead of the whole
    training set draw so many positives of each class, `samples` times. draws: bootstrap draws of the interval. full:
    keep the decision values.

    Raises:
        UsageError: no cost, one that is not positive, fewer than two folds. InputError: a class without negatives.
    """
    if not costs or min(costs) <= 0 or not all(map(math.isfinite, costs)):
        raise UsageError("svm: a cost has to be above 0", "Write --cost 1")
    if folds < 2:
        raise UsageError("svm: the choice of a cost needs two folds or more", "Write --folds 3")
    train, test = (_unit(side.features, device) for side in (task.train, task.test))
    answers = task.train.labels if ignored_in_training else np.where(task.train.labels == 1, 1, 0).astype(np.int8)
    _check(task, answers)
    settings = {
        "costs": sorted(costs), "folds": folds, "loss": "squared hinge", "weight_positive": POSITIVE_WEIGHT,
        "normalised": "L2", "ignored_in_training": "left out" if ignored_in_training else "negative", "seed": seed,
        "solver": "l-bfgs", "device": device,
    }  # fmt: skip
    if shots:
        return _low_shot(task, (train, test), answers, costs, shots, samples, folds, rule, settings, progress)
    chosen, table = choose_costs(train, answers, sorted(costs), folds, progress)
    fits = _fit(train, answers, chosen[None])
    scores = fits.scores(test.double())[0].cpu().numpy()
    if progress is not None:
        progress(1)
    return ranking_result(
        task, "svm", {**settings, "converged": bool(fits.converged.all())}, scores, rule=rule, draws=draws, seed=seed,
        more={"choice": table}, chosen={"cost": chosen}, full=full,
    )  # fmt: skip


def choose_costs(
    features: Tensor, answers: Answers, costs: Sequence[float], folds: int, progress: Callable[[int], None] | None
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """(C,) the cost of each class with the highest mean AP over its folds, and those means, (C, costs), as plain lists.

    The folds are scikit-learn's `StratifiedKFold`, not shuffled; among equals the smallest cost wins. A class with
    fewer positives than folds has as many folds as positives; with one, nothing is chosen.
    """
    fold_of = np.stack([_folds(answers[:, c], folds) for c in range(answers.shape[1])], axis=1)
    table: list[NDArray[np.float64]] = []
    rows, labels = features, answers
    for fold in range(folds):
        held = fold_of == fold
        inside = np.where(held, -1, labels).astype(np.int8)
        fits = _fit(rows, inside, np.repeat(np.asarray(costs)[:, None], answers.shape[1], axis=1))
        scores = fits.scores(rows.double()).cpu().numpy()
        outside = np.where(held, labels, -1)
        table.append(np.stack([class_precisions(scores[p], outside)[0] for p in range(len(costs))], axis=1))
        if progress is not None:
            progress(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that is in no fold has no mean
        means = np.nanmean(table, axis=0)
    known = np.isfinite(means).all(axis=1)
    best = np.asarray(costs)[np.argmax(np.where(known[:, None], means, 0.0), axis=1)]
    plain = [[float(ap) for ap in row] if there else None for row, there in zip(means, known, strict=True)]
    return np.where(known, best, DEFAULT_COST), {"costs": list(costs), "average_precision": plain}


def _folds(answers: NDArray[np.int8], folds: int) -> NDArray[np.int64]:
    """(n,) the fold of each row, -1 for rows without an answer or where the class is too rare to be divided."""
    known = np.flatnonzero(answers >= 0)
    count = min(folds, int((answers == 1).sum()), int((answers == 0).sum()))
    found = np.full(len(answers), -1, dtype=np.int64)
    if count < 2:
        return found
    splits = StratifiedKFold(count).split(np.zeros(len(known)), answers[known])
    for number, (_, held) in enumerate(splits):
        found[known[held]] = number
    return found


def _fit(features: Tensor, answers: Answers, costs: NDArray[np.float64]) -> Fits:
    """SVMs at `costs` (P, C): scikit-learn's C of `LinearSVC(class_weight={1: 2})`."""
    counts = np.maximum((answers >= 0).sum(0), 1)
    l2 = torch.from_numpy(1.0 / (costs * counts))
    return fit_each(
        features, torch.from_numpy(answers).to(features.device), l2.to(features.device), "squared_hinge",
        weight_positive=POSITIVE_WEIGHT, tolerance=TOLERANCE,
    )  # fmt: skip


def _unit(features: NDArray[np.float32], device: str) -> Tensor:
    rows = torch.from_numpy(np.ascontiguousarray(features)).to(device)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / (norms + TINY)


def _check(task: LabelsTask, answers: Answers) -> None:
    for code, name in enumerate(task.classes):
        if not (answers[:, code] == 0).any():
            path = task.train.origin["path"]
            raise InputError(f"{path}: every row is a '{name}'", "An SVM needs rows that are not")


# ---------------------------------------------------------------------------------------------------------- low-shot


def _low_shot(
    task: LabelsTask, features: tuple[Tensor, Tensor], answers: Answers, costs: Sequence[float], shots: Sequence[int],
    samples: int, folds: int, rule: Rule, settings: dict[str, Any], progress: Callable[[int], None] | None,
) -> ProbeResult:  # fmt: skip
    rarest = int((answers == 1).sum(0).min())
    usable, left_out = usable_shots(shots, rarest, "svm")
    say_all(left_out)
    found: dict[int, list[float]] = {k: [] for k in usable}
    for k in usable:
        for sample in range(samples):
            found[k].append(_one_draw(task, features, answers, costs, k, sample, folds, rule, settings["seed"]))
            if progress is not None:
                progress(1)
    report = make_report(
        "svm",
        {**settings, "average_precision": rule, "k": usable, "samples": samples, "negatives": "k (classes - 1)"},
        {f"map_k{k}": spread_metric(values, len(task.test)) for k, values in found.items()},
        {"train": task.train.origin, "test": task.test.origin},
        interval={"method": "student over draws", "level": 1 - ALPHA},
        target=task.target,
        more={"samples": {f"map_k{k}": values for k, values in found.items()}, "classes": len(task.classes)},
        warnings=[*task.warnings, *left_out],
    )
    return ProbeResult(report)


def _one_draw(
    task: LabelsTask, features: tuple[Tensor, Tensor], answers: Answers, costs: Sequence[float], k: int, sample: int,
    folds: int, rule: Rule, seed: int,
) -> float:  # fmt: skip
    """The mAP of SVMs that saw `k` positives of each class."""
    drawn = draw_answers(answers, task.train.keys, k, seed, sample)
    rows = np.flatnonzero((drawn >= 0).any(axis=1))
    few, few_answers = features[0][torch.from_numpy(rows).to(features[0].device)], drawn[rows]
    chosen, _ = choose_costs(few, few_answers, sorted(costs), folds, None)
    scores = _fit(few, few_answers, chosen[None]).scores(features[1].double())[0].cpu().numpy()
    return float(np.nanmean(class_precisions(scores, task.test.labels, rule=rule)[0]))


def draw_answers(answers: Answers, keys: NDArray[np.bytes_], k: int, seed: int, sample: int) -> Answers:
    """`answers` with `k` positives and up to `k` (C - 1) negatives of each class, all others unknown."""
    order = np.argsort(ranks_of(keys, seed, sample), kind="stable")
    drawn = np.full_like(answers, -1)
    for code in range(answers.shape[1]):
        column = answers[order, code]
        for answer, count in ((1, k), (0, k * max(1, answers.shape[1] - 1))):
            drawn[order[np.flatnonzero(column == answer)[:count]], code] = answer
    return drawn
