"""Multi-Modal Moment Matching as a quadratic programme over patterns of equal rows, and its solver in the dual.

    minimise 1/2 E[(q - eta)^2]   subject to   0 <= q <= bound,   E[q] = eta (where the mean is kept),
    |E[q (s_k - pi_k)]| <= eps_R,   |E[q (s_k - pi_k) y_r]| <= eps_D   for all k, r.

Source: I. Alabdulmohsin et al., CLIP the Bias: How Useful is Balancing Data in Multimodal Learning? (ICLR 2024, arXiv
2403.04547). Its online updates are replaced by a Newton method that ends at the optimum.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

TOLERANCE = 1e-9  # on every constraint, in units of E[q s]
CAPS = (10.0, 1e2, 1e3, 1e4, 1e6, 1e8)  # of multipliers: what wants more than the last of them cannot be met
_STEPS = 500
_HALVINGS = 60
_DENSE = 2500  # more free multipliers than this, and Newton's equations are solved by conjugate gradients


@dataclass(frozen=True, slots=True, eq=False)
class Programme:
    """The programme over P patterns, J distinct rows of labels, K attributes and R labels.

    centred: (P, K) s_k - pi_k, 0 where the attribute is unknown. mass: (P,) shares of the rows, they sum to 1. Patterns
    with equal labels are neighbours: those of row j of `labels` (J, R; 0 or 1) are starts[j] to starts[j + 1].
    eps: (1 + R, K), first the limits of the attributes, then of their products with each label; inf where there is
    none. keep_mean: whether E[q] has to be eta.
    """

    centred: Floats
    mass: Floats
    starts: NDArray[np.int64]
    labels: Floats
    eps: Floats
    eta: float
    bound: float
    keep_mean: bool = True

    def __post_init__(self) -> None:
        rows, width = len(self.mass), self.centred.shape[1]
        assert self.centred.shape == (rows, width)
        assert self.eps.shape == (1 + self.labels.shape[1], width)
        assert len(self.starts) == len(self.labels) + 1
        assert self.starts[0] == 0
        assert self.starts[-1] == rows

    @property
    def largest(self) -> float:
        """No q within its limits has a larger objective: a dual value above it proves that no q meets the rest."""
        return 0.5 * max(self.eta, self.bound - self.eta) ** 2


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """q: (P,) the weights of the patterns. objective: 1/2 E[(q - eta)^2]; `lower` is proven to be below any optimum.

    moments: (1 + R, K), the constrained expectations. excess: (1 + R, K) by how much they break their limits, all 0
    where the programme can be met; where it cannot, the sum over the excess is the least that is possible.
    """

    q: Floats
    objective: float
    lower: float
    moments: Floats
    excess: Floats
    steps: int

    @property
    def feasible(self) -> bool:
        """Whether every constraint is met."""
        return not self.excess.any()


class NotConverged(ArithmeticError):
    """The solver stopped short of the optimum: a bug, or numbers beyond what doubles hold."""


def solve(programme: Programme) -> Solution:
    """The optimum of `programme`, or, where there is none, weights that break the constraints least (l1).

    The dual with multipliers limited to |l| <= cap is that of the programme with the penalty cap * sum(excess), which
    is exact once the cap exceeds every multiplier (M4's soft constraints): what is still broken at the last cap cannot
    be met.

    Raises:
        NotConverged: no optimum to within `TOLERANCE` after 500 steps.
    """
    start = np.zeros(programme.eps.size + 1)
    steps = 0
    for cap in CAPS:
        start, taken = _minimise(_Dual(programme, cap), start)
        steps += taken
        solution = _solution(programme, start, cap, steps)
        if solution.feasible or solution.lower > programme.largest:
            break
    return solution


def _solution(programme: Programme, multipliers: Floats, cap: float, steps: int) -> Solution:
    dual = _Dual(programme, cap)
    point = dual.at(multipliers)
    moments = point.moments[:-1].reshape(programme.eps.shape)
    excess = np.maximum(np.abs(moments) - programme.eps, 0.0)
    excess[excess <= 10 * TOLERANCE] = 0.0
    objective = 0.5 * float(programme.mass @ (point.q - programme.eta) ** 2)
    return Solution(point.q, objective, -point.value, moments, excess, steps)


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """The dual at one place: its value (to be minimised), q, and the constrained moments, E[q] last."""

    value: float
    q: Floats
    moments: Floats


class _Dual:
    """F(l) = sum of mass * psi(z) + eps |l| + eta nu over |l| <= cap, with z = sum of l_rk y_r (s_k - pi_k) + nu.

    psi(z) = -min over q in [0, bound] of (q - eta)^2 / 2 + q z, whose derivative is -q(z) = -clip(eta - z, 0, bound).
    """

    def __init__(self, programme: Programme, cap: float) -> None:
        self.p = programme
        self.eps = np.append(programme.eps.ravel(), 0.0)
        self.target = np.zeros(len(self.eps))
        self.target[-1] = programme.eta
        self.cap = np.full(len(self.eps), cap)
        self.cap[~np.isfinite(self.eps)] = 0.0
        self.cap[-1] = np.inf if programme.keep_mean else 0.0
        self.rows = np.concatenate([np.ones((len(programme.labels), 1)), programme.labels], axis=1)  # (J, 1 + R)

    def spans(self) -> Iterator[tuple[int, slice]]:
        """The patterns of each row of labels."""
        starts = self.p.starts.tolist()
        return ((j, slice(start, end)) for j, (start, end) in enumerate(itertools.pairwise(starts)))

    def forward(self, multipliers: Floats) -> Floats:
        """(P,) z of every pattern."""
        by_labels = self.rows @ multipliers[:-1].reshape(self.p.eps.shape)
        z = np.empty(len(self.p.mass))
        for j, span in self.spans():
            z[span] = self.p.centred[span] @ by_labels[j]
        return np.asarray(z + multipliers[-1])

    def backward(self, weights: Floats) -> Floats:
        """The moments of (P,) weights, their sum last."""
        sums = np.empty((len(self.rows), self.p.centred.shape[1]))
        for j, span in self.spans():
            sums[j] = weights[span] @ self.p.centred[span]
        return np.append((self.rows.T @ sums).ravel(), weights.sum())

    def at(self, multipliers: Floats) -> _Point:
        """Value, q and moments."""
        p, z = self.p, self.forward(multipliers)
        q = np.clip(p.eta - z, 0.0, p.bound)
        psi = -(0.5 * (q - p.eta) ** 2 + q * z)
        limits = np.where(self.cap > 0, self.eps, 0.0) * np.abs(multipliers)
        value = float(p.mass @ psi) + float(limits.sum()) + float(self.target @ multipliers)
        return _Point(value, q, self.backward(p.mass * q))

    def gradient(self, multipliers: Floats, point: _Point) -> Floats:
        """The steepest one-sided derivative of each multiplier; 0 where it stays in either direction."""
        smooth = self.target - point.moments
        eps = np.where(self.cap > 0, self.eps, 0.0)
        side = np.sign(multipliers)
        at_zero = np.where(smooth + eps < 0, smooth + eps, np.where(smooth - eps > 0, smooth - eps, 0.0))
        found = np.where(side == 0, at_zero, smooth + eps * side)
        found[(multipliers >= self.cap) & (found < 0)] = 0.0
        found[(multipliers <= -self.cap) & (found > 0)] = 0.0
        return found

    def curvature(self, q: Floats) -> Floats:
        """(P,) mass where q is strictly inside its limits: only there does it move with z."""
        return np.where((q > 0) & (q < self.p.bound), self.p.mass, 0.0)

    def hessian(self, curvature: Floats, free: NDArray[np.int64]) -> Floats:
        """The second derivatives by the multipliers `free` (F, F): a sum over rows of labels of Kronecker products."""
        width, last = self.p.centred.shape[1], len(self.eps) - 1
        label, attribute = np.divmod(free[free < last], width)
        whole = np.zeros((len(free), len(free)))
        mean = len(free) - 1 if len(free) and free[-1] == last else -1
        for j, span in self.spans():
            rows, weights = self.p.centred[span], curvature[span]
            inside = weights > 0
            if not inside.any():
                continue
            rows, weights = rows[inside], weights[inside]
            mine = np.flatnonzero(self.rows[j, label])
            weighted = rows * weights[:, None]
            products = rows.T @ weighted
            places = attribute[mine]
            whole[np.ix_(mine, mine)] += products[np.ix_(places, places)]
            if mean >= 0:
                sums = weighted.sum(0)[places]
                whole[mean, mine] += sums
                whole[mine, mean] += sums
                whole[mean, mean] += weights.sum()
        return whole

    def project(self, multipliers: Floats, side: Floats) -> Floats:
        """Into the box, and not beyond zero: each multiplier keeps its side."""
        inside = np.clip(multipliers, -self.cap, self.cap)
        inside[:-1][inside[:-1] * side[:-1] < 0] = 0.0
        return inside


def _minimise(dual: _Dual, start: Floats) -> tuple[Floats, int]:
    """The minimum of the dual by Newton steps on the multipliers that are free, each followed by a line search."""
    x = dual.project(start, np.sign(start))
    point = dual.at(x)
    for step in range(_STEPS):
        gradient = dual.gradient(x, point)
        if np.abs(gradient).max(initial=0.0) <= TOLERANCE:
            return x, step
        side = np.where(x != 0, np.sign(x), -np.sign(gradient))
        direction = _newton(dual, x, gradient, dual.curvature(point.q))
        found = _search(dual, x, point, gradient, direction, side)
        if found is None:  # Newton's model was too good to be true: a plain step, scaled to the largest curvature
            scale = 1.0 / max(float(np.abs(dual.p.centred).sum(1).max() ** 2), 1.0)
            found = _search(dual, x, point, gradient, -scale * gradient, side)
        if found is None:
            if np.abs(gradient).max() <= 100 * TOLERANCE:
                return x, step
            break
        x, point = found
    raise NotConverged(f"no optimum after {_STEPS} steps: {np.abs(dual.gradient(x, point)).max():.1e} is left")


def _newton(dual: _Dual, x: Floats, gradient: Floats, curvature: Floats) -> Floats:
    """Newton's direction over the free multipliers; those at zero that it would send to the wrong side are not free."""
    pushed_out = (np.abs(x) >= dual.cap) & (gradient == 0)
    free = np.flatnonzero(((x != 0) | (gradient != 0)) & ~pushed_out)
    while True:
        step = _solve(dual, curvature, free, -gradient[free])
        wrong = (x[free] == 0) & (step * gradient[free] > 0) & (free < len(x) - 1)
        if not wrong.any():
            direction = np.zeros(len(x))
            direction[free] = step
            return direction
        free = free[~wrong]


def _solve(dual: _Dual, curvature: Floats, free: NDArray[np.int64], right: Floats) -> Floats:
    """(H + a little) step = right; the little makes directions without curvature long, but finite."""
    if len(free) <= _DENSE:
        hessian = dual.hessian(curvature, free)
        little = 1e-10 * max(float(np.trace(hessian)) / max(len(free), 1), 1e-6)
        hessian[np.diag_indices_from(hessian)] += little
        return np.asarray(np.linalg.solve(hessian, right))
    little = 1e-10

    def times(vector: Floats) -> Floats:
        whole = np.zeros(len(dual.eps))
        whole[free] = vector.ravel()
        return dual.backward(curvature * dual.forward(whole))[free] + little * vector.ravel()

    operator = LinearOperator((len(free), len(free)), matvec=times, dtype=np.float64)
    return np.asarray(cg(operator, right, rtol=1e-3, maxiter=200)[0])


def _search(
    dual: _Dual, x: Floats, point: _Point, gradient: Floats, direction: Floats, side: Floats
) -> tuple[Floats, _Point] | None:
    """The first of the steps 1, 1/2, 1/4, ... that lowers the dual enough (Armijo), or None."""
    length = 1.0
    for _ in range(_HALVINGS):
        tried = dual.project(x + length * direction, side)
        promised = float(gradient @ (tried - x))
        if promised < 0:
            there = dual.at(tried)
            if there.value <= point.value + 1e-4 * promised:
                return tried, there
        length *= 0.5
    return None
