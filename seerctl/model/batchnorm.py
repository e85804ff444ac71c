"""BatchNorm over several processes, on CPUs too (torch's own SyncBatchNorm trains on accelerators only)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from seerctl.model.stages import NormLayer

Group = dist.ProcessGroup


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm, with a form for CPU tensors; without a group of more than one rank a plain BatchNorm.

    Statistics are float32 whatever the input; variances of the ranks are combined as centred sums (Chan, Golub &
    LeVeque 1979), which does not cancel for large means as E[x^2] - E[x]^2 does.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape and dtype, normalised per channel over the ranks of `process_group`."""
        return self._on_cpu(input) if input.device.type == "cpu" else nn.SyncBatchNorm.forward(self, input)

    def _on_cpu(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        use_batch = self.training or self.running_mean is None
        if not use_batch or self._ranks() == 1:
            return _BatchNorm.forward(self, input)
        output, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps, self.process_group)
        if self.training and self.track_running_stats:
            self._track(mean, variance, count)
        return output  # type: ignore[no-any-return]

    def _ranks(self) -> int:
        return dist.get_world_size(self.process_group) if dist.is_initialized() else 1

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class _Normalise(torch.autograd.Function):
    """y = weight * (x - mean) / sqrt(var + eps) + bias with mean and var over all ranks, and its exact gradient.

    The heavy passes are torch's own BatchNorm kernels in their fixed-statistics form: forward with the joined mean and
    variance; backward gives dy * weight / std and the sums of dy and dy * xhat, from which the rest follows.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Group | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = joined_statistics(x, group)
        output = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps, ctx.group = eps, group
        ctx.mark_non_differentiable(mean, variance, count)
        return output, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        # Saved in forward by the kernel's own rule: empty means "use the running statistics".
        none = torch.empty(0, dtype=torch.float32)
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, variance, none, none, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([dbias.float(), dweight.float()])  # sum dy, sum dy * xhat, per channel
        dist.all_reduce(sums, group=ctx.group)
        mean_dy, mean_dy_xhat = sums / count
        inverse = torch.rsqrt(variance + ctx.eps)
        scale = inverse if weight is None else inverse * weight.float()
        slope = scale * inverse * mean_dy_xhat
        offset = scale * mean_dy - slope * mean
        shape = [1, -1] + [1] * (x.dim() - 2)
        dx = dx - torch.addcmul(offset.view(shape), x.float(), slope.view(shape)).to(dx.dtype)
        return dx, dweight if weight is not None else None, dbias if weight is not None else None, None, None


def joined_statistics(x: Tensor, group: Group | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and count (1,) of (N, C, ...) over all ranks, float32, in one collective.

    Ranks may hold different N.
    """
    dims = [dim for dim in range(x.dim()) if dim != 1]
    variance, mean = torch.var_mean(x.float(), dims, correction=0)
    count = torch.full((1,), x.numel() // x.shape[1], dtype=torch.float32)
    mine = torch.cat([mean, variance, count])
    everyone = mine.new_empty(dist.get_world_size(group) * mine.numel())
    dist.all_gather_into_tensor(everyone, mine, group=group)
    means, variances, counts = everyone.view(-1, mine.numel()).tensor_split([mean.numel(), 2 * mean.numel()], dim=1)
    total = counts.sum(0)
    share = counts / total
    joined = (share * means).sum(0)
    return joined, (share * (variances + (means - joined).square())).sum(0), total


def norm_layer(plain: type[_BatchNorm], group: Group | None = None, *, synchronised: bool) -> NormLayer:
    """A factory of BatchNorm layers: `plain` (BatchNorm1d or 2d), or synchronised over `group` (None: all ranks)."""
    kind = partial(SyncBatchNorm, process_group=group) if synchronised else plain
    return partial(kind, eps=1e-5, momentum=0.1)
