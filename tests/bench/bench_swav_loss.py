"""SwAV's loss, forward and backward from scores (256 images, 8 crops, 3,000 prototypes), against lightly's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss import SwaVLoss
from torch import Tensor

from seerctl.train.objectives.swav import sinkhorn, swav_loss
from tests.bench.measure import in_turn

BATCH, CROPS, PROTOTYPES, DIMENSIONS = 256, 8, 3000, 128
TEMPERATURE, EPSILON, ITERATIONS = 0.1, 0.05, 3


def scores() -> list[Tensor]:
    """Cosines of random unit projections and prototypes, one (BATCH, PROTOTYPES) leaf per crop."""
    torch.manual_seed(0)
    prototypes = F.normalize(torch.randn(PROTOTYPES, DIMENSIONS), dim=1)
    views = [F.normalize(torch.randn(BATCH, DIMENSIONS), dim=1) for _ in range(CROPS)]
    return [(view @ prototypes.T).requires_grad_() for view in views]


def ours(views: list[Tensor]) -> Tensor:
    """Loss of all crops, codes from the first two."""
    codes = sinkhorn(torch.stack(views[:2]).detach(), EPSILON, ITERATIONS)
    return swav_loss(views, codes, CROPS, TEMPERATURE)


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    views = scores()
    criterion = SwaVLoss(TEMPERATURE, ITERATIONS, EPSILON)

    def backward(loss: Tensor) -> float:
        for view in views:
            view.grad = None
        loss.sum().backward()
        return loss.item()

    difference = abs(backward(ours(views)) - backward(criterion(views[:2], views[2:])))
    assert difference < 1e-5, f"the two losses differ by {difference}"
    mine, peer = in_turn(
        lambda: backward(ours(views)), lambda: backward(criterion(views[:2], views[2:])), repeats=15, cpu=True
    )
    return [
        {
            "name": "swav_loss", "ours": 1e3 * mine, "peer": 1e3 * peer, "ratio": peer / mine, "unit": "ms",
            "peer_name": "lightly SwaVLoss", "note": f"{BATCH} x {CROPS} x {PROTOTYPES}, one thread, CPU time",
        }
    ]  # fmt: skip
