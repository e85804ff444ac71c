"""The loss scale of float16 gradients: large enough that few become zero, small enough that none overflows.

The rule of Micikevicius et al. 2018 (arXiv 1710.03740): halved when a gradient is not finite, whose step is left out;
doubled after so many good steps. All ranks take the same decision, of which the numbers are part of a checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seerctl.recipe import ParallelConfig
from seerctl.train.optim import local_part

_SMALLEST = 1.0  # where gradients of this scale overflow, no scale helps
_KEY = "scaler.numbers"


class LossScaler:
    """A scale for each step, kept on the host; only with `parallel.precision = "fp16"` is it other than 1."""

    def __init__(self, config: ParallelConfig) -> None:
        self.active = config.precision == "fp16"
        self._growth = config.loss_scale_growth
        # scale, good steps since it changed, steps left out
        self._numbers = torch.tensor([config.loss_scale if self.active else 1.0, 0.0, 0.0], dtype=torch.float64)

    @property
    def scale(self) -> float:
        """What the loss of this step is multiplied by."""
        return float(self._numbers[0])

    @torch.no_grad()
    def unscale(self, model: nn.Module) -> Tensor:
        """Divide the gradients by the scale, in place; 1 where one of this rank's is not finite, else 0, float32 ()."""
        found = torch.zeros((), device=next(model.parameters()).device)
        if self.active:
            grads = [local_part(p.grad) for p in model.parameters() if p.grad is not None]
            inverse = torch.full((), 1 / self.scale, device=found.device)
            torch._amp_foreach_non_finite_check_and_unscale_([g for g in grads if g.numel()], found, inverse)
        return found

    def adapt(self, overflow: bool) -> bool:
        """Note how a step went; False where even the smallest scale overflows, so that training cannot go on."""
        if not self.active:
            return True
        scale, good, skipped = self._numbers.tolist()
        if overflow:
            self._numbers.copy_(torch.tensor([max(scale / 2, _SMALLEST), 0, skipped + 1]))
            return bool(scale > _SMALLEST)
        grown = good + 1 >= self._growth
        self._numbers.copy_(torch.tensor([scale * 2, 0, skipped] if grown else [scale, good + 1, skipped]))
        return True

    def facts(self) -> dict[str, Any]:
        """What a metrics row says: the scale, and how many steps of the run were left out."""
        return {"loss_scale": self.scale, "skipped": int(self._numbers[2])} if self.active else {}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold; loading fills the same tensor."""
        return {_KEY: self._numbers} if self.active else {}
