"""How fast a run is for what it computes: images of a device, and model FLOPs utilisation where its peak is known.

MFU (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): floating-point operations that the model needs, forward and
backward, over what the device could do at its peak. Recomputed activations do not count, nor do augmentation and loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seerctl.recipe import Recipe
from seerctl.train.hardware import recognise
from seerctl.train.parallel import assemble, computing_precision
from seerctl.train.world import World

_BACKWARD = 2  # times the forward pass: gradients of the inputs and of the weights


@dataclass(frozen=True, slots=True)
class Speed:
    """What one image costs (floating-point operations, a multiplication and an addition being two), and the peak.

    `peak`: operations a second of one device, 0 where it is not known. `devices`: how many share the images.
    """

    flops: float
    peak: float
    devices: int

    @classmethod
    def of(cls, recipe: Recipe, world: World, classes: int = 0) -> Speed:
        """That of `recipe` on the devices of `world`; `classes`: of a supervised recipe's data."""
        peak = 0.0
        # The data sheets' peaks are those of 16 bits.
        if world.device.type == "cuda" and computing_precision(recipe.parallel, world.device) != "fp32":
            properties = torch.cuda.get_device_properties(world.device)
            gpu = recognise(properties.name, properties.total_memory)
            peak = gpu.flops if gpu else 0.0
        return cls(flops_per_image(recipe, classes) if peak else 0.0, peak, world.size)

    def facts(self, images_per_second: float) -> dict[str, Any]:
        """What a metrics row says: `images_per_second_per_device`, and `mfu` (a share) where the peak is known."""
        each = images_per_second / self.devices
        return {
            "images_per_second_per_device": each,
            **({"mfu": each * self.flops / self.peak} if self.peak else {}),
        }


def flops_per_image(recipe: Recipe, classes: int = 0) -> float:
    """Operations of all crops of one image, forward and backward.

    Counted in a forward pass on the meta device, from which the backward pass follows: torch's counter takes the weight
    gradients of grouped convolutions for ungrouped ones, which is several times too much.
    """
    with torch.device("meta"):
        model = assemble(recipe.model, classes=classes).eval()
    crops, pad = recipe.augment.crops, recipe.loss.small_crops == "pad"
    # A multiplication and an addition for each weight of a linear layer.
    head = sum(2 * layer.weight.numel() for layer in model.head.modules() if isinstance(layer, nn.Linear))
    total = 0
    for crop in crops:
        size = crops[0].size if pad else crop.size
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.trunk(torch.empty(1, 3, size, size, device="meta"))
        total += crop.count * (counter.get_total_flops() + head)
    return float((1 + _BACKWARD) * total)
