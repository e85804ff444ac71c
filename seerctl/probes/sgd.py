"""SEER's linear probe: heads trained by SGD on frozen features, all learning rates and heads in one pass.

A head is a Linear, or BatchNorm and a Linear, on one layer's features. Nesterov's momentum 0.9, weight decay 5e-4 (none
on BatchNorm), learning rate 0.01 per 256 rows, times 0.1 after 8, 16 and 24 of 28 epochs. The features were extracted
once, so there is no augmentation: SEER's own numbers have random crops and flips. Of several heads or rates the one
with the most hits on held-out training rows is trained again on all rows; the test set is looked at once, at the end.

Source: VISSL, `benchmark/linear_image_classification` (N. Goyal et al., arXiv 2103.01988, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from seerctl.errors import Diverged, UsageError
from seerctl.probes.classification import make_result, rank
from seerctl.probes.classifier import VALIDATION, held_out
from seerctl.probes.layers import LayersTask
from seerctl.probes.report import ProbeResult

Head = Literal["batchnorm", "plain"]
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
HEADS: tuple[Head, ...] = ("batchnorm",)
MOMENTUM = 0.9
BN_MOMENTUM, BN_EPSILON = 0.1, 1e-5
SPREAD = 0.01  # of the weights at the start
DECAY = 0.1


@dataclass(frozen=True, slots=True)
class Schedule:
    """epochs; the rate falls to a tenth after each of `milestones`, or by a cosine to 0; rows of a step."""

    epochs: int = 28
    milestones: tuple[int, ...] = (8, 16, 24)
    cosine: bool = False
    batch: int = 256
    weight_decay: float = 5e-4

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What the rate is multiplied with at `step`."""
        if self.cosine:
            return 0.5 * (1.0 + math.cos(math.pi * step / (self.epochs * steps_per_epoch)))
        return float(DECAY ** sum(step >= epoch * steps_per_epoch for epoch in self.milestones))


@dataclass(slots=True)
class _Heads:
    """L heads of one kind on one layer that differ in their rates: weight (L, C, D), bias (L, C), scale, shift (L, D).

    mean, variance (D,): the running statistics, which do not depend on the rate.
    """

    layer: int
    kind: Head
    rates: tuple[float, ...]
    weight: Tensor
    bias: Tensor
    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor
    speed: list[Tensor] = field(default_factory=list)

    @classmethod
    def start(cls, layer: int, kind: Head, rates: Sequence[float], classes: int, features: Tensor, seed: int) -> _Heads:
        dim, count, where = features.shape[1], len(rates), features.device
        generator = torch.Generator().manual_seed(seed)
        one = SPREAD * torch.randn(classes, dim, generator=generator)
        heads = cls(
            layer, kind, tuple(rates), one.to(where).repeat(count, 1, 1),
            torch.zeros(count, classes, device=where), torch.ones(count, dim, device=where),
            torch.zeros(count, dim, device=where), torch.zeros(dim, device=where), torch.ones(dim, device=where),
        )  # fmt: skip
        heads.speed = [torch.zeros_like(parameter) for parameter in heads.parameters]
        for parameter in heads.parameters:
            parameter.requires_grad_()
        return heads

    @property
    def parameters(self) -> list[Tensor]:
        return [self.weight, self.bias, *([self.scale, self.shift] if self.kind == "batchnorm" else [])]

    def logits(self, rows: Tensor, *, training: bool) -> Tensor:
        """(L, B, C) for rows (B, D)."""
        if self.kind == "plain":
            return torch.einsum("bd,lcd->lbc", rows, self.weight) + self.bias[:, None]
        rows = torch.nn.functional.batch_norm(
            rows, self.mean, self.variance, training=training, momentum=BN_MOMENTUM, eps=BN_EPSILON
        )
        weight = self.weight * self.scale[:, None]
        bias = self.bias + torch.einsum("lcd,ld->lc", self.weight, self.shift)
        return torch.einsum("bd,lcd->lbc", rows, weight) + bias[:, None]

    def step(self, factor: float, weight_decay: float) -> None:
        """One step of SGD with Nesterov's momentum for every head at its own rate."""
        rate = factor * torch.tensor(self.rates, device=self.weight.device)
        with torch.no_grad():
            for number, (parameter, speed) in enumerate(zip(self.parameters, self.speed, strict=True)):
                gradient = parameter.grad
                assert gradient is not None
                if number < 2:
                    gradient = gradient.add(parameter, alpha=weight_decay)
                speed.mul_(MOMENTUM).add_(gradient)
                shaped = rate.view(-1, *[1] * (parameter.ndim - 1))
                parameter.sub_(shaped * (gradient + MOMENTUM * speed))
                parameter.grad = None


