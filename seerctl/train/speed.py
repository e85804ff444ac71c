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
from seerctl.train.parallel import assemble, computing_precision
from seerctl.train.world import World

# Dense peaks in TFLOP/s from NVIDIA's data sheets: float16 and bfloat16 with float32 accumulation, and TF32, in which
# torch runs float32 convolutions. The first name that is part of a device's wins, so longer ones stand first.
PEAKS: dict[str, tuple[float, float]] = {
    "B200": (2250.0, 1125.0),
    "H200": (989.4, 494.7),
    "H100 PCIe": (756.0, 378.0),
    "H100": (989.4, 494.7),
    "A100": (312.0, 156.0),
    "A40": (149.7, 74.8),
    "A30": (165.0, 82.0),
    "A10": (125.0, 62.5),
    "L40S": (362.1, 183.2),
    "L40": (181.1, 90.5),
    "L4": (121.0, 60.0),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
    "V100": (125.0, 15.7),  # has neither bfloat16 nor TF32
    "T4": (65.0, 8.1),
}
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
        name = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else ""
        peak = peak_of(name, computing_precision(recipe.parallel, world.device))
        return cls(flops_per_image(recipe, classes) if peak else 0.0, peak, world.size)

    def facts(self, images_per_second: float) -> dict[str, Any]:
        """What a metrics row says: `images_per_second_per_device`, and `mfu` (a share) where the peak is known."""
        each = images_per_second / self.devices
        return {
            "images_per_second_per_device": each,
            **({"mfu": each * self.flops / self.peak} if self.peak else {}),
        }


def peak_of(device: str, precision: str) -> float:
    """Operations a second of the GPU called `device` in `precision` ("fp32", "bf16", "fp16"); 0 if it is not known."""
    half, single = next((peaks for name, peaks in PEAKS.items() if name in device), (0.0, 0.0))
    return 1e12 * (single if precision == "fp32" else half)


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
