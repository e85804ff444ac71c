"""Heads: SwAV's (projection, L2 normalisation, prototypes; Caron et al. 2020, section 3) and a linear classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seerctl.model.trunk import Trunk


class Prediction(NamedTuple):
    """What the model says of a batch of crops: unit projections (N, D) and scores (N, K), both float32."""

    projections: Tensor
    scores: Tensor


class SwAVHead(nn.Module):
    """Linear, [BatchNorm], ReLU, ..., Linear; then unit length; then cosine with K prototypes.

    `dims` are the widths of the linear layers after the trunk (10B: 8192, 8192, 256); the last one has neither
    BatchNorm nor ReLU. The projections reach the prototypes in float32, whatever the trunk runs in.
    """

    def __init__(
        self,
        trunk_width: int,
        dims: Sequence[int],
        prototypes: int,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [trunk_width, *dims]
        for index, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(before, after))
            if index < len(dims) - 1:
                layers += [norm_layer(after)] if norm_layer else []
                layers.append(nn.ReLU(inplace=True))
        self.projection = nn.Sequential(*layers)
        self.prototypes = nn.Linear(dims[-1], prototypes, bias=False)

    def forward(self, features: Tensor) -> Prediction:
        """Trunk features (N, trunk_width) -> projections (N, dims[-1]) of unit length and scores (N, prototypes)."""
        projected = self.projection(features)
        with torch.autocast(features.device.type, enabled=False):
            return self.compare(projected)

    def compare(self, projected: Tensor) -> Prediction:
        """Projections (N, dims[-1]) of any length -> those of length 1, and their cosines with the prototypes."""
        projections = F.normalize(projected.float(), dim=1)
        return Prediction(projections, self.prototypes(projections))


class ClassifierHead(nn.Module):
    """One linear layer from pooled trunk features to the logits of C classes.

    Its keys in a weights file are `head.clf.0.weight` (C, trunk_width) and `head.clf.0.bias` (C,), as in VISSL's
    fine-tuned checkpoints.
    """

    def __init__(self, trunk_width: int, classes: int) -> None:
        super().__init__()
        self.clf = nn.Sequential(nn.Linear(trunk_width, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Trunk features (N, trunk_width) -> logits (N, C), float32."""
        logits: Tensor = self.clf(features)
        return logits.float()


class SwAVModel(nn.Module):
    """Trunk and head as one module, so that one root shards, saves and loads both.

    `autocast` runs the trunk and the projection in a half precision; sharded models leave it at None and cast their
    parameters.
    """

    autocast: torch.dtype | None = None

    def __init__(self, trunk: Trunk, head: SwAVHead) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, crops: Tensor, spans: Sequence[tuple[int, int]] | None = None) -> Prediction:
        """Crops (N, 3, S, S) of one size, or padded to it (`spans`: see `Trunk.pooled`) -> their `Prediction`."""
        with torch.autocast(crops.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            features = self.trunk(crops) if spans is None else self.trunk.pooled(crops, spans)
            prediction: Prediction = self.head(features)
        return prediction


class Classifier(nn.Module):
    """Trunk and linear head as one module; `autocast` as in `SwAVModel`."""

    autocast: torch.dtype | None = None

    def __init__(self, trunk: Trunk, head: ClassifierHead) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, crops: Tensor) -> Tensor:
        """Images (N, 3, S, S) -> logits (N, C), float32."""
        with torch.autocast(crops.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            logits: Tensor = self.head(self.trunk(crops))
        return logits


Model = SwAVModel | Classifier
