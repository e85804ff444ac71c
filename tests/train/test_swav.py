"""The SwAV objective against lightly's, against float64, over ranks, and on its edges."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightly.loss import SwaVLoss
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from torch import Tensor, nn

from seerctl.model.heads import SwAVHead, SwAVModel
from seerctl.model.regnet import build_trunk
from seerctl.model.sizes import SIZES
from seerctl.train.objectives import swav
from seerctl.train.objectives.swav import SwAV, prototypes_of, sinkhorn, spread, swav_loss, targets, use_of_prototypes


def cosines(crops: int, batch: int = 32, prototypes: int = 50, seed: int = 0) -> list[Tensor]:
    """Scores of `crops` noisy views of the same images."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 16, generator=generator)
    weights = F.normalize(torch.randn(prototypes, 16, generator=generator), dim=1)
    views = [F.normalize(images + torch.randn(batch, 16, generator=generator), dim=1) for _ in range(crops)]
    return [view @ weights.T for view in views]


@pytest.mark.parametrize(("crops", "epsilon", "iterations"), [(2, 0.05, 3), (8, 0.05, 3), (6, 0.03, 10)])
def test_loss_and_gradient_equal_lightlys(crops: int, epsilon: float, iterations: int) -> None:
    ours, theirs = ([score.clone().requires_grad_() for score in cosines(crops, 64, 300)] for _ in range(2))
    expected = SwaVLoss(0.1, iterations, epsilon)(theirs[:2], theirs[2:])
    expected.backward()
    codes = sinkhorn(torch.stack(ours[:2]).detach(), epsilon, iterations)
    loss = swav_loss(ours, codes, crops, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert (mine.grad - other.grad).norm() <= 1e-6 * other.grad.norm()


def test_sinkhorn_equals_lightlys_and_is_a_balanced_distribution() -> None:
    scores = torch.stack(cosines(2, 64, 20))
    codes = sinkhorn(scores, 0.05, 3)
    for crop in range(2):
        assert torch.allclose(codes[crop], lightly_sinkhorn(scores[crop], 3, 0.05), atol=1e-6)
    assert torch.allclose(codes.sum(-1), torch.ones(2, 64))
    balanced = sinkhorn(scores, 0.05, 200).sum(1)
    assert torch.allclose(balanced, torch.full((2, 20), 64 / 20), rtol=1e-3)


@pytest.mark.parametrize("epsilon", [0.0228, 0.01, 0.002])
def test_tiny_epsilons_stay_finite_and_exact(epsilon: float) -> None:
    scores = torch.stack(cosines(1, 32, 20))
    scores[0, 0] = -0.9  # a sample far from everything: plain exponentials lose it
    kernel = scores.double() / epsilon
    for _ in range(3):
        kernel = kernel - kernel.logsumexp(-2, keepdim=True)
        kernel = kernel - kernel.logsumexp(-1, keepdim=True)
    assert torch.allclose(sinkhorn(scores, epsilon, 3), kernel.exp().float(), atol=1e-4)


def test_both_forms_agree_where_both_work() -> None:
    scores = torch.stack(cosines(2))
    exp, log = sinkhorn(scores, 0.05, 3), swav._sinkhorn_log(scores / 0.05, 3, None)
    assert torch.allclose(exp, log, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_give_finite_float32_codes(dtype: torch.dtype) -> None:
    scores = torch.stack(cosines(2)).to(dtype)
    scores[:, 0, 0] = 0.99  # exp(0.99 / 0.05) is beyond float16
    codes = sinkhorn(scores, 0.05, 3)
    assert codes.dtype == torch.float32
    assert codes.isfinite().all()
    assert torch.allclose(codes, sinkhorn(scores.float(), 0.05, 3))


def test_shares_by_kind_of_crop_add_up_to_the_whole() -> None:
    whole, parts = ([score.clone().requires_grad_() for score in cosines(6)] for _ in range(2))
    codes = sinkhorn(torch.stack(whole[:2]).detach(), 0.05, 3)
    swav_loss(whole, codes, 6, 0.1).backward()
    big = swav_loss(parts[:2], codes, 6, 0.1)
    big.backward()
    small = swav_loss(parts[2:], codes, 6, 0.1, first=2)
    small.backward()
    assert (big + small).item() == pytest.approx(swav_loss(whole, codes, 6, 0.1).item(), abs=1e-6)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(whole, parts, strict=True))


def test_gradient_is_the_derivative() -> None:
    scores = [score.double().requires_grad_() for score in cosines(3, 4, 5)]
    codes = sinkhorn(torch.stack(scores[:2]).detach(), 0.05, 3)

    def plain(*views: Tensor) -> Tensor:
        terms = [
            -(targets(codes, crop)[0] if crop < 2 else codes.sum(0)) * F.log_softmax(view / 0.1, dim=1)
            for crop, view in enumerate(views)
        ]
        return sum(term.sum() for term in terms) / (4 * 2 * 2)

    expected = torch.autograd.grad(plain(*scores), scores)
    found = torch.autograd.grad(swav_loss(scores, codes, 3, 0.1), scores)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, found, strict=True))


