"""Linear classifiers of one class against the rest, for many classes, penalties and training sets of one matrix.

minimise over w (D,), b, for each pair of a class and a penalty:
    1/n sum_i v_i loss(y_i (w x_i + b)) + l2/2 |(w, b)|^2        over the n rows with an answer for the class

loss: logistic, or the squared hinge max(0, 1 - m)^2. v_i is `weight_positive` for positives, else 1. The bias is
penalised with the squared hinge, as liblinear does, and not with the logistic loss: `LinearSVC(C=c, class_weight={1:
v})` is l2 = 1/(c n). All pairs are fitted at once (see `minimise`), in the principal axes of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seerctl.probes.axes import Rotation, few_threads, pieces
from seerctl.probes.minimise import TOLERANCE, minimise

Loss = Literal["logistic", "squared_hinge"]
WIDTH = 1024  # pairs that are fitted together
EXACT = 1 << 22  # numbers of a feature matrix up to which products are in double precision


@dataclass(frozen=True, slots=True)
class Fits:
    """weight (P, C, D) and bias (P, C) float64 for P penalties and C classes; whether each converged, (P, C)."""

    weight: Tensor
    bias: Tensor
    converged: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """(P, n, C) w x + b for features (n, D)."""
        dtype = features.dtype
        return torch.einsum("nd,pcd->pnc", features, self.weight.to(dtype)) + self.bias.to(dtype)[:, None, :]


def fit_each(
    features: Tensor,
    answers: Tensor,
    penalties: Sequence[Sequence[float]] | Tensor,
    loss: Loss,
    *,
    weight_positive: float = 1.0,
    tolerance: float = TOLERANCE,
) -> Fits:
    """Fit every class at every penalty.

    features: (n, D). answers: (n, C) 1 positive, 0 negative, -1 unknown. penalties: (P, C), l2 of each class.
    """
    rows = features.double() if features.numel() <= EXACT else features
    if loss == "squared_hinge":  # the bias is one more weight
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    rotation = Rotation.fit(rows)
    turned = rotation(rows)
    l2 = torch.as_tensor(penalties, dtype=torch.float64, device=rows.device)
    classes = torch.arange(l2.shape[1], device=rows.device).expand(l2.shape).flatten()
    points, converged = [], []
    for first in range(0, l2.numel(), WIDTH):
        part = slice(first, first + WIDTH)
        problem = _Problem(turned, answers, classes[part], l2.flatten()[part], rotation.variance, loss, weight_positive)
        point, done = problem.solve(tolerance)
        points.append(point)
        converged.append(done)
    whole = torch.cat(points)
    weight = (whole[:, :-1] @ rotation.axes.T.double()).view(*l2.shape, -1)
    bias = whole[:, -1].view(l2.shape)
    if loss == "squared_hinge":
        weight, bias = weight[..., :-1].contiguous(), weight[..., -1]
    return Fits(weight, bias, torch.cat(converged).view(l2.shape))


@dataclass(frozen=True, slots=True)
class _Problem:
    """Pairs (K,) of a class and an l2 over rotated features (n, R)."""

    features: Tensor
    answers: Tensor
    classes: Tensor
    l2: Tensor
    variance: Tensor
    loss: Loss
    weight_positive: float

    def solve(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """(K, R + 1) weights and bias, the latter 0 with the squared hinge; (K,) whether each converged."""
        curvature = (0.25 if self.loss == "logistic" else 2.0) * max(1.0, self.weight_positive)
        scale = (curvature * self.variance + self.l2[:, None]).rsqrt()
        bias_scale = curvature**-0.5 if self.loss == "logistic" else 0.0
        scale = torch.cat([scale, torch.full_like(scale[:, :1], bias_scale)], 1)
        counts = (self.answers >= 0).sum(0).double().clamp_min(1.0)

        def function(point: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = self._objective(point * scale[which], which, counts)
            return value, gradient * scale[which]

        begin = torch.zeros(len(self.l2), len(self.variance) + 1, dtype=torch.float64, device=self.features.device)
        with torch.no_grad(), few_threads(self.features.numel() * len(self.l2)):
            end = minimise(function, begin, tolerance=tolerance)
        return end.point * scale, end.converged

    def _objective(self, point: Tensor, which: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        classes, l2 = self.classes[which], self.l2[which]
        narrow = point.to(self.features.dtype)
        value, gradient = torch.zeros_like(l2), torch.zeros_like(point)
        for piece in pieces(len(self.features), len(which)):
            rows = self.features[piece]
            scores = torch.addmm(narrow[:, -1], rows, narrow[:, :-1].T)
            losses, slopes = _losses(scores, self.answers[piece][:, classes], self.loss, self.weight_positive)
            value += losses.sum(0, dtype=torch.float64)
            gradient[:, :-1] += (slopes.T @ rows).double()
            gradient[:, -1] += slopes.sum(0, dtype=torch.float64)
        n = counts[classes]
        weights = point[:, :-1]
        gradient /= n[:, None]
        gradient[:, :-1] += l2[:, None] * weights
        return value / n + 0.5 * l2 * (weights * weights).sum(1), gradient


def _losses(scores: Tensor, answers: Tensor, loss: Loss, weight_positive: float) -> tuple[Tensor, Tensor]:
    """The weighted loss of each score and its derivative; nothing where the answer is unknown."""
    sign = (2 * answers - 1).to(scores.dtype)
    importance = (answers == 1) * (weight_positive - 1.0) + (answers >= 0).to(scores.dtype)
    if loss == "logistic":
        margin = sign * scores
        return importance * torch.nn.functional.softplus(-margin), -importance * sign * torch.sigmoid(-margin)
    slack = (1.0 - sign * scores).clamp_min(0.0)
    return importance * slack * slack, -2.0 * importance * sign * slack
