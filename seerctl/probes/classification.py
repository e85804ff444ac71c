"""The scores of a classification: accuracies with their intervals, class by class, and the predictions table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seerctl.predictions import Predictions
from seerctl.probes.report import ALPHA, ProbeResult, make_report, metric
from seerctl.probes.task import Side, Task, key_texts
from seerctl.stats import macro, wilson

RANKS = 5
METRIC_NAMES = ("top1", "top5", "mean_per_class")


def rank(scores: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The best five classes of each row of `scores` (Q, C) and their scores, best first; ties by class order."""
    tensor = torch.from_numpy(scores)
    best, order = torch.sort(tensor, dim=1, descending=True, stable=True)
    keep = min(RANKS, scores.shape[1])
    return order[:, :keep].to(torch.int32).numpy(), best[:, :keep].numpy()


def hit_metrics(labels: NDArray[np.int64], top: NDArray[np.int32], classes: int, suffix: str = "") -> dict[str, Any]:
    """`top1` and, with more than five classes, `top5`, with Wilson intervals at 95 %."""
    hits = top == labels[:, None]
    found = {f"top1{suffix}": metric(wilson(hits[:, 0].sum(), len(labels), ALPHA), len(labels))}
    if classes > RANKS:
        found[f"top5{suffix}"] = metric(wilson(hits.any(1).sum(), len(labels), ALPHA), len(labels))
    return found


def class_metrics(
    classes: tuple[str, ...], labels: NDArray[np.int64], prediction: NDArray[np.int32]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`mean_per_class` (the unweighted mean of the classes' accuracies) and one entry a class, in class order."""
    count = len(classes)
    rows = np.bincount(labels, minlength=count)
    correct = np.bincount(labels[prediction == labels], minlength=count)
    single = wilson(correct, rows, ALPHA)
    mean = {"mean_per_class": metric(macro(correct, rows, ALPHA), int(rows.sum()))}
    table = [
        {
            "class": name, "n": int(rows[code]), "correct": int(correct[code]),
            "accuracy": float(single.value[code]) if rows[code] else None,
            "low": float(single.low[code]), "high": float(single.high[code]),
        }
        for code, name in enumerate(classes)
    ]  # fmt: skip
    return mean, table


def make_result(
    task: Task,
    protocol: str,
    settings: Mapping[str, Any],
    scores: tuple[NDArray[np.int32], NDArray[np.float64]],
    more: Mapping[str, Any] | None = None,
    full: NDArray[np.floating] | None = None,
) -> ProbeResult:
    """The result of `protocol` from its ranked classes and scores; `more` are metrics of the protocol's own.

    full: the scores of every class (Q, C), to be kept.
    """
    top, top_scores = scores
    mean, per_class = class_metrics(task.classes, task.test.labels, top[:, 0])
    report = make_report(
        protocol,
        settings,
        {**hit_metrics(task.test.labels, top, len(task.classes)), **mean, **(more or {})},
        {"train": task.train.origin, "test": task.test.origin, **task.more_inputs},
        target=task.target,
        more={"per_class": per_class, "classes": len(task.classes)},
        warnings=task.warnings,
    )
    return ProbeResult(report, class_predictions(task.target, task.classes, task.test, top, top_scores), full)


def class_predictions(
    target: str, classes: tuple[str, ...], side: Side, top: NDArray[np.int32], top_scores: NDArray[np.float64]
) -> Predictions:
    """The table for the rows of `side` from their ranked classes and scores, with all metadata but the target."""
    return Predictions(
        keys=key_texts(side.keys),
        classes=classes,
        label=side.labels.astype(np.int32),
        prediction=top[:, 0],
        score=top_scores[:, 0],
        top=top,
        top_scores=top_scores,
        columns={name: column for name, column in side.columns.items() if name != target},
    )
