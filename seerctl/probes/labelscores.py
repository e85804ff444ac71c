"""The report of classes that are ranked one by one: average precision of each, their mean, bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.predictions import Predictions
from seerctl.probes.classification import rank
from seerctl.probes.precision import Rule, class_precisions
from seerctl.probes.report import ALPHA, ProbeResult, make_report, metric
from seerctl.probes.resample import DRAWS, bootstrap, percentile
from seerctl.probes.targets import LabelsTask, truth_of
from seerctl.probes.task import key_texts

METRIC_NAMES = ("map",)


def ranking_result(
    task: LabelsTask,
    protocol: str,
    settings: Mapping[str, Any],
    scores: NDArray[np.floating],
    *,
    rule: Rule,
    draws: int = DRAWS,
    seed: int = 0,
    more: Mapping[str, Any] | None = None,
    chosen: Mapping[str, NDArray[np.floating]] | None = None,
    full: bool = False,
) -> ProbeResult:
    """The result of `protocol` from the scores (Q, C) of the test rows.

    more: further parts of the report. chosen: by name, a number for each class that its entry repeats. full: keep the
    scores.
    """
    answers = task.test.labels
    value, drawn = bootstrap(
        lambda weights: class_precisions(scores, answers, weights, rule), len(answers), draws=draws, seed=seed
    )
    per_class = [
        {
            "class": name, "n": int((answers[:, code] == 1).sum()),
            **_numbers(percentile(float(value[code]), drawn[:, code])),
            **{key: float(numbers[code]) for key, numbers in (chosen or {}).items()},
        }
        for code, name in enumerate(task.classes)
    ]  # fmt: skip
    report = make_report(
        protocol,
        {**settings, "average_precision": rule},
        {"map": metric(map_interval(value, drawn), len(answers))},
        {"train": task.train.origin, "test": task.test.origin},
        interval={"method": "bootstrap of rows", "level": 1 - ALPHA, "draws": draws, "seed": seed},
        target=task.target,
        more={**(more or {}), "per_class": per_class, "classes": len(task.classes)},
        warnings=[*task.warnings, *_unscored(task, value)],
    )
    return ProbeResult(report, _predictions(task, scores), np.asarray(scores, dtype=np.float32) if full else None)


def map_interval(value: NDArray[np.float64], drawn: NDArray[np.float64]) -> Any:
    """The mean over the classes that have a positive, and its interval from the draws (B, C)."""
    with np.errstate(invalid="ignore"):
        there = np.isfinite(value)
        means = np.nanmean(np.where(np.isfinite(drawn[:, there]), drawn[:, there], np.nan), axis=1)
    return percentile(float(value[there].mean()), means)


def _numbers(interval: Any) -> dict[str, float | None]:
    entry = metric(interval, 0)
    return {name: entry[name] for name in ("value", "low", "high")}


def _unscored(task: LabelsTask, value: NDArray[np.float64]) -> list[str]:
    left = [name for name, ap in zip(task.classes, value, strict=True) if not np.isfinite(ap)]
    return [f"{len(left)} classes have no positive test row and do not count, such as '{left[0]}'"] if left else []


def _predictions(task: LabelsTask, scores: NDArray[np.floating]) -> Predictions:
    top, top_scores = rank(np.asarray(scores, dtype=np.float64))
    targets = task.target.split(", ")
    return Predictions(
        keys=key_texts(task.test.keys),
        classes=task.classes,
        label=np.full(len(scores), -1, dtype=np.int32),
        prediction=top[:, 0],
        score=top_scores[:, 0],
        top=top,
        top_scores=top_scores,
        columns={name: column for name, column in task.test.columns.items() if name not in targets},
        truth=truth_of(task.test.labels),
    )
