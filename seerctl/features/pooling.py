"""Maps to vectors: the poolings that `LAYER:POOL` names (see `layers`), in float32."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seerctl.errors import UsageError
from seerctl.features.layers import Layer, region_slots, rmac_regions

_SMALLEST = 1e-6  # of gem: what it takes for 0 and below


class Tokens(NamedTuple):
    """A transformer's layer: its patches as a map (B, C, H, W), and the class token (B, C) if there is one."""

    map: Tensor
    first: Tensor | None


Value = Tensor | Tokens  # of a layer: a map (B, C, H, W), a vector (B, D), or tokens


def pool(value: Value, layer: Layer, *, mirrored: bool = False, square: bool = True) -> Tensor:
    """One float32 vector (B, D) for each picture.

    mirrored: the pictures were, so the map is turned back: places of grids and regions then mean the same as without.
    square: the pictures are; otherwise `regions` has room for the most that a shape can have, the rest is zeros.

    Raises:
        UsageError: the layer has no such thing, as places in a vector or a first token in a map.
    """
    if layer.kind == "cls":
        if not isinstance(value, Tokens) or value.first is None:
            raise UsageError(f"layer '{layer}': has no class token", f"Ask for {layer.name}")
        return value.first.float()
    places = value.map if isinstance(value, Tokens) else value
    if places.ndim == 2:
        if layer.kind != "avg":
            raise UsageError(
                f"layer '{layer}': {layer.name} is a vector, there is nothing to pool",
                f"Pool a map, as res5:{layer.pool}",
            )
        return places.float()
    return _pooled(places.flip(-1).float() if mirrored else places.float(), layer, square)


def _pooled(places: Tensor, layer: Layer, square: bool) -> Tensor:
    if layer.kind == "max":
        return places.amax((2, 3))
    if layer.kind == "gem":
        return places.clamp(min=_SMALLEST).pow(layer.power).mean((2, 3)).pow(1 / layer.power)
    if layer.kind == "grid":
        return F.adaptive_avg_pool2d(places, layer.grid).flatten(1)
    if layer.kind == "rmac":
        return F.normalize(_regions(places, layer.levels).sum(1), dim=1)
    if layer.kind == "regions":
        found = _regions(places, layer.levels)
        return F.pad(found, (0, 0, 0, region_slots(layer.levels, square) - found.shape[1])).flatten(1)
    return places.mean((2, 3))


def _regions(places: Tensor, levels: int) -> Tensor:
    """The maximum of every region, of unit length: (B, R, C)."""
    found = [
        places[:, :, top : top + side, left : left + side].amax((2, 3))
        for top, left, side in rmac_regions(places.shape[2], places.shape[3], levels)
    ]
    return F.normalize(torch.stack(found, dim=1), dim=2)
