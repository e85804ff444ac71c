"""What all trunks have in common: a stem, stages of residual blocks, an average; features by stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from seerctl.errors import UsageError, did_you_mean
from seerctl.model.sizes import Size

NormLayer = Callable[[int], nn.Module]
batch_norm: NormLayer = partial(nn.BatchNorm2d, eps=1e-5, momentum=0.1)


class Trunk(nn.Module):
    """A network without its classifier: (B, 3, H, W) -> (B, widths[-1]), average-pooled.

    Recomputation, sharding, the planner and feature extraction know a trunk by `stem`, `stages` and `avgpool` alone.
    """

    size: Size
    stem: Callable[[Tensor], Tensor]
    avgpool: Callable[[Tensor], Tensor]
    stem_keeps_output: bool  # for its own backward, so that forgetting it elsewhere saves nothing

    @property
    @abstractmethod
    def stages(self) -> tuple[nn.Module, ...]:
        """The stages, input side first; the children of each are its residual blocks, in order."""

    @property
    @abstractmethod
    def block_names(self) -> tuple[tuple[str, ...], ...]:
        """What plans call the blocks of each stage."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names that `features` knows: res2 (first stage) ... res5, avgpool."""
        return (*(f"res{stage + 2}" for stage in range(len(self.size.widths))), "avgpool")

    def blocks(self) -> Iterator[nn.Module]:
        """The residual blocks, input side first."""
        for stage in self.stages:
            yield from stage.children()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> average-pooled features (B, widths[-1])."""
        return self.avgpool(self._map(images)).flatten(1)

    def _map(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return x

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
        for name, stage in zip(self.layers, self.stages, strict=False):
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
        x = self._map(images)
        width, whole = x.shape[-1], images.shape[-1]
        seen = [-(-size * width // whole) for _, size in spans]
        parts = torch.split(x, [count for count, _ in spans])
        return torch.cat([self.avgpool(part[..., :s, :s]).flatten(1) for part, s in zip(parts, seen, strict=True)])
