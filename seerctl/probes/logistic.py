"""Multinomial logistic regression with an L2 penalty, to the optimum: the solver under the linear probe.

minimise over W (C, D), b (C):  1/n sum_i cross_entropy(W x_i + b, y_i) + l2/2 |W|^2      (b is not penalised)

This is scikit-learn's `LogisticRegression(C=1/(n l2))` with its objective divided by C n (of two classes scikit-learn
penalises one logit instead of both: there its C is 2/(n l2)). The features are rotated into
their principal axes once and scaled by an upper bound of the curvature along each (D. Boehning, Annals of the Institute
of Statistical Mathematics 44 (1992) 197-200), so that L-BFGS needs fewer steps; the optimum is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 65536  # rows whose logits are held at a time
MAX_STEPS = 1000
SMALL = 20_000_000  # multiplications of one evaluation
GRADIENT_TOLERANCE = 1e-6  # of the largest entry, in the scaled coordinates


@dataclass(frozen=True, slots=True)
class Scaler:
    """Features to zero mean and unit variance; a constant feature is only centred. mean, scale: (D,)."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Scaler:
        """Mean and standard deviation (of the population) of the rows of `features` (n, D)."""
        mean, deviation = features.double().mean(0), features.double().std(0, correction=0)
        deviation[deviation <= 1e-12 * mean.abs() + 1e-30] = 1.0
        return cls(mean, deviation)

    def __call__(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.scale).to(features.dtype)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Principal axes of standardised features: axes (D, D), one a column, and the variance along each, (D,)."""

    axes: Tensor
    variance: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Rotation:
        """Axes of the rows of `features` (n, D), whose mean is zero."""
        gram = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64, device=features.device)
        for first in range(0, len(features), ROWS):
            rows = features[first : first + ROWS]
            gram += (rows.T @ rows).double()
        variance, axes = torch.linalg.eigh(gram / len(features))
        return cls(axes, variance.clamp_min(0.0))


@dataclass(frozen=True, slots=True)
class Solution:
    """weight (C, D) and bias (C,) in the coordinates the features were given in; loss is the objective there."""

    weight: Tensor
    bias: Tensor
    loss: float
    steps: int

    def logits(self, features: Tensor) -> Tensor:
        """(n, C) for features (n, D)."""
        return features @ self.weight.T.to(features.dtype) + self.bias.to(features.dtype)


@dataclass(frozen=True, slots=True)
class Problem:
    """Rotated features (n, D) float32, labels (n,) int64 below `classes`, and the variance (D,) along each axis."""

    features: Tensor
    labels: Tensor
    classes: int
    variance: Tensor

    def take(self, mask: Tensor) -> Problem:
        """The rows of `mask` (n,); the axes and their variance stay."""
        rows = torch.nonzero(mask).flatten()
        return Problem(self.features[rows], self.labels[rows], self.classes, self.variance)


def solve(problem: Problem, l2: float, start: Solution | None = None) -> Solution:
    """The optimum of `problem`, begun from `start` (the solution for a close `l2`) where given."""
    features, classes = problem.features, problem.classes
    scale = (0.5 / classes * problem.variance + l2).rsqrt()
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64, device=features.device)
    bias = torch.zeros(classes, dtype=torch.float64, device=features.device)
    if start is not None:
        weight, bias = start.weight / scale, start.bias.clone()
    weight.requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_STEPS, history_size=20, tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=1e-12, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        true_weight = weight.detach() * scale
        loss, weight_gradient, bias_gradient = objective(features, problem.labels, true_weight, bias.detach(), l2)
        weight.grad, bias.grad = weight_gradient * scale, bias_gradient
        return loss

    with torch.no_grad(), _few_threads(features.numel() * classes):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        loss = float(closure())
    return Solution((weight * scale).detach(), bias.detach(), loss, optimizer.state[weight]["n_iter"])


@contextlib.contextmanager
def _few_threads(work: int) -> Iterator[None]:
    """One thread for `work` too small to share: on a busy machine its barriers would cost ten times the work."""
    before = torch.get_num_threads()
    if work < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def objective(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Value of the objective and its gradients by weight (C, D) and bias (C,), all float64, at any number of rows."""
    narrow, narrow_bias = weight.to(features.dtype), bias.to(features.dtype)
    loss = 0.5 * l2 * (weight * weight).sum()
    weight_gradient, bias_gradient = l2 * weight, torch.zeros_like(bias)
    for first in range(0, len(features), ROWS):
        rows, truth = features[first : first + ROWS], labels[first : first + ROWS]
        logp = torch.addmm(narrow_bias, rows, narrow.T).log_softmax(1)
        loss = loss - logp.gather(1, truth[:, None]).double().sum() / len(features)
        error = logp.exp_()
        error[torch.arange(len(rows), device=rows.device), truth] -= 1.0
        weight_gradient = weight_gradient + (error.T @ rows).double() / len(features)
        bias_gradient = bias_gradient + error.double().sum(0) / len(features)
    return loss, weight_gradient, bias_gradient
