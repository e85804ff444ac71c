"""What each block of a recipe's trunk keeps and computes, from a forward pass of one rank on the meta device.

No process group is needed, so that a run can ask for it while it is in one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from seerctl.model.heads import Model, SwAVHead
from seerctl.recipe import Recipe
from seerctl.train.parallel import DTYPES, assemble
from seerctl.train.planner.operations import Operations
from seerctl.train.planner.recompute import Block, Chain

Precision = Literal["fp32", "bf16", "fp16"]


def chain_of(recipe: Recipe, ranks: int, local: int, precision: Precision, classes: int = 0) -> Chain:
    """The blocks of `recipe` on one of `ranks` ranks, `local` of them on a node; `classes` of a supervised recipe.

    Crops of one kind go forward and backward before the next: bytes are those of the kind that takes most, operations
    and gathering of all together.
    """
    with torch.device("meta"):
        model = assemble(recipe.model, classes=classes).train()
    dtype = DTYPES[precision]
    _cast(model, dtype)
    rows = recipe.data.batch // ranks // recipe.parallel.accumulate
    kinds = [(kind.count * rows, kind.size) for kind in recipe.augment.crops]
    if recipe.loss.small_crops == "pad":
        kinds = [(sum(count for count, _ in kinds), kinds[0][1])]
    chains = [_measure(model, torch.empty(n, 3, size, size, dtype=dtype, device="meta")) for n, size in kinds]
    passes = len(chains) * recipe.parallel.accumulate
    group = local if recipe.parallel.shard == "node" else ranks
    share = (group - 1) / group if recipe.parallel.reshard_after_forward else 0.0
    return _joined(chains, recipe.parallel.accumulate, passes * share)


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Parameters as they are computed with: BatchNorm and prototypes in float32."""
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm) and name != "head.prototypes":
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def _joined(chains: list[Chain], steps: int, gatherings: float) -> Chain:
    """One chain of all kinds of crops; `steps`: how often a step goes through each."""
    blocks = tuple(
        Block(
            same[0].name,
            same[0].stage,
            max(one.entering for one in same),
            max(one.inside for one in same),
            steps * sum(one.flops for one in same),
            int(gatherings * same[0].gathering),
        )
        for same in zip(*(chain.blocks for chain in chains), strict=True)
    )
    before, leaving, after = (max(getattr(one, name) for one in chains) for name in ("before", "leaving", "after"))
    return Chain(blocks, before, leaving, after)


def _measure(model: Model, images: Tensor) -> Chain:
    """Bytes and operations of each block for these images."""
    with _Saved() as stem:
        x = model.trunk.stem(images)
    before, blocks = stem.bytes(without=[*model.parameters(), *model.buffers(), x]), []
    for stage, (sequence, names) in enumerate(zip(model.trunk.stages, model.trunk.block_names, strict=True)):
        for name, block in zip(names, sequence.children(), strict=True):
            x = x.detach().requires_grad_()
            with _Saved() as saved:
                out = block(x)
            inside = saved.bytes(without=[*block.parameters(), *block.buffers(), x, out])
            size = sum(p.numel() * p.element_size() for p in block.parameters())
            blocks.append(Block(name, stage, _bytes(x), inside, saved.operations.flops, size))
            x = out
    x = x.detach().requires_grad_()
    with _Saved() as head:
        features, top = model.trunk.avgpool(x).flatten(1), model.head
        # Without the autocast of a SwAV head's forward, which the meta device has not got.
        top.compare(top.projection(features)) if isinstance(top, SwAVHead) else top(features)
    after = head.bytes(without=[*model.parameters(), *model.buffers(), x])
    return Chain(tuple(blocks), before, _bytes(x), after)


class _Saved(TorchDispatchMode):
    """Collects what autograd keeps, and counts the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = Operations()
        self._tensors: list[Tensor] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Saved:
        self._stack.enter_context(torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def _keep(self, tensor: Tensor) -> Tensor:
        self._tensors.append(tensor)
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.operations.saw(func, args, kwargs, result)
        return result

    def bytes(self, without: list[Tensor]) -> int:
        """Bytes of all storages kept, but for those of some tensors."""
        left_out = set(_places(without))
        kept = {tensor.untyped_storage()._cdata: tensor for tensor in self._tensors}
        return sum(_bytes(tensor) for place, tensor in kept.items() if place not in left_out)


def _places(tensors: list[Tensor]) -> Iterator[int]:
    return (tensor.untyped_storage()._cdata for tensor in tensors)


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()
