"""L-BFGS for many smooth convex problems at once: one evaluation serves all of them, each has its own steps.

Fits of one feature matrix that differ in their penalty or class share its rows: a product with the weights of all of
them reads the matrix once and is several times faster than theirs in turn. Problems that are done leave the batch.

Source: J. Nocedal, Mathematics of Computation 35 (1980) 773-782 (two-loop recursion); Armijo's rule by halving.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HISTORY = 20
LARGE = 1 << 22  # numbers in all problems together from which on less history is kept
MAX_STEPS = 1000
TOLERANCE = 1e-7
SUFFICIENT = 1e-4  # of the decrease that the slope promises
NOISE = 1e-7  # of the value: what single precision cannot tell apart
HALVINGS = 15

# Point (A, N) of the problems `which` (A,) -> their values (A,) and gradients (A, N).
Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where P problems ended: point (P, N), value (P,), steps (P,), and whether each converged, (P,)."""

    point: Tensor
    value: Tensor
    steps: Tensor
    converged: Tensor


def minimise(function: Function, start: Tensor, *, tolerance: float = TOLERANCE, max_steps: int = MAX_STEPS) -> Minimum:
    """The minima of P problems from `start` (P, N) float64.

    A problem is done when the decrease that its next step promises is below `tolerance` times its value.
    """
    point, which = start.clone(), torch.arange(len(start), device=start.device)
    value, gradient = function(point, which)
    end = Minimum(point.clone(), value.clone(), torch.zeros_like(which), torch.zeros_like(which, dtype=torch.bool))
    memory = _Memory(HISTORY if start.numel() < LARGE else HISTORY // 3)
    for step in range(max_steps + 1):
        direction = -memory.times_inverse(gradient)
        slope = (direction * gradient).sum(1)
        done = -0.5 * slope <= tolerance * value
        if step == max_steps or done.any():
            leave = torch.ones_like(done) if step == max_steps else done
            gone = which[leave]
            end.point[gone], end.value[gone], end.steps[gone] = point[leave], value[leave], step
            end.converged[gone] = done[leave]
            stay = ~leave
            if not stay.any():
                break
            which, point, value, gradient = which[stay], point[stay], value[stay], gradient[stay]
            direction, slope = direction[stay], slope[stay]
            memory.keep(stay)
        new, new_value, new_gradient = _advance(function, point, value, direction, slope, which)
        memory.add(new - point, new_gradient - gradient)
        point, value, gradient = new, new_value, new_gradient
    return end


def _advance(
    function: Function, point: Tensor, value: Tensor, direction: Tensor, slope: Tensor, which: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The next points, each along its direction by the first of 1, 1/2, 1/4, ... that decreases it enough."""
    new = point + direction
    new_value, new_gradient = function(new, which)
    length = 1.0
    for _ in range(HALVINGS):
        bound = value + SUFFICIENT * length * slope + NOISE * value.abs()
        bad = torch.nonzero(~(new_value <= bound)).flatten()
        if not len(bad):
            break
        length *= 0.5
        new[bad] = point[bad] + length * direction[bad]
        new_value[bad], new_gradient[bad] = function(new[bad], which[bad])
    return new, new_value, new_gradient


class _Memory:
    """The last steps and changes of the gradient, and the inverse curvature that they stand for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # step (A, N), change (A, N), 1/<step, change> (A, 1)

    def add(self, step: Tensor, change: Tensor) -> None:
        product = (step * change).sum(1, keepdim=True)
        usable = product > 1e-14 * step.norm(dim=1, keepdim=True) * change.norm(dim=1, keepdim=True)
        # An inverse of zero leaves a pair out: nothing is learnt from a step without curvature.
        self.pairs.append((step, change, torch.where(usable, 1.0 / product, torch.zeros_like(product))))
        del self.pairs[: -self.size]

    def keep(self, stay: Tensor) -> None:
        self.pairs = [(step[stay], change[stay], inverse[stay]) for step, change, inverse in self.pairs]

    def times_inverse(self, gradient: Tensor) -> Tensor:
        """(A, N) the approximate inverse Hessian times `gradient`."""
        found, weights = gradient.clone(), []
        for step, change, inverse in reversed(self.pairs):
            weights.append(inverse * (step * found).sum(1, keepdim=True))
            found -= weights[-1] * change
        if self.pairs:
            _, change, inverse = self.pairs[-1]
            squared = (change * change).sum(1, keepdim=True)
            scale = 1.0 / (inverse * squared)
            found *= torch.where(torch.isfinite(scale), scale, torch.ones_like(scale))
        for (step, change, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            found += (weight - inverse * (change * found).sum(1, keepdim=True)) * step
        return found
