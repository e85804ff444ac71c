"""Numbers from frozen features: ridge regression, or classes that are numbers, scored by their errors.

ridge: minimise 1/n sum_i (w x_i + b - y_i)^2 + l2 |w|^2 on standardised features (scikit-learn's alpha is n l2); the
penalty is the one of the least mean squared error of leaving out each training row in turn, exact without refitting.
classes: logistic regression over the numbers of the training rows, as VTAB and SEER treat counts, distances and angles;
the answer is the most probable number.

Source: leave-one-out by the hat matrix, R. D. Cook, S. Weisberg, Residuals and Influence in Regression (1982), 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seerctl.columns import number_text
from seerctl.errors import UsageError
from seerctl.predictions import Predictions
from seerctl.probes.axes import Rotation, Scaler
from seerctl.probes.classifier import VALIDATION, fit_classifier
from seerctl.probes.report import ALPHA, ProbeResult, make_report, metric
from seerctl.probes.resample import DRAWS, Floats, bootstrap, percentile
from seerctl.probes.targets import NumberTask
from seerctl.probes.task import key_texts, log

Method = Literal["ridge", "classes"]
PENALTIES = tuple(10.0**power for power in range(-6, 3))
NUMBERS = ("mae", "rmse", "r2", "spearman")
METRIC_NAMES = (*NUMBERS, "top1", "within_1")
MOST_CLASSES = 1000


def regression(
    task: NumberTask,
    *,
    method: Method = "ridge",
    penalties: Sequence[float] = PENALTIES,
    validation: float = VALIDATION,
    draws: int = DRAWS,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> ProbeResult:
    """Fit on the training side, predict the numbers of the test side.

    Metrics: mae, rmse, r2, spearman; of whole numbers also top1 (the rounded prediction is right) and within_1.
    validation: the held-out share of `classes`. draws: bootstrap draws of the intervals.

    Raises:
        UsageError: no penalty, one that is not positive, or too many numbers to be classes.
    """
    if not penalties or min(penalties) <= 0 or not all(map(math.isfinite, penalties)):
        raise UsageError("regression: an L2 penalty has to be above 0", "Write --l2 0.01")
    fit = _ridge if method == "ridge" else _classes
    prediction, settings = fit(task, sorted(penalties), validation, seed, device)
    if progress is not None:
        progress(1)
    whole = bool((task.train.labels == np.floor(task.train.labels)).all())
    metrics, interval = _metrics(task.test.labels, prediction, whole, draws, seed)
    report = make_report(
        "regression", {"method": method, **settings, "seed": seed, "device": device}, metrics,
        {"train": task.train.origin, "test": task.test.origin}, interval=interval, target=task.target,
        warnings=task.warnings,
    )  # fmt: skip
    return ProbeResult(report, _predictions(task, prediction))


def _ridge(
    task: NumberTask, penalties: Sequence[float], validation: float, seed: int, device: str
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    features = torch.from_numpy(task.train.features).to(device)
    scaler = Scaler.fit(features)
    rows = scaler(features)
    rotation = Rotation.fit(rows)
    turned = rotation(rows).double()
    mean = float(task.train.labels.mean())
    wanted = torch.from_numpy(task.train.labels - mean).to(device)
    products = turned.T @ wanted / len(turned)
    choice = []
    for l2 in penalties:
        shrunk = 1.0 / (rotation.variance + l2)
        leverage = (turned * turned) @ shrunk / len(turned) + 1.0 / len(turned)
        left_out = (wanted - turned @ (shrunk * products)) / (1.0 - leverage).clamp_min(1e-12)
        choice.append({"l2": l2, "loo_rmse": float((left_out * left_out).mean().sqrt())})
    best = min(choice, key=lambda entry: entry["loo_rmse"])
    if len(choice) > 1 and best in (choice[0], choice[-1]):
        side = "smallest" if best is choice[0] else "largest"
        log.warning("regression: the best penalty, %g, is the %s tried; widen the choice with --l2", best["l2"], side)
    weight = rotation.axes @ (products / (rotation.variance + best["l2"]))
    scaled: Tensor = scaler(torch.from_numpy(task.test.features).to(device)).double()
    settings = {"l2": best["l2"], "penalties": list(penalties), "standardised": True, "choice": choice}
    return (scaled @ weight).cpu().numpy() + mean, settings


def _classes(
    task: NumberTask, penalties: Sequence[float], validation: float, seed: int, device: str
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    values, codes = np.unique(task.train.labels, return_inverse=True)
    if len(values) > MOST_CLASSES:
        raise UsageError(
            f"regression: '{task.target}' has {len(values):,} different numbers, too many for classes",
            "Write --method ridge",
        )
    fitted = fit_classifier(
        task.train.features, codes.astype(np.int64), len(values), penalties,
        validation=validation, seed=seed, device=device,
    )  # fmt: skip
    return values[fitted.logits(task.test.features).argmax(1)], fitted.settings


def _metrics(
    truth: NDArray[np.float64], prediction: NDArray[np.float64], whole: bool, draws: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Errors and correlations with bootstrap intervals; of whole numbers also how many are met, or nearly."""
    gap = np.abs(np.rint(prediction) - truth)
    shares = np.stack([gap == 0, gap <= 1], axis=1).astype(np.float64)

    def statistic(weights: Floats) -> Floats:
        size = weights.sum(1)
        squares = weights @ (prediction - truth) ** 2
        centre = weights @ truth / size
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = 1.0 - squares / (weights @ truth**2 - size * centre**2)
        numbers = [weights @ np.abs(prediction - truth) / size, np.sqrt(squares / size), r2,
                   spearman(truth, prediction, weights)]  # fmt: skip
        return np.stack([*numbers, *(weights @ shares / size[:, None]).T], axis=1)

    value, drawn = bootstrap(statistic, len(truth), draws=draws, seed=seed)
    kinds = {"mae": ("target", "lower"), "rmse": ("target", "lower"), "r2": ("number", ""), "spearman": ("number", "")}
    metrics = {
        name: metric(percentile(float(value[at]), drawn[:, at]), len(truth), *kinds.get(name, ()))
        for at, name in enumerate(METRIC_NAMES)
        if whole or name in NUMBERS
    }
    return metrics, {"method": "bootstrap of rows", "level": 1 - ALPHA, "draws": draws, "seed": seed}


