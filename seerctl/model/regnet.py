"""The RegNetY trunk: torchvision's blocks and key names, explicit widths, features by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.regnet import BlockParams, RegNet

from seerctl.errors import UsageError, did_you_mean
from seerctl.model.sizes import RegNetSize

NormLayer = Callable[[int], nn.Module]
batch_norm: NormLayer = partial(nn.BatchNorm2d, eps=1e-5, momentum=0.1)


class Trunk(RegNet):  # type: ignore[misc]
    """torchvision's RegNet without its classifier: (B, 3, H, W) -> (B, widths[-1]), average-pooled."""

    def __init__(self, size: RegNetSize, norm_layer: NormLayer = batch_norm) -> None:
        stages = len(size.widths)
        params = BlockParams(
            depths=list(size.depths),
            widths=list(size.widths),
            group_widths=list(size.group_widths),
            bottleneck_multipliers=[1.0] * stages,
            strides=[2] * stages,
            se_ratio=size.se_ratio,
        )
        super().__init__(params, num_classes=1, stem_width=size.stem_width, norm_layer=norm_layer)
        self.fc = nn.Identity()
        self.size = size

    @property
    def layers(self) -> tuple[str, ...]:
        """Names that `features` knows: res2 (first stage) ... res5, avgpool."""
        return (*(f"res{stage + 2}" for stage in range(len(self.size.widths))), "avgpool")

    def blocks(self) -> Iterator[nn.Module]:
        """The residual blocks, input side first."""
        for stage in self.trunk_output:
            yield from stage

    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The asked-for layers from one forward pass, which ends at the deepest of them.

        Shapes: `res2` ... `res5` (B, C, H, W) after the stage's last ReLU, `avgpool` (B, widths[-1]).

        Raises:
            UsageError: a layer that the trunk does not have.
        """
        for name in layers:
            if name not in self.layers:
                raise UsageError(f"the trunk has no layer '{name}'", did_you_mean(name, self.layers))
        found: dict[str, Tensor] = {}
        x = self.stem(images)
        for name, stage in zip(self.layers, self.trunk_output, strict=False):
            if len(found) == len(set(layers)):
                return found
            x = stage(x)
            if name in layers:
                found[name] = x
        if "avgpool" in layers:
            found["avgpool"] = self.avgpool(x).flatten(1)
        return found

    def pooled(self, images: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
        """Average-pooled features (N, widths[-1]) of images (N, 3, S, S) that zeros fill up beyond their own size.

        `spans`: (count, size) of runs of images, whose picture is the upper left size x size. Only the part of the last
        map that saw it is pooled, as VISSL did with SEER's small crops; BatchNorm and squeeze see the zeros too.
        """
        x = self.trunk_output(self.stem(images))
        width, whole = x.shape[-1], images.shape[-1]
        seen = [-(-size * width // whole) for _, size in spans]
        parts = x.split([count for count, _ in spans])
        return torch.cat([self.avgpool(part[..., :s, :s]).flatten(1) for part, s in zip(parts, seen, strict=True)])


def build_trunk(size: RegNetSize, norm_layer: NormLayer = batch_norm) -> Trunk:
    """A trunk of `size` on the current default device (`with torch.device("meta")` costs no memory).

    Its weights are SEER's initialisation drawn by torchvision: convolutions N(0, 2 / (k^2 * out_channels)), groups not
    counted; BatchNorm 1 and 0. `seerctl.model.init` draws them reproducibly and for sharded parameters.
    """
    return Trunk(size, norm_layer)
