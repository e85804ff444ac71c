"""Trunks of every family by their sizes."""

from __future__ import annotations

from seerctl.model.regnet import RegNetTrunk
from seerctl.model.resnet import ResNetTrunk
from seerctl.model.sizes import ResNetSize, Size
from seerctl.model.stages import NormLayer, Trunk, batch_norm

__all__ = ["NormLayer", "Trunk", "batch_norm", "build_trunk"]


def build_trunk(size: Size, norm_layer: NormLayer = batch_norm) -> Trunk:
    """A trunk of `size` on the current default device (`with torch.device("meta")` costs no memory)."""
    if isinstance(size, ResNetSize):
        return ResNetTrunk(size, norm_layer)
    return RegNetTrunk(size, norm_layer)