def spearman(one: NDArray[np.float64], two: NDArray[np.float64], weights: Floats) -> Floats:
    """(B,) rank correlations of two (n,) series in weighted samples (B, n); NaN where one is constant."""
    a, b = (_ranks(values, weights) for values in (one, two))
    size = weights.sum(1, keepdims=True)
    a, b = (ranks - (weights * ranks).sum(1, keepdims=True) / size for ranks in (a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = (weights * a * b).sum(1)
        return np.asarray(covariance / np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1)))


def _ranks(values: NDArray[np.float64], weights: Floats) -> Floats:
    """(B, n) the middle rank of each row among as many copies of every row as its weight says."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    mass = np.add.reduceat(weights[:, order], first, axis=1)
    middle = np.cumsum(mass, axis=1) - mass / 2.0
    return np.asarray(middle[:, group])


def _predictions(task: NumberTask, prediction: NDArray[np.float64]) -> Predictions:
    """A table whose labels and predictions are numbers: each different one is a name."""
    texts = [np.array([number_text(float(f"{value:.9g}")) for value in values], dtype=object)
             for values in (task.test.labels, prediction)]  # fmt: skip
    names, codes = np.unique(np.concatenate(texts).astype(str), return_inverse=True)
    rows = len(prediction)
    return Predictions(
        keys=key_texts(task.test.keys),
        classes=tuple(names.tolist()),
        label=codes[:rows].astype(np.int32),
        prediction=codes[rows:].astype(np.int32),
        score=np.full(rows, np.nan),
        top=np.empty((rows, 0), dtype=np.int32),
        top_scores=np.empty((rows, 0)),
        columns={name: column for name, column in task.test.columns.items() if name != task.target},
    )
