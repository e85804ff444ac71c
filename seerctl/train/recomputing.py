"""Activation checkpoints: blocks that backward computes again, by fairscale's wrapper or torch's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from fairscale.nn.checkpoint import checkpoint_wrapper as fairscale_checkpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from seerctl.model.heads import Model
from seerctl.train.planner.recompute import Chunk

Forward = Callable[[Tensor], Tensor]


def checkpoint_blocks(
    model: Model, wrapper: str, chunks: Sequence[Chunk] | None = None, *, offload: bool = False
) -> None:
    """Recompute the activations of `chunks` in backward, None: of each block; BatchNorm counts a batch once.

    A chunk is the (first, last) of its blocks, all of one stage: only what enters it is kept, with `offload` in the
    memory of the host, unless the module before it keeps that on the GPU anyway. Names of parameters stay.
    """
    count = len(list(model.trunk.blocks()))
    mine = [(number, number) for number in range(count)] if chunks is None else list(chunks)
    forgetful = {last + 1 for _, last in mine} | (set() if model.trunk.stem_keeps_output else {0})
    start = 0
    for stage in model.trunk.stages:
        blocks = list(stage.children())
        end = start + len(blocks)
        parts: list[Forward] = list(blocks)
        for first, last in sorted((chunk for chunk in mine if start <= chunk[0] < end), reverse=True):
            away = offload and first in forgetful
            here = slice(first - start, last - start + 1)
            if first == last:
                blocks[first - start].forward = _recomputed(blocks[first - start], wrapper, away)
            else:
                parts[here] = [_recomputed(nn.Sequential(*blocks[here]), wrapper, away)]
        if len(parts) < len(blocks):
            stage.forward = partial(_through, parts)
        start = end


def _through(parts: Sequence[Forward], x: Tensor) -> Tensor:
    for part in parts:
        x = part(x)
    return x


def _recomputed(module: nn.Module, wrapper: str, offload: bool) -> Forward:
    """The forward pass of `module` that keeps nothing but its input."""
    if wrapper == "fairscale":
        forward: Forward = partial(_holding, module, fairscale_checkpoint(module).forward)
    else:
        again = partial(_recomputation, module)
        forward = partial(checkpoint, module.forward, use_reentrant=False, context_fn=again)
    return partial(_offloading, forward) if offload else forward


def _offloading(forward: Forward, x: Tensor) -> Tensor:
    # Both wrappers keep the input of their module by autograd, and while they compute nothing else.
    with torch.autograd.graph.saved_tensors_hooks(to_host, from_host):
        return forward(x)


def to_host(tensor: Tensor) -> tuple[torch.device, Tensor]:
    """A copy of a GPU's tensor in pinned memory, and where it came from; a tensor that is on the host as it is.

    torch's `save_on_cpu` does the same, but not in the memory format of the tensor.
    """
    if tensor.device.type == "cpu":
        return tensor.device, tensor
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return tensor.device, host.copy_(tensor, non_blocking=True)


def from_host(packed: tuple[torch.device, Tensor]) -> Tensor:
    """The tensor of `to_host` back where it was."""
    device, tensor = packed
    return tensor.to(device, non_blocking=True)


def _holding(_: nn.Module, forward: Forward, x: Tensor) -> Tensor:
    # fairscale's wrapper refers to its module weakly, and a chunk belongs to no other module.
    return forward(x)


def _recomputation(block: nn.Module) -> tuple[Any, Any]:
    return contextlib.nullcontext(), _frozen_statistics(block)


@contextlib.contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    # By momentum: without track_running_stats the recomputation would save other tensors than the forward did.
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
