"""Multinomial logistic regression with an L2 penalty, to the optimum: the solver under the linear probe.

minimise over W (C, D), b (C):  1/n sum_i cross_entropy(W x_i + b, y_i) + l2/2 |W|^2      (b is not penalised)

This is scikit-learn's `LogisticRegression(C=1/(n l2))` with its objective divided by C n (of two classes scikit-learn
penalises one logit instead of both: there its C is 2/(n l2)). All penalties are fitted at once (see `minimise`), in the
principal axes of the features (see `axes`), scaled by an upper bound of the curvature along each (D. Boehning, Annals
of the Institute of Statistical Mathematics 44 (1992) 197-200), so that L-BFGS needs fewer steps; the optimum is the
same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seerctl.probes.axes import few_threads, pieces
from seerctl.probes.minimise import minimise

TOLERANCE = 1e-6  # leaves losses within 1e-4 of the lowest, also where variances fall by 1e4 (tests/bench)
WIDTH = 512  # logits of a row that are computed together: enough for a product at full speed


@dataclass(frozen=True, slots=True)
class Solution:
    """weight (C, D) and bias (C,) in the coordinates the features were given in; loss is the objective there."""

    l2: float
    weight: Tensor
    bias: Tensor
    loss: float
    steps: int

    def logits(self, features: Tensor) -> Tensor:
        """(n, C) for features (n, D)."""
        return features @ self.weight.T.to(features.dtype) + self.bias.to(features.dtype)


@dataclass(frozen=True, slots=True)
class Problem:
    """Rotated features (n, D), labels (n,) int64 below `classes`, and the variance (D,) along each axis."""

    features: Tensor
    labels: Tensor
    classes: int
    variance: Tensor

    def take(self, mask: Tensor) -> Problem:
        """The rows of `mask` (n,); the axes and their variance stay."""
        rows = torch.nonzero(mask).flatten()
        return Problem(self.features[rows], self.labels[rows], self.classes, self.variance)


def solve(problem: Problem, penalties: Sequence[float], tolerance: float = TOLERANCE) -> list[Solution]:
    """The optimum of `problem` for each of `penalties` (l2), in their order.

    Every third penalty is fitted first; the others start between its neighbours and need a few steps only.
    """
    ordered = sorted(set(penalties), reverse=True)
    first = sorted({*ordered[:: max(1, min(3, len(ordered) - 1))], ordered[-1]}, reverse=True)
    rest = [l2 for l2 in ordered if l2 not in first]
    most = max(1, WIDTH // problem.classes)
    found: dict[float, Solution] = {}
    for group in (first, rest):
        for begin in range(0, len(group), most):
            together = group[begin : begin + most]
            found |= zip(together, _solve_together(problem, together, found, tolerance), strict=True)
    return [found[l2] for l2 in penalties]


def _solve_together(
    problem: Problem, penalties: Sequence[float], known: Mapping[float, Solution], tolerance: float
) -> list[Solution]:
    features, classes, dim = problem.features, problem.classes, problem.features.shape[1]
    l2 = torch.tensor(penalties, dtype=torch.float64, device=features.device)
    curvature = 0.5 / classes  # at most, of the cross-entropy along a logit
    scale = (curvature * problem.variance + l2[:, None]).rsqrt()[:, None, :]  # (P, 1, D)
    bias_scale = curvature**-0.5  # unscaled biases, flatter than all else, would double the number of steps

    def function(point: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        weight = point[:, : classes * dim].view(-1, classes, dim) * scale[which]
        bias = point[:, classes * dim :] * bias_scale
        value, by_weight, by_bias = objective(features, problem.labels, weight, bias, l2[which])
        return value, torch.cat([(by_weight * scale[which]).flatten(1), by_bias * bias_scale], 1)

    begin = torch.zeros(len(l2), classes * (dim + 1), dtype=torch.float64, device=features.device)
    for row, penalty in enumerate(penalties if known else ()):
        weight, bias = _between(known, penalty)
        begin[row] = torch.cat([(weight / scale[row]).flatten(), bias / bias_scale])
    with torch.no_grad(), few_threads(features.numel() * classes * len(l2)):
        end = minimise(function, begin, tolerance=tolerance)
    weights = end.point[:, : classes * dim].view(-1, classes, dim) * scale
    biases = end.point[:, classes * dim :] * bias_scale
    return [
        Solution(penalty, weights[i], biases[i], float(end.value[i]), int(end.steps[i]))
        for i, penalty in enumerate(penalties)
    ]


def _between(known: Mapping[float, Solution], l2: float) -> tuple[Tensor, Tensor]:
    """Weight and bias between those of the closest known penalties on both sides, in log l2, or the closest one's."""
    above, below = [k for k in known if k >= l2], [k for k in known if k <= l2]
    one, two = known[min(above, default=max(known))], known[max(below, default=min(known))]
    share = math.log(one.l2 / l2) / math.log(one.l2 / two.l2) if one.l2 > two.l2 and above and below else 0.0
    return torch.lerp(one.weight, two.weight, share), torch.lerp(one.bias, two.bias, share)


def objective(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Values (P,) of the objective at P penalties `l2` and its gradients by weight (P, C, D) and bias (P, C), float64.

    Products are in the type of `features` (n, D), sums over pieces of rows in float64.
    """
    count, classes, dim = weight.shape
    narrow, narrow_bias = weight.to(features.dtype).reshape(-1, dim), bias.to(features.dtype).flatten()
    loss = torch.zeros_like(l2)
    by_weight, by_bias = weight.new_zeros(count * classes, dim), bias.new_zeros(count * classes)
    for piece in pieces(len(features), count * classes):
        rows, truth = features[piece], labels[piece, None, None].expand(-1, count, 1)
        logp = torch.addmm(narrow_bias, rows, narrow.T).view(-1, count, classes).log_softmax(2)
        loss -= logp.gather(2, truth).squeeze(2).sum(0, dtype=torch.float64)
        error = logp.exp_()
        error.scatter_add_(2, truth, error.new_full((1, 1, 1), -1.0).expand_as(truth))
        by_weight += (error.view(len(rows), -1).T @ rows).double()
        by_bias += error.view(len(rows), -1).sum(0, dtype=torch.float64)
    n = len(features)
    return (
        loss / n + 0.5 * l2 * (weight * weight).sum((1, 2)),
        by_weight.view(weight.shape) / n + l2[:, None, None] * weight,
        by_bias.view(bias.shape) / n,
    )
