"""SwAV (Caron et al. 2020, arXiv 2006.09882): predict a crop's code from the other crops of the same image.

One file, no imports of ours: copy it. Everything is float32 whatever the network runs in, because half precision makes
every code NaN (exp of a cosine of 0.56 over 0.05 is beyond float16) or wrong by percents (bfloat16). Two processes
with half the batch each get the loss, the codes and (averaged) the gradients of one process with the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.nn.modules.batchnorm import _BatchNorm

# Scores are cosines: they spread over at most 2, and exp(-2 / epsilon) is a normal float32 number above this epsilon.
SMALLEST_EPSILON_OF_EXP = 2 / 87.3

Group = dist.ProcessGroup


@torch.no_grad()
def sinkhorn(
    scores: Tensor, epsilon: float, iterations: int, group: Group | None = None, shares: Tensor | None = None
) -> Tensor:
    """Codes: each sample's distribution over prototypes, with all prototypes used equally over the global batch.

    Shapes: scores (..., B, K), one problem per leading index -> codes of the same shape, float32, each row of sum 1.
    `shares` (K,) of sum 1 sets how much of the batch each prototype gets instead of 1/K.
    Alternating normalisation of exp(scores / epsilon) (Cuturi 2013; SwAV's equation 5) by scaling vectors. Over the
    ranks of `group` (None: all of them) it takes one maximum and one sum of K numbers per problem and iteration.
    """
    scores = scores.float()
    if epsilon < SMALLEST_EPSILON_OF_EXP:
        return _sinkhorn_log(scores / epsilon, iterations, group, shares)
    kernel = scores.sub(_reduced(scores.amax(), dist.ReduceOp.MAX, group)).mul_(1 / epsilon).exp_()
    rows = torch.ones(scores.shape[:-1], device=scores.device)
    columns = rows
    total = scores.shape[-2] * _ranks(group)  # what rows of sum 1 leave for all prototypes together
    share = total / scores.shape[-1] if shares is None else total * shares
    tiny = torch.finfo(torch.float32).tiny
    for iteration in range(iterations):
        if iteration:
            rows = (kernel @ columns.unsqueeze(-1)).squeeze(-1).clamp_min_(tiny).reciprocal_()
        mass = (rows.unsqueeze(-2) @ kernel).squeeze(-2)
        columns = share / _reduced(mass, dist.ReduceOp.SUM, group).clamp_min_(tiny)
    codes = kernel.mul_(columns.unsqueeze(-2))
    return codes.div_(codes.sum(-1, keepdim=True).clamp_min_(tiny))


def _sinkhorn_log(logits: Tensor, iterations: int, group: Group | None, shares: Tensor | None = None) -> Tensor:
    """The same in the log domain, for an epsilon whose exponentials leave float32; slower, one more maximum."""
    logits = logits - _reduced(logits.amax(), dist.ReduceOp.MAX, group)
    for _ in range(iterations):
        highest = _reduced(logits.amax(-2, keepdim=True), dist.ReduceOp.MAX, group)
        mass = _reduced((logits - highest).exp().sum(-2, keepdim=True), dist.ReduceOp.SUM, group)
        logits = logits - highest - mass.log()
        if shares is not None:
            logits = logits + shares.log()
        logits = logits - logits.logsumexp(-1, keepdim=True)
    return logits.exp()


def _reduced(value: Tensor, operation: dist.ReduceOp.RedOpType, group: Group | None) -> Tensor:
    if _ranks(group) > 1:
        dist.all_reduce(value, operation, group)
    return value


def _ranks(group: Group | None) -> int:
    return dist.get_world_size(group) if dist.is_initialized() else 1


@torch.no_grad()
def power_law_shares(scores: Tensor, exponent: float, group: Group | None = None) -> Tensor:
    """Shares (K,) for `sinkhorn` that fall as rank^-exponent, the prototype nearest to most samples first.

    Uncurated data has a few frequent themes and many rare ones; equal shares cut the frequent ones up. VISSL has such a
    variant of its Sinkhorn. Shape: scores (..., B, K), ranked over the global batch, so that all ranks agree.
    """
    prototypes = scores.shape[-1]
    counts = _reduced(torch.bincount(scores.argmax(-1).flatten(), minlength=prototypes), dist.ReduceOp.SUM, group)
    places = torch.arange(1, prototypes + 1, device=scores.device, dtype=torch.float32)
    shares = torch.empty(prototypes, device=scores.device)
    shares[counts.argsort(descending=True, stable=True)] = places.pow(-exponent)
    return shares / shares.sum()


def targets(codes: Tensor, crop: int) -> tuple[Tensor, int]:
    """What crop number `crop` shall predict: the sum of the codes of all assigned crops but itself, and how many.

    Shapes: codes (A, B, K), those of crops 0 ... A-1 -> (B, K). A cross-entropy is linear in its target, so one
    log-softmax per crop serves all codes (8 instead of 14 for two big and six small crops).
    """
    assigned = len(codes)
    others = [index for index in range(assigned) if index != crop]
    total = codes[others[0]]
    for index in others[1:]:
        total = total + codes[index]
    return total, len(others)


def swav_loss(
    scores: Sequence[Tensor],
    codes: Tensor,
    crops: int,
    temperature: float,
    first: int = 0,
    summed: Tensor | None = None,
) -> Tensor:
    """The share of the loss that crops `first`, `first + 1`, ... contribute; shares add up to the whole exactly.

    Codes carry no gradient, so each set of crops can go backward alone: FSDP then frees its gathered gradients early.
    SwAV's equation 2 over all crops: mean over assigned crops i, over crops p other than i, over samples, of the
    cross-entropy between code i and softmax(scores_p / temperature).

    Shapes: each of `scores` (B, K), `codes` (A, B, K); `crops` is the number of all crops. `summed` may hold
    `codes.sum(0)`, the target of every crop that has no code of its own.
    """
    assigned, batch = len(codes), codes.shape[1]
    total = scores[0].new_zeros((), dtype=torch.float32)
    for crop, crop_scores in enumerate(scores, first):
        if crop >= assigned and summed is None:
            summed = codes.sum(0)
        target, count = targets(codes, crop) if crop < assigned else (summed, assigned)
        total = total + _CrossEntropy.apply(crop_scores, target, count, temperature)
    return total / (batch * assigned * (crops - 1))


class _CrossEntropy(torch.autograd.Function):
    """-sum(target * log_softmax(scores / T)); its gradient in closed form: (row mass * softmax - target) / T.

    Twice the speed of autograd's own, which keeps and re-reads more (B, K) tensors.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, target: Tensor, mass: int, temperature: float) -> Tensor:
        logits = F.log_softmax(scores.float() / temperature, dim=1)
        ctx.save_for_backward(logits, target)
        ctx.mass, ctx.temperature, ctx.dtype = mass, temperature, scores.dtype
        loss: Tensor = -torch.linalg.vecdot(target, logits).sum()
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        logits, target = ctx.saved_tensors
        # In place: a second backward then fails aloud, since autograd sees that a saved tensor changed.
        scores_gradient = logits.exp_().mul_(ctx.mass).sub_(target).mul_(gradient / ctx.temperature)
        return scores_gradient.to(ctx.dtype), None, None, None


@torch.no_grad()
def use_of_prototypes(scores: Tensor, group: Group | None = None) -> Tensor:
    """Entropy of the nearest prototypes' histogram over the largest it can be: 1 all used alike, 0 only one used.

    Shape: scores (N, K) -> () float32. Not of the codes, which Sinkhorn makes uniform also when training collapses.
    """
    samples, prototypes = scores.shape
    counts = torch.zeros(prototypes, device=scores.device)
    counts.scatter_add_(0, scores.argmax(1), torch.ones(samples, device=scores.device))
    counts = _reduced(counts, dist.ReduceOp.SUM, group)
    share = counts / counts.sum()
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy / math.log(min(prototypes, samples * _ranks(group)))


@torch.no_grad()
def spread(projections: Tensor) -> Tensor:
    """Deviation of unit projections per dimension, times sqrt(D): near 1 when they fill the sphere, 0 when all agree.

    Shape: projections (N, D) -> () float32, over this rank's rows.
    """
    return projections.float().std(dim=0, correction=0).mean() * math.sqrt(projections.shape[1])


class Queue:
    """The unit projections of the latest steps, which join the Sinkhorn problem of small batches (SwAV, section 3.1).

    `rows` (A, S, B, D) float32: for each assigned crop S steps of this rank's B samples, oldest overwritten first. Over
    all ranks it holds the same rows for any number of them. Being a function of the step, it needs no counter.
    """

    def __init__(self, assigned: int, steps: int, batch: int, width: int, start: int, device: torch.device) -> None:
        self.rows = torch.zeros(assigned, steps, batch, width, device=device)
        self.start = start
        self._mesh: DeviceMesh | None = None

    def ready(self, step: int) -> bool:
        """Whether every row has been filled before `step` (from 0)."""
        return step >= self.start + self.rows.shape[1]

    def push(self, projections: Tensor, step: int) -> None:
        """Keep the projections (A, B, D) of `step`."""
        if step >= self.start:
            self.rows[:, step % self.rows.shape[1]] = projections

    def tensor(self) -> Tensor:
        """`rows` as a checkpoint wants them: sharded over samples where there are several ranks."""
        if _ranks(None) == 1:
            return self.rows
        self._mesh = self._mesh or init_device_mesh(self.rows.device.type, (_ranks(None),))
        return DTensor.from_local(self.rows, self._mesh, [Shard(2)])


class SwAV:
    """One step of SwAV on a model that maps crops (N, 3, S, S) to unit `projections` (N, D) and `scores` (N, K).

    The prototypes are `model.head.prototypes`, a bias-free linear layer whose rows this class keeps at length 1.
    `hard`: codes are the best prototype alone during so many first steps. `power_law`: exponent of `power_law_shares`,
    0 for equal ones. `parts`: micro-batches a step; their codes come from each alone, or, with `whole_codes`, from a
    pass without gradient over all of them (BatchNorm sees micro-batches in both: another objective than one batch).
    `pad`: small crops are filled up with zeros and go through the model with the big ones, which costs 1.74 times the
    computation at SEER's sizes and gathers sharded parameters once instead of twice.
    """

    assigned = 2  # crops that get codes: the first two, as in SwAV and SEER (VISSL's crops_for_assign)

    def __init__(
        self,
        *,
        temperature: float,
        epsilon: float,
        iterations: int,
        freeze_prototypes: int,
        group: Group | None = None,
        hard: int = 0,
        power_law: float = 0.0,
        queue: Queue | None = None,
        parts: int = 1,
        whole_codes: bool = False,
        pad: bool = False,
    ) -> None:
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.freeze_prototypes, self.group = freeze_prototypes, group
        self.hard, self.power_law, self.queue = hard, power_law, queue
        self.parts, self.whole_codes, self.pad = parts, whole_codes, pad

    def accumulate(
        self,
        model: nn.Module,
        crops: Sequence[Tensor],
        batch: int,
        measure: bool,
        step: int = 0,
        labels: Tensor | None = None,
        scale: float = 1.0,
    ) -> dict[str, Tensor]:
        """Forward and backward of all crops, one kind at a time; gradients, times `scale`, are left in the parameters.

        Shapes: each of `crops` (count * batch, 3, S, S), crop-major. Returns scalars on the device, nothing read by the
        host: `loss`, and with `measure` also `prototype_entropy` and `feature_std`. `step` counts updates from 0;
        `labels` are not looked at.
        """
        if self.parts == 1:
            return self._part(model, crops, batch, measure, step, None, scale)
        codes = self._codes_ahead(model, crops[0], batch, step) if self.whole_codes else None
        size, found = batch // self.parts, dict[str, Tensor]()
        for start in range(0, batch, size):
            rows = slice(start, start + size)
            part = [_rows(kind, batch, rows) for kind in crops]
            own = None if codes is None else codes[:, rows]
            for name, value in self._part(model, part, size, measure, step, own, scale).items():
                found[name] = found.get(name, 0) + value / self.parts
        return found

    def _part(
        self,
        model: nn.Module,
        crops: Sequence[Tensor],
        batch: int,
        measure: bool,
        step: int,
        codes: Tensor | None,
        scale: float,
    ) -> dict[str, Tensor]:
        total = sum(len(kind) // batch for kind in crops)
        found: dict[str, Tensor] = {}
        summed = None
        first = 0
        for kind, spans in padded(crops) if self.pad else [(kind, None) for kind in crops]:
            projections, scores = model(kind) if spans is None else model(kind, spans)
            views = scores.split(batch)
            if first == 0:
                if codes is None:
                    codes = self.codes(model, projections, scores, batch, step)
                summed = codes.sum(0)
                if measure:
                    big = slice(0, len(crops[0]))
                    found["prototype_entropy"] = use_of_prototypes(scores.detach()[big], self.group)
                    found["feature_std"] = spread(projections.detach()[big])
            assert codes is not None
            loss = swav_loss(views, codes, total, self.temperature, first, summed)
            (loss / self.parts * scale).backward()  # type: ignore[no-untyped-call]
            found["loss"] = found.get("loss", 0) + loss.detach()
            first += len(views)
        return found

    @torch.no_grad()
    def codes(self, model: nn.Module, projections: Tensor, scores: Tensor, batch: int, step: int) -> Tensor:
        """Codes (A, batch, K) of the assigned crops; with a queue, the latest steps share the prototypes with them."""
        mine = slice(0, self.assigned * batch)
        problem = scores.detach()[mine].view(-1, batch, scores.shape[1]).float()
        if self.queue is not None:
            latest = projections.detach()[mine].view(-1, batch, projections.shape[1]).float()
            if self.queue.ready(step):
                problem = torch.cat([self.queue.rows.flatten(1, 2) @ _whole(prototypes_of(model)).T, problem], 1)
            self.queue.push(latest, step)
        shares = power_law_shares(problem, self.power_law, self.group) if self.power_law else None
        codes = sinkhorn(problem, self.epsilon, self.iterations, self.group, shares)[:, -batch:]
        return F.one_hot(codes.argmax(-1), codes.shape[-1]).to(codes.dtype) if step < self.hard else codes

    @torch.no_grad()
    def _codes_ahead(self, model: nn.Module, big: Tensor, batch: int, step: int) -> Tensor:
        """The codes of a whole batch before its micro-batches: as in training, but BatchNorm counts nothing twice."""
        size, assigned = batch // self.parts, self.assigned * batch
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            # A counter of its own: fairscale's checkpoints do not count without gradients, everything else does.
            norm.momentum, norm.num_batches_tracked = 0.0, _copy(norm.num_batches_tracked)
        found = [model(_rows(big[:assigned], batch, slice(start, start + size))) for start in range(0, batch, size)]
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
        projections, scores = (
            torch.cat([one.view(-1, size, one.shape[1]) for one in tensors], 1).flatten(0, 1)
            for tensors in zip(*found, strict=True)
        )
        return self.codes(model, projections, scores, batch, step)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold beside model and optimiser; loading fills the same tensors."""
        return {} if self.queue is None else {"objective.queue": self.queue.tensor()}

    def before_update(self, model: nn.Module, step: int) -> None:
        """Keep the prototypes frozen during the first steps: without a gradient the optimiser passes them by."""
        if step < self.freeze_prototypes:
            prototypes_of(model).grad = None

    def after_update(self, model: nn.Module) -> None:
        """Bring the prototypes back to length 1; sharded rows are whole, so nothing is sent."""
        normalise_rows(prototypes_of(model))


def prototypes_of(model: nn.Module) -> Tensor:
    """The prototypes (K, D) of a model with a SwAV head."""
    return model.get_parameter("head.prototypes.weight")


def padded(crops: Sequence[Tensor]) -> list[tuple[Tensor, list[tuple[int, int]]]]:
    """All kinds of crops as one, each below and right filled with zeros to the size of the first; and their spans.

    Shapes: (count * B, 3, S, S) each -> one (N, 3, S0, S0) with [(count * B, S), ...]. Source: VISSL's collator
    `multidimensional_tensor`, which SEER's 10B was trained with.
    """
    size = crops[0].shape[-1]
    filled = [F.pad(kind, (0, size - kind.shape[-1], 0, size - kind.shape[-1])) for kind in crops]
    return [(torch.cat(filled), [(len(kind), kind.shape[-1]) for kind in crops])]


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _whole(weight: Tensor) -> Tensor:
    full: Tensor = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return full


def _rows(kind: Tensor, batch: int, rows: slice) -> Tensor:
    """Samples `rows` of crop-major (count * batch, ...), still crop-major."""
    return kind.view(-1, batch, *kind.shape[1:])[:, rows].flatten(0, 1)


@torch.no_grad()
def normalise_rows(weight: Tensor) -> None:
    """Scale the rows of (K, D) to length 1 in place, also where the rows are sharded."""
    rows = weight.to_local() if isinstance(weight, DTensor) else weight
    rows.copy_(F.normalize(rows, dim=1))
