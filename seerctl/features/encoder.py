"""A frozen model as a function from pixels to feature vectors, several layers in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD
from seerctl.errors import UsageError, did_you_mean
from seerctl.features.layers import Layer
from seerctl.features.pooling import pool
from seerctl.model.heads import SwAVHead
from seerctl.model.load import TORCHVISION, WEIGHTS_FILE, LoadedModel, load_model
from seerctl.model.weights import load_into, load_weights

HEAD = "head"
DEFAULT_LAYER = "avgpool"
Precision = Literal["float32", "bfloat16"]


class Encoder(nn.Module):
    """(B, 3, S, S) uint8 pixels -> one float32 (B, D) for each of `layers`.

    res2 ... res5 are the outputs of the stages, pooled as each layer says, avgpool the trunk's own average (the same as
    of the last stage), head the unit projection of the SwAV head. bfloat16 runs the convolutions so; weights, BatchNorm
    and results stay float32.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, model: LoadedModel, head: SwAVHead | None, layers: Sequence[Layer], precision: Precision
    ) -> None:
        super().__init__()
        self.trunk, self.head, self.layers, self.precision = model.trunk, head, tuple(layers), precision
        mean = 255.0 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        deviation = 255.0 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", 1.0 / deviation, persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Features of `pixels`, in the order of `layers`."""
        images = (pixels.float() - self.mean) * self.scale
        with self._autocast(images.device.type):
            names = [layer.name for layer in self.layers]
            wanted = dict.fromkeys("avgpool" if name == HEAD else name for name in names)
            found = self.trunk.features(images, tuple(wanted))
        if self.head is not None and HEAD in names:
            found[HEAD] = self.head(found["avgpool"].float()).projections
        return [pool(found[layer.name], layer) for layer in self.layers]

    def _autocast(self, device: str) -> AbstractContextManager[object]:
        return torch.autocast(device, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()


def load_encoder(
    spec: str, layers: Sequence[Layer], precision: Precision, device: torch.device
) -> tuple[LoadedModel, Encoder]:
    """The model that `spec` names (see `load_model`), ready to encode on `device`, in eval mode.

    Raises:
        UsageError: a layer that it does not have, or that cannot be pooled so.
        InputError, EnvironmentFault: as `load_model`.
    """
    model = load_model(spec)
    known = (*model.trunk.layers, HEAD)
    for layer in layers:
        if layer.name not in known:
            raise UsageError(f"{spec}: no layer '{layer.name}'", did_you_mean(layer.name, known))
        pool(torch.ones((1, 1) if layer.name in (DEFAULT_LAYER, HEAD) else (1, 1, 1, 1)), layer)  # or a UsageError
    head = load_head(spec, model.widths[-1]) if any(layer.name == HEAD for layer in layers) else None
    encoder = Encoder(model, head, layers, precision).eval().requires_grad_(False)
    return model, encoder.to(device).to(memory_format=torch.channels_last)


def load_head(spec: str, trunk_width: int) -> SwAVHead:
    """The SwAV head in the weights file of `spec`, its sizes read from the shapes.

    Raises:
        UsageError: the model has no head.
        InputError: the file is damaged, or its head is none of ours.
    """
    name = spec.partition("@")[2] if spec.startswith(TORCHVISION) else spec
    path = Path(name) / WEIGHTS_FILE if Path(name).is_dir() else Path(name)
    state = load_weights(path).head if name and path.is_file() else {}
    linear = sorted((int(key.split(".")[1]), key) for key, value in state.items()
                    if key.startswith("projection.") and key.endswith(".weight") and value.ndim == 2)  # fmt: skip
    if not linear or "prototypes.weight" not in state:
        raise UsageError(f"{spec}: no layer '{HEAD}', these weights have no SwAV head", f"Use --layer {DEFAULT_LAYER}")
    dims = [state[key].shape[0] for _, key in linear]
    normed = any(key.endswith("running_mean") for key in state)
    norm = partial(nn.BatchNorm1d, eps=1e-5) if normed else None
    head = SwAVHead(trunk_width, dims, state["prototypes.weight"].shape[0], norm)
    load_into(head, state, spec)
    return head
