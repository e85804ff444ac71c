"""Reproducible initial weights: every tensor from (seed, its name), so that no rank count or build order matters."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def init_weights(model: nn.Module, seed: int) -> None:
    """Fill parameters and buffers of `model` in place; sharded parameters get their part of the same full tensor.

    Convolutions N(0, 2 / (k^2 * out_channels)) with groups not counted (SEER, as ClassyVision's RegNet), their biases
    and linear layers torch's default U(-1/sqrt(fan_in), 1/sqrt(fan_in)), BatchNorm 1 and 0, as `reset_parameters`.
    """
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            module.reset_parameters()
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                _fill(parameter, module, name, seed, f"{path}.{name}" if path else name)


def _fill(parameter: Tensor, module: nn.Conv2d | nn.Linear, name: str, seed: int, key: str) -> None:
    device = parameter.device
    generator = torch.Generator(device).manual_seed(_seed_of(seed, key))
    full = torch.empty(parameter.shape, dtype=torch.float32, device=device)
    if isinstance(module, nn.Conv2d) and name == "weight":
        full.normal_(0.0, math.sqrt(2.0 / (full[0, 0].numel() * full.shape[0])), generator=generator)
    else:
        bound = 1.0 / math.sqrt(module.weight.shape[1:].numel())
        full.uniform_(-bound, bound, generator=generator)
    fill(parameter, full)


@torch.no_grad()
def fill(parameter: Tensor, full: Tensor) -> None:
    """Copy `full` into `parameter`; of a sharded parameter every rank, holding the same `full`, takes its own part."""
    if isinstance(parameter, DTensor):
        full = full.to(parameter.device)
        # src_data_rank=None: nothing is sent.
        full = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.copy_(full)


def _seed_of(seed: int, key: str) -> int:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