def sgd(
    task: LayersTask,
    rates: Sequence[float] = RATES,
    *,
    heads: Sequence[Head] = HEADS,
    epochs: int = 28,
    milestones: Sequence[int] = (8, 16, 24),
    cosine: bool = False,
    batch: int = 256,
    weight_decay: float = 5e-4,
    validation: float = VALIDATION,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    full: bool = False,
) -> ProbeResult:
    """Train every head on every layer at every rate, choose on held-out rows, and score the chosen one on the test set.

    rates: learning rates per 256 rows. heads: kinds tried on each layer. milestones: epochs after which the rate is
    divided by 10, not read with `cosine`. progress: called with the epochs done. full: keep the scores of every class.

    Raises:
        UsageError: a rate or another setting that makes no sense. Diverged: no head learnt anything finite.
    """
    if not rates or min(rates) <= 0 or not all(map(math.isfinite, rates)):
        raise UsageError("sgd: a learning rate has to be above 0", "Write --lr 0.01")
    if not heads or epochs < 1 or batch < 2:
        raise UsageError("sgd: it needs a head, an epoch and two rows a step or more")
    schedule = Schedule(epochs, tuple(milestones), cosine, batch, weight_decay)
    train = [torch.from_numpy(features).to(device) for features in task.train_layers]
    labels = torch.from_numpy(task.one.train.labels).to(device)
    classes = len(task.one.classes)
    candidates = [(layer, head) for layer in range(len(train)) for head in dict.fromkeys(heads)]
    choice: list[dict[str, Any]] = []
    layer, head, rate = *candidates[0], float(rates[0])
    if len(candidates) * len(rates) > 1:
        held = torch.from_numpy(held_out(task.one.train.labels, validation, seed)).to(device)
        tried = [_Heads.start(at, kind, sorted(rates), classes, train[at], seed) for at, kind in candidates]
        _train(tried, [rows[~held] for rows in train], labels[~held], schedule, seed, progress)
        choice = _scored(tried, [rows[held] for rows in train], labels[held], task.layers)
        best = max(choice, key=lambda entry: entry["top1"])
        layer, head, rate = task.layers.index(best["layer"]), best["head"], best["lr"]
    final = _Heads.start(layer, head, [rate], classes, train[layer], seed)
    _train([final], train, labels, schedule, seed, progress)
    with torch.no_grad():
        logits = final.logits(torch.from_numpy(task.test_layers[layer]).to(device), training=False)[0]
    if not torch.isfinite(logits).all():
        raise Diverged("sgd: the scores are not finite", "Lower --lr")
    probabilities = logits.double().softmax(1).cpu().numpy()
    settings = {
        "lr": rate, "head": head, "layer": task.layers[layer], "rates": sorted(rates), "heads": list(heads),
        "layers": list(task.layers), "epochs": epochs, "milestones": None if cosine else list(milestones),
        "cosine": cosine, "batch": batch, "weight_decay": weight_decay, "momentum": MOMENTUM, "nesterov": True,
        "validation": validation if choice else None, "seed": seed, "augmentation": "none, features are extracted once",
        "choice": choice, "device": device,
    }  # fmt: skip
    return make_result(task.one, "sgd", settings, rank(probabilities), full=probabilities if full else None)


def _train(
    heads: Sequence[_Heads], layers: Sequence[Tensor], labels: Tensor, schedule: Schedule, seed: int,
    progress: Callable[[int], None] | None,
) -> None:  # fmt: skip
    """All heads over the same batches; a last batch of a single row, which BatchNorm cannot take, is left out."""
    generator = torch.Generator().manual_seed(seed)
    size = min(schedule.batch, len(labels))
    starts = [first for first in range(0, len(labels), size) if len(labels) - first > 1]
    scale = size / 256
    for epoch in range(schedule.epochs):
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        for number, first in enumerate(starts):
            rows = order[first : first + size]
            factor = scale * schedule.factor(epoch * len(starts) + number, len(starts))
            for one in heads:
                logits = one.logits(layers[one.layer][rows], training=True)
                truth = labels[rows].expand(len(logits), -1)
                # The sum over heads of the mean over rows: no head has a part in another's gradient.
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="sum")
                (loss / len(rows)).backward()  # type: ignore[no-untyped-call]
                one.step(factor, schedule.weight_decay)
        if progress is not None:
            progress(1)


def _scored(
    heads: Sequence[_Heads], layers: Sequence[Tensor], labels: Tensor, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The accuracy of every head on the rows of `layers`; one that diverged has 0."""
    found = []
    with torch.no_grad():
        for one in heads:
            logits = one.logits(layers[one.layer], training=False)
            finite = torch.isfinite(logits).flatten(1).all(1)
            top1 = (logits.argmax(2) == labels).double().mean(1) * finite
            found += [
                {"layer": names[one.layer], "head": one.kind, "lr": rate, "rows": len(labels), "top1": value}
                for rate, value in zip(one.rates, top1.tolist(), strict=True)
            ]
    return found
