"""The RegNetY trunk (Radosavovic et al. 2020) with torchvision's key names and explicit widths.

Its layers are our own, equal to `torchvision.models.regnet` weight for weight (tests/model/test_regnet.py): importing
that module brings all of torchvision and torch._dynamo with it, a seventh of what a training rank needs to start.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from seerctl.model.sizes import RegNetSize
from seerctl.model.stages import NormLayer, Trunk, batch_norm


class RegNetTrunk(Trunk):
    """A RegNet of explicit widths without its classifier: 3x3 convolution with stride 2, then stages that halve."""

    stem_keeps_output = True  # it ends in a ReLU

    def __init__(self, size: RegNetSize, norm_layer: NormLayer = batch_norm) -> None:
        super().__init__()
        self.size: RegNetSize = size
        self.stem = _convolution(3, size.stem_width, norm_layer, kernel=3, stride=2)
        self.trunk_output = nn.Sequential()
        before = size.stem_width
        for number, width in enumerate(size.widths, 1):
            self.trunk_output.add_module(f"block{number}", _stage(size, number, before, norm_layer))
            before = width
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """block1, block2, ..."""
        return tuple(self.trunk_output.children())

    @property
    def block_names(self) -> tuple[tuple[str, ...], ...]:
        """block1-0, block1-1, ..."""
        return tuple(tuple(name for name, _ in stage.named_children()) for stage in self.stages)


class Block(nn.Module):
    """x -> ReLU(f(x) + x): 1x1, grouped 3x3, squeeze and excitation, 1x1; `proj` where the shape changes."""

    def __init__(self, before: int, width: int, stride: int, size: RegNetSize, group: int, norm: NormLayer) -> None:
        super().__init__()
        self.proj: nn.Module | None = None
        if before != width or stride != 1:
            self.proj = _convolution(before, width, norm, stride=stride, relu=False)
        parts: list[tuple[str, nn.Module]] = [
            ("a", _convolution(before, width, norm)),
            ("b", _convolution(width, width, norm, kernel=3, stride=stride, groups=width // group)),
        ]
        if size.se_ratio:
            # A share of what enters the block, not of what is squeezed.
            parts.append(("se", SqueezeExcitation(width, round(size.se_ratio * before))))
        parts.append(("c", _convolution(width, width, norm, relu=False)))
        self.f = nn.Sequential(OrderedDict(parts))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, width, H / stride, W / stride)."""
        kept = x if self.proj is None else self.proj(x)
        out: Tensor = self.activation(kept + self.f(x))
        return out


class SqueezeExcitation(nn.Module):
    """Scales each channel by a sigmoid of two layers of all channels' means (Hu et al. 2018)."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        scale = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        out: Tensor = scale * x
        return out


def _stage(size: RegNetSize, number: int, before: int, norm: NormLayer) -> nn.Sequential:
    """Stage `number` (from 1) of blocks, the first of which halves the map."""
    width, group = size.widths[number - 1], size.group_widths[number - 1]
    stage = nn.Sequential()
    for block in range(size.depths[number - 1]):
        enters, stride = (width, 1) if block else (before, 2)
        stage.add_module(f"block{number}-{block}", Block(enters, width, stride, size, group, norm))
    return stage


def _convolution(
    before: int, width: int, norm: NormLayer, *, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, ReLU."""
    convolution = nn.Conv2d(before, width, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, norm(width), *([nn.ReLU(inplace=True)] if relu else []))
