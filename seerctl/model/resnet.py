"""The ResNet trunk of bottleneck blocks (He et al. 2016), with torchvision's blocks and key names.

The stride of a stage is that of its first block's 3x3 convolution ("v1.5"), as in torchvision, VISSL and SwAV, whose
own file pads by a layer of its own and computes the same.
"""

from __future__ import annotations

from torch import Tensor, nn

from seerctl.model.sizes import ResNetSize
from seerctl.model.stages import NormLayer, Trunk, batch_norm


class ResNetTrunk(Trunk):
    """A ResNet of explicit widths without its classifier: 7x7 convolution, maximum, stages of bottlenecks."""

    stem_keeps_output = False  # it ends in a maximum, which needs only what enters it

    def __init__(self, size: ResNetSize, norm_layer: NormLayer = batch_norm) -> None:
        super().__init__()
        self.size: ResNetSize = size
        self.conv1 = nn.Conv2d(3, size.stem_width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(size.stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        before = size.stem_width
        for stage, width in enumerate(size.widths):
            self.add_module(f"layer{stage + 1}", _stage(size, stage, before, norm_layer))
            before = width
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))

    def stem(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, stem_width, H / 4, W / 4)."""
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return x

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """layer1, layer2, ..."""
        return tuple(self.get_submodule(f"layer{stage + 1}") for stage in range(len(self.size.widths)))

    @property
    def block_names(self) -> tuple[tuple[str, ...], ...]:
        """layer1.0, layer1.1, ..."""
        return tuple(
            tuple(f"layer{stage + 1}.{block}" for block in range(depth)) for stage, depth in enumerate(self.size.depths)
        )


def _stage(size: ResNetSize, stage: int, before: int, norm_layer: NormLayer) -> nn.Sequential:
    """The blocks of one stage; the first halves the map (but in the first stage) and projects its input."""
    from torchvision.models.resnet import Bottleneck  # noqa: PLC0415  # a second that RegNets do without

    width, stride = size.widths[stage], 1 if stage == 0 else 2
    planes, groups, base = size.planes(stage)
    project = None
    if stride > 1 or before != width:
        project = nn.Sequential(nn.Conv2d(before, width, kernel_size=1, stride=stride, bias=False), norm_layer(width))
    first = Bottleneck(before, planes, stride, project, groups, base, 1, norm_layer)
    rest = (Bottleneck(width, planes, 1, None, groups, base, 1, norm_layer) for _ in range(size.depths[stage] - 1))
    return nn.Sequential(first, *rest)
