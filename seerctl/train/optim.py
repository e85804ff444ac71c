"""Optimisers and the learning rate by step. Parameters may be sharded (DTensor): norms are those of whole tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.nn.modules.batchnorm import _BatchNorm

from seerctl.recipe import OptimConfig, ScheduleConfig


class LARC(torch.optim.SGD):
    """SGD with momentum whose gradients are scaled tensor by tensor (You et al. 2017, arXiv 1708.03888), as SEER's.

    g <- (g + decay * p) * trust * |p| / (|g| + decay * |p| + eps), capped at the learning rate with `clip`; a tensor of
    norm zero keeps its gradient, a gradient of norm zero stays zero (Apex's LARC). One all-reduce serves all norms.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        eps: float = 1e-8,
        clip: bool = False,
        nesterov: bool = False,
    ) -> None:
        params = list(params)
        super().__init__(params, lr, momentum=momentum, weight_decay=0.0, nesterov=nesterov, **_kernels(params))
        for group in self.param_groups:
            group.setdefault("larc_decay", weight_decay)
        self.trust, self.eps, self.clip = trust, eps, clip

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Scale the gradients in place, then take the SGD step."""
        assert closure is None
        groups = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        flat = [p for group in groups for p in group]
        if flat:
            # Once: a model has hundreds of them, and each is a call.
            params, grads = [local_part(p) for p in flat], [local_part(p.grad) for p in flat]
            of_params, of_grads = _norms([*params, *grads], shard_group(flat)).chunk(2)
            first = 0
            for options, group in zip(self.param_groups, groups, strict=True):
                mine = slice(first, first := first + len(group))
                if group:
                    self._scale(params[mine], grads[mine], of_params[mine], of_grads[mine], options)
        super().step()

    def _scale(
        self, params: list[Tensor], grads: list[Tensor], p_norm: Tensor, g_norm: Tensor, options: dict[str, Any]
    ) -> None:  # fmt: skip
        decay = options["larc_decay"]
        scale = self.trust * p_norm / (g_norm + decay * p_norm + self.eps)
        if self.clip:
            scale = (scale / options["lr"]).clamp(max=1.0)
        scale = torch.where(g_norm == 0, 0.0, torch.where(p_norm == 0, 1.0, scale))
        if decay:
            torch._foreach_add_(grads, params, alpha=decay)
        torch._foreach_mul_(grads, list(scale.unbind()))


@torch.no_grad()
def tensor_norms(tensors: Sequence[Tensor | None]) -> Tensor:
    """2-norms (len(tensors),) float32 of whole tensors, from their shards, with one all-reduce.

    Every rank must pass the same tensors in the same order; a rank without rows of one still takes part.
    """
    present = [tensor for tensor in tensors if tensor is not None]
    return _norms([local_part(tensor) for tensor in present], shard_group(present))


def _norms(parts: Sequence[Tensor], group: dist.ProcessGroup | None) -> Tensor:
    """2-norms of the whole tensors of which these are parts, split over `group`."""
    squares = torch.stack(torch._foreach_norm([part.float() for part in parts])).square_()
    if group is not None:
        dist.all_reduce(squares, group=group)
    return squares.sqrt_()


def global_norm(model: nn.Module) -> Tensor:
    """The 2-norm () of all gradients of `model` together."""
    return tensor_norms([parameter.grad for parameter in model.parameters()]).square().sum().sqrt()


@torch.no_grad()
def scale_gradients(model: nn.Module, factor: Tensor) -> None:
    """Multiply all gradients of `model` by the scalar tensor `factor`, in place."""
    torch._foreach_mul_([local_part(p.grad) for p in model.parameters() if p.grad is not None], factor)


def shard_group(tensors: Iterable[Tensor]) -> dist.ProcessGroup | None:
    """The ranks over which the first sharded one of `tensors` is split; None when all are whole."""
    for tensor in tensors:
        if isinstance(tensor, DTensor):
            for dimension, placement in enumerate(tensor.placements):
                if isinstance(placement, Shard):
                    return tensor.device_mesh.get_group(dimension)
    return None


def local_part(tensor: Tensor | None) -> Tensor:
    """This rank's part of a sharded tensor; any other as it is."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def peak_lr(config: OptimConfig, batch: int) -> float:
    """The recipe's learning rate at its global batch."""
    ratio = batch / config.lr_batch
    return config.lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[config.lr_scaling]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD, LARC or AdamW over `model`, with its state already there, so that every checkpoint has the same tensors."""
    groups = _groups(model, config)
    optimizer: torch.optim.Optimizer
    if config.name == "adamw":
        optimizer = torch.optim.AdamW(groups, config.lr, betas=config.betas, **_kernels(groups))
    elif config.larc:
        for group in groups:
            group["larc_decay"] = group.pop("weight_decay")
        optimizer = LARC(
            groups,
            config.lr,
            momentum=config.momentum,
            trust=config.larc_trust,
            eps=config.larc_eps,
            clip=config.larc_clip,
            nesterov=config.nesterov,
        )
    else:
        momentum, nesterov = config.momentum, config.nesterov
        optimizer = torch.optim.SGD(groups, config.lr, momentum=momentum, nesterov=nesterov, **_kernels(groups))
    _allocate_state(optimizer, config)
    return optimizer


def _kernels(params: Sequence[Any]) -> dict[str, bool]:
    """Fused kernels take a quarter of the time of the foreach ones, on CPUs too, but SGD's knows no sharded tensors."""
    flat = [p for item in params for p in (item["params"] if isinstance(item, dict) else [item])]
    sharded = any(isinstance(p, DTensor) for p in flat)
    return {"foreach": True} if sharded else {"fused": True}


def _groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    norms = {id(p) for module in model.modules() if isinstance(module, _BatchNorm) for p in module.parameters()}
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        kind = "norm" if id(parameter) in norms else "bias" if name.endswith(".bias") else "weight"
        decay = 0.0 if kind in config.no_decay else config.weight_decay
        scale = config.head_lr_scale if name.startswith("head.") else 1.0
        found.setdefault((decay, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale} for (decay, scale), parameters in found.items()
    ]


def _allocate_state(optimizer: torch.optim.Optimizer, config: OptimConfig) -> None:
    # Zeros are what the first step would start from. Frozen prototypes get no gradient at first, and a checkpoint
    # written then must not lack their state.
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if config.name == "adamw":
                optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
            elif config.momentum:
                optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` from the next step on, times each group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def lr_at(step: int, steps: int, peak: float, config: ScheduleConfig) -> float:
    """The learning rate of step `step` (from 0) of `steps`.

    Linear from start * peak to peak over the first `warmup` of all steps, then cosine to end * peak. As in SEER the
    cosine counts from the first step, not from the end of the warm-up (ClassyVision's composite scheduler, "fixed").
    Or constant; or times `gamma` at each of `milestones`, also fractions of all steps.
    """
    progress = step / steps
    if progress < config.warmup:
        return peak * (config.start + (1 - config.start) * progress / config.warmup)
    if config.shape == "constant":
        return peak
    if config.shape == "step":
        return float(peak * config.gamma ** sum(progress >= mark for mark in config.milestones))
    return peak * (config.end + (1 - config.end) * 0.5 * (1 + math.cos(math.pi * progress)))
