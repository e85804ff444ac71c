"""Logistic regression at ten penalties, 50,000 x 512, 10 classes, against scikit-learn's L-BFGS at the same optimum.

Features like a trunk's: sums of rectified numbers, standardised, whose variances along the principal axes fall from 139
over 25 (5th), 3.7 (17th), 0.55 (65th), 0.09 (201st) to 0.009 (512th). Of the 384 features of a small RegNetY, early in
its training on CIFAR-10, they fall from 88 over 17, 2.4, 0.50, 0.07 to 0.007.

Both begin with the same standardised float32 matrix; ours fits all penalties at once, rotation included, at its default
tolerance. Every loss of ours has to be within 1e-4 of the lowest known (ours in double precision, at a tighter
tolerance). scikit-learn's `tol` at each penalty is the largest that gets there, from its default on, and only that fit
is timed; where none does, the one at its default is, and the note says by how much it misses. logistic: its fits begin
at zero, as they do in scikit-learn. logistic_warm: each begins at the one before.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from seerctl.probes.axes import Rotation
from seerctl.probes.logistic import TOLERANCE, Problem, Solution, objective, solve

ROWS, DIM, CLASSES = int(os.environ.get("BENCH_ROWS", "50000")), 512, 10
PENALTIES = [float(l2) for l2 in np.logspace(-6, 0, 10)]
SIGNAL = 0.1  # of the class means, in deviations
SAME = 1e-4  # relative difference of losses
SLOW = True
TOLS = (1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7, 1e-8)

Fit = tuple[NDArray[np.float64], NDArray[np.float64]]  # weight (C, D), bias (C,)


def run() -> list[dict[str, Any]]:
    features, labels = _features()
    best = [solution.loss for solution in _solutions(torch.from_numpy(features).double(), labels, 1e-8)]
    timed = [_ours(features, labels)]
    results = []
    for name, warm in (("logistic", False), ("logistic_warm", True)):
        peer = _peer(features, labels, best, warm)
        timed.append(_ours(features, labels))
        results.append((name, peer[0], "warm starts" if warm else "cold", _worst(features, labels, best, peer[1])))
    worst = max(_worst(features, labels, best, fits) for _, fits in timed)
    assert worst < SAME, f"ours: a loss is {worst:.1e} above the lowest"
    ours = statistics.median(seconds for seconds, _ in timed)
    note = (
        f"{ROWS:,} x {DIM}, {CLASSES} classes, {len(PENALTIES)} penalties; losses at most {worst:.1e} above the lowest"
    )
    return [{
        "name": name, "ours": ours, "peer": peer, "ratio": peer / ours, "unit": "s of processor time",
        "peer_name": f"scikit-learn lbfgs, {start}", "note": f"{note}, its {its:.1e}",
    } for name, peer, start, its in results]  # fmt: skip


def _worst(features: NDArray[np.float32], labels: NDArray[np.int64], best: list[float], fits: list[Fit]) -> float:
    """How far the losses of `fits` are above the lowest, relative to it, at most."""
    losses = [_loss(features, labels, fit, l2) for fit, l2 in zip(fits, PENALTIES, strict=True)]
    return max(loss / low - 1 for loss, low in zip(losses, best, strict=True))


def _features() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, ROWS)
    spread = (1.0 + np.arange(DIM)) ** -0.75
    turn, _ = np.linalg.qr(generator.normal(size=(DIM, DIM)))
    centres = SIGNAL * generator.normal(size=(CLASSES, DIM))
    features = (np.maximum(generator.normal(size=(ROWS, DIM)) + centres[labels], 0) * spread) @ turn
    return ((features - features.mean(0)) / features.std(0)).astype(np.float32), labels


def _solutions(rows: Tensor, labels: NDArray[np.int64], tolerance: float) -> tuple[Solution, ...]:
    rotation = Rotation.fit(rows)
    found = solve(Problem(rotation(rows), torch.from_numpy(labels), CLASSES, rotation.variance), PENALTIES, tolerance)
    return tuple(replace(solution, weight=solution.weight @ rotation.axes.T.double()) for solution in found)


def _ours(features: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, list[Fit]]:
    started = time.process_time()
    found = _solutions(torch.from_numpy(features), labels, TOLERANCE)
    return time.process_time() - started, [(s.weight.numpy(), s.bias.numpy()) for s in found]


def _peer(
    features: NDArray[np.float32], labels: NDArray[np.int64], best: list[float], warm: bool
) -> tuple[float, list[Fit]]:
    """Seconds of the fits that reach the optimum (of one at the default `tol`, where none does), and all fits."""
    seconds, fits, start = 0.0, [], None
    for l2, low in sorted(zip(PENALTIES, best, strict=True), reverse=True):
        tries: list[tuple[float, Fit]] = []
        for tol in TOLS:
            tries.append(_fit(features, labels, LogisticRegression(C=1 / (ROWS * l2), tol=tol), start))
            if _loss(features, labels, tries[-1][1], l2) < (1 + SAME) * low:
                seconds += tries[-1][0]
                fits.append(tries[-1][1])
                break
        else:
            seconds += tries[0][0]
            fits.append(tries[0][1])
        start = fits[-1] if warm else None
    return seconds, fits[::-1]


def _fit(
    features: NDArray[np.float32], labels: NDArray[np.int64], model: LogisticRegression, start: Fit | None
) -> tuple[float, Fit]:
    model.set_params(max_iter=10_000, warm_start=True)
    if start is not None:
        model.coef_, model.intercept_ = start[0].copy(), start[1].copy()
    began = time.process_time()
    model.fit(features, labels)
    return time.process_time() - began, (model.coef_, model.intercept_)


def _loss(features: NDArray[np.float32], labels: NDArray[np.int64], fit: Fit, l2: float) -> float:
    weight, bias = (torch.from_numpy(np.asarray(part, dtype=np.float64))[None] for part in fit)
    penalty = torch.tensor([l2], dtype=torch.float64)
    return float(objective(torch.from_numpy(features), torch.from_numpy(labels), weight, bias, penalty)[0])