def test_a_second_backward_fails_aloud() -> None:
    score = cosines(1)[0].requires_grad_()
    codes = sinkhorn(torch.stack(cosines(2)), 0.05, 3)
    loss = swav_loss([score], codes, 3, 0.1)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_two_ranks_get_the_codes_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.stack(cosines(2, 32, 20))
    whole = sinkhorn(scores, 0.05, 3)
    # Rank 0 computes with its half; what rank 1 would contribute to each sum is what the whole has beyond it.
    sums: list[Tensor] = []
    kernel = (scores - scores.amax()).div(0.05).exp()
    rows = torch.ones(2, 32)
    for _ in range(3):
        mass = torch.einsum("ab,abk->ak", rows, kernel)
        sums.append(mass)
        rows = 1 / torch.einsum("abk,ak->ab", kernel, 1 / mass)
    calls: list[dist.ReduceOp] = []

    def all_reduce(value: Tensor, operation: dist.ReduceOp, group: object) -> None:
        calls.append(operation)
        value.copy_(scores.amax() if operation == dist.ReduceOp.MAX else sums[len(calls) - 2])

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    assert torch.allclose(sinkhorn(scores[:, :16], 0.05, 3), whole[:, :16], atol=1e-6)
    assert calls == [dist.ReduceOp.MAX] + [dist.ReduceOp.SUM] * 3  # one collective an iteration for both crops


def _model() -> SwAVModel:
    torch.manual_seed(0)
    return SwAVModel(build_trunk(SIZES["micro"]), SwAVHead(64, [32, 16], 12))


def _objective(freeze: int = 0) -> SwAV:
    return SwAV(temperature=0.1, epsilon=0.05, iterations=3, freeze_prototypes=freeze)


def test_accumulate_equals_one_backward_over_all_crops() -> None:
    model, crops = _model().eval(), [torch.randn(8, 3, 32, 32), torch.randn(12, 3, 16, 16)]  # eval: no batch statistics
    found = _objective().accumulate(model, crops, 4, measure=True)
    ours = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    big, small = (model(kind).scores.split(4) for kind in crops)
    expected = SwaVLoss(0.1, 3, 0.05)(list(big), list(small))
    expected.backward()
    theirs = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert found["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    assert len(ours) == len(theirs) == len(list(model.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm() + 1e-8
    assert set(found) == {"loss", "prototype_entropy", "feature_std"}
    assert not found["loss"].requires_grad


def test_only_the_first_two_crops_get_codes() -> None:
    model = _model().eval()
    found = _objective().accumulate(model, [torch.randn(16, 3, 32, 32)], 4, measure=False)
    views = model(torch.randn(16, 3, 32, 32)).scores.split(4)
    assert set(found) == {"loss"}
    assert len(views) == 4
    with torch.no_grad():
        images = torch.randn(16, 3, 32, 32)
    loss = _objective().accumulate(model, [images], 4, measure=False)["loss"]
    scores = model(images).scores.detach().split(4)
    assert loss.item() == pytest.approx(SwaVLoss(0.1, 3, 0.05)(list(scores[:2]), list(scores[2:])).item(), abs=1e-6)


def test_prototypes_freeze_and_keep_length_one() -> None:
    model, objective = _model(), _objective(freeze=2)
    weight = prototypes_of(model)
    for step, frozen in ((0, True), (1, True), (2, False)):
        weight.grad = torch.ones_like(weight)
        objective.before_update(model, step)
        assert (weight.grad is None) == frozen
    with torch.no_grad():
        weight.mul_(3)
    objective.after_update(model)
    assert torch.allclose(weight.norm(dim=1), torch.ones(12))


def test_metrics_of_healthy_and_collapsed_models() -> None:
    assert use_of_prototypes(torch.eye(8)).item() == pytest.approx(1)
    assert use_of_prototypes(F.one_hot(torch.zeros(8, dtype=torch.long), 8).float()).item() == 0
    half = use_of_prototypes(torch.eye(8)[[0, 0, 0, 0, 1, 1, 1, 1]]).item()
    assert half == pytest.approx(math.log(2) / math.log(8))
    sphere = F.normalize(torch.randn(5000, 64), dim=1)
    assert spread(sphere).item() == pytest.approx(1, abs=0.02)
    assert spread(sphere[:1].expand(10, -1)).item() == pytest.approx(0, abs=1e-6)


def test_heads_without_bias_only() -> None:
    assert isinstance(prototypes_of(_model()), nn.Parameter)
