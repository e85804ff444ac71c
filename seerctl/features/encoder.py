"""A frozen model as a function from pixels to feature vectors, several layers in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from seerctl.features.batches import Pictures
from seerctl.features.layers import Layer
from seerctl.features.networks import Network
from seerctl.features.pixels import View
from seerctl.features.pooling import pool

DEFAULT_LAYER = "avgpool"
Precision = Literal["float32", "bfloat16", "float16"]
PASS_PIXELS = 64 * 224 * 224  # of whole pictures in one pass: what bounds the memory of their maps


class Encoder(nn.Module):
    """(B, 3, H, W) uint8 pixels -> one float32 (B, D) for each layer.

    `precision` is what convolutions and matrix products run in; weights, BatchNorm's statistics and results stay
    float32. The mean over a picture and its mirror image is taken of the pooled vectors, with the map of the mirror
    image turned back.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: Network, view: View, precision: Precision) -> None:
        super().__init__()
        self.network, self.view, self.precision = network, view, precision
        deviation = 255.0 * torch.tensor(view.deviation).view(1, 3, 1, 1)
        self.register_buffer("mean", 255.0 * torch.tensor(view.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1.0 / deviation, persistent=False)

    def forward(self, pixels: Tensor, layers: Sequence[Layer]) -> list[Tensor]:
        """Features of `pixels`, in the order of `layers`."""
        images = (pixels.float() - self.mean) * self.scale
        found = self._pooled(images, layers, mirrored=False)
        if not self.view.mirror:
            return found
        turned = self._pooled(images.flip(-1), layers, mirrored=True)
        return [(one + other) / 2 for one, other in zip(found, turned, strict=True)]

    def encode(self, groups: Sequence[Pictures], layers: Sequence[Layer]) -> list[Tensor]:
        """Features (B, D) of a batch's pictures, which may have several shapes, on the encoder's device.

        Pictures of one shape go through together, whole ones at most `PASS_PIXELS` at a time.
        """
        if len(groups) == 1 and not self.view.whole:
            found: list[Tensor] = self(self._moved(groups[0].pixels), layers)
            return found
        rows = torch.tensor([row for group in groups for row in group.rows], device=self.mean.device)
        parts = [self(self._moved(part), layers) for group in groups for part in self._passes(group.pixels)]
        order = rows.argsort()
        return [torch.cat(of_layer)[order] for of_layer in zip(*parts, strict=True)]

    def _passes(self, pixels: Tensor) -> Sequence[Tensor]:
        at_once = max(1, PASS_PIXELS // (pixels.shape[2] * pixels.shape[3])) if self.view.whole else len(pixels)
        return torch.split(pixels, at_once)

    def _moved(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.mean.device, non_blocking=True)

    def _pooled(self, images: Tensor, layers: Sequence[Layer], *, mirrored: bool) -> list[Tensor]:
        with self._autocast(images.device.type):
            found = self.network.features(images, tuple(dict.fromkeys(layer.name for layer in layers)))
        return [pool(found[layer.name], layer, mirrored=mirrored, square=not self.view.whole) for layer in layers]

    def _autocast(self, device: str) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device, getattr(torch, self.precision))


def make_encoder(
    network: Network, view: View, layers: Sequence[Layer], precision: Precision, device: torch.device, where: str
) -> Encoder:
    """`network` ready to encode `layers` of what `view` shows, on `device`; `where` is what errors name.

    Raises:
        UsageError: a layer that it does not have, or that cannot be pooled so.
        InputError: it does not take such pictures.
    """
    names = tuple(dict.fromkeys(layer.name for layer in layers))
    shapes = [(view.size, view.size)]
    shapes += [(max(1, view.size * 3 // 4), view.size)] if view.whole else []
    for shape in shapes:
        found = network.try_out(names, shape, where)
        for layer in layers:
            pool(found[layer.name], layer, square=not view.whole)
    encoder = Encoder(network, view, precision).eval().requires_grad_(False)
    return encoder.to(device).to(memory_format=torch.channels_last)
