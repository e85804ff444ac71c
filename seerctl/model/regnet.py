"""The RegNet trunk: torchvision's blocks and key names, explicit widths."""

from __future__ import annotations

from torch import nn
from torchvision.models.regnet import BlockParams, RegNet

from seerctl.model.sizes import RegNetSize
from seerctl.model.stages import NormLayer, Trunk, batch_norm


class RegNetTrunk(Trunk, RegNet):  # type: ignore[misc]
    """torchvision's RegNet without its classifier.

    Its weights are SEER's initialisation drawn by torchvision: convolutions N(0, 2 / (k^2 * out_channels)), groups not
    counted; BatchNorm 1 and 0. `seerctl.model.init` draws them reproducibly and for sharded parameters.
    """

    stem_keeps_output = True  # it ends in a ReLU

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
        del self.fc
        self.size = size

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """block1, block2, ..."""
        return tuple(self.get_submodule("trunk_output").children())

    @property
    def block_names(self) -> tuple[tuple[str, ...], ...]:
        """block1-0, block1-1, ..."""
        return tuple(tuple(name for name, _ in stage.named_children()) for stage in self.stages)
