"""Floating-point operations and collectives of a step, counted as its operators are called."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_iter

_COLLECTIVES = {
    "_allgather_base_": "all_gather", "allgather_": "all_gather", "allgather_into_tensor_coalesced_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter", "reduce_scatter_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "allreduce_": "all_reduce", "allreduce_coalesced_": "all_reduce", "broadcast_": "broadcast",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Collective:
    """Collectives of one kind over groups of one size: how many a step, and the bytes that a rank sends in a ring."""

    kind: str
    ranks: int
    count: int
    bytes: int


class Operations:
    """Counts what is worth counting: multiply-adds of convolutions and matrix products as two operations each."""

    def __init__(self) -> None:
        self.flops = 0
        self._counts: Counter[tuple[str, int]] = Counter()
        self._bytes: Counter[tuple[str, int]] = Counter()

    def saw(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """One call of the operator `func`."""
        if func.namespace == "aten":
            self.flops += flops_of(func, args, kwargs, result)
        elif func.namespace == "c10d":
            self._collective(func, args, kwargs)

    def collectives(self) -> list[Collective]:
        """All of them, the most bytes first."""
        found = [Collective(kind, ranks, count, self._bytes[kind, ranks])
                 for (kind, ranks), count in self._counts.items()]  # fmt: skip
        return sorted(found, key=lambda one: (-one.bytes, one.kind, one.ranks))

    def _collective(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        kind = _COLLECTIVES.get(func._opname)
        if kind is None:
            return
        inputs = [*args, *kwargs.values()]
        ranks = next((_size(one) for one in inputs if isinstance(one, torch.ScriptObject)), 1)
        sizes = [one.numel() * one.element_size() for one in tree_iter(inputs) if isinstance(one, Tensor)]
        whole = max(sizes, default=0)
        share = (ranks - 1) / ranks
        self._counts[kind, ranks] += 1
        self._bytes[kind, ranks] += int(whole * share * (2 if kind == "all_reduce" else 1))


def _size(group: torch.ScriptObject) -> int:
    return int(dist.ProcessGroup.unbox(group).size())


def flops_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> int:
    """Operations of one call: of convolutions with groups, whose backward torch's own counter overstates, too.

    A convolution's input gradient and weight gradient take as many as its forward: each output element meets
    (input channels / groups) * kernel elements once.
    """
    name = func._opname
    if name in ("convolution", "_convolution"):
        return _convolution(result.shape, args[1].shape)
    if name == "convolution_backward":
        wanted = args[10] if len(args) > 10 else kwargs["output_mask"]
        return _convolution(args[0].shape, args[2].shape) * sum(map(bool, wanted[:2]))
    if name in ("mm", "bmm"):
        return _product(args[0].shape, args[1].shape[-1])
    if name in ("addmm", "baddbmm"):
        return _product(args[1].shape, args[2].shape[-1])
    if name in ("mv", "dot"):
        return _product(args[0].shape, 1)
    return 0


def _product(left: Sequence[int], columns: int) -> int:
    return 2 * math.prod(left) * columns


def _convolution(output: Sequence[int], weight: Sequence[int]) -> int:
    # weight (O, I / groups, kh, kw): each of the N * O * H * W outputs takes I / groups * kh * kw multiply-adds.
    return 2 * math.prod(output) * math.prod(weight[1:])
