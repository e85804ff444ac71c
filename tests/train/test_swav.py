"""The SwAV objective against lightly's, against float64, over ranks, and on its edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightly.loss import SwaVLoss
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from torch import Tensor, nn

from seerctl.model.heads import SwAVHead, SwAVModel
from seerctl.model.init import init_weights
from seerctl.model.sizes import SIZES
from seerctl.model.trunk import build_trunk
from seerctl.train.objectives import swav
from seerctl.train.objectives.swav import (
    Queue,
    SwAV,
    power_law_shares,
    prototypes_of,
    sinkhorn,
    spread,
    swav_loss,
    targets,
    use_of_prototypes,
)
from seerctl.train.recomputing import checkpoint_blocks


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
    model = SwAVModel(build_trunk(SIZES["micro"]), SwAVHead(64, [32, 16], 12))
    init_weights(model, seed=0)
    return model


def _objective(freeze: int = 0, **options: Any) -> SwAV:
    return SwAV(temperature=0.1, epsilon=0.05, iterations=3, freeze_prototypes=freeze, **options)


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


def test_shares_that_fall_are_what_codes_balance_to() -> None:
    scores = torch.stack(cosines(2, 64, 20))
    shares = power_law_shares(scores, 1.5)
    assert shares.sum() == pytest.approx(1)
    used = torch.bincount(scores.argmax(-1).flatten(), minlength=20)
    assert used[shares.argmax()] == used.max()
    assert shares.max() / shares.min() == pytest.approx(20**1.5, rel=1e-4)
    for epsilon in (0.05, 0.02):  # the plain and the log form
        balanced = sinkhorn(scores, epsilon, 400, shares=shares).sum(1)
        assert torch.allclose(balanced, (64 * shares).expand(2, 20), rtol=2e-2)
    assert torch.allclose(power_law_shares(scores, 0.0), torch.full((20,), 1 / 20))


def test_hard_codes_are_one_prototype_each() -> None:
    model, images = _model().eval(), torch.randn(8, 3, 32, 32)
    projections, scores = model(images)
    soft = _objective().codes(model, projections, scores, 4, 0)
    hard = _objective(hard=3)
    codes = hard.codes(model, projections, scores, 4, 2)
    assert torch.equal(codes, F.one_hot(soft.argmax(-1), 12).float())
    assert torch.equal(hard.codes(model, projections, scores, 4, 3), soft)


def test_a_queue_shares_the_prototypes_with_the_batch() -> None:
    model = _model().eval()
    objective = _objective(queue=Queue(2, 2, 4, 16, start=1, device=torch.device("cpu")))
    batches = [model(torch.randn(12, 3, 32, 32)) for _ in range(5)]  # three big crops, two of them with codes
    plain = [_objective().codes(model, *batch, 4, 0) for batch in batches]
    found = [objective.codes(model, *batch, 4, step) for step, batch in enumerate(batches)]
    for step in range(3):  # filled by steps 1 and 2
        assert torch.equal(found[step], plain[step])
    assert not torch.allclose(found[3], plain[3])
    for step in (3, 4):
        latest = [batch.scores[:8].view(2, 4, 12) for batch in batches[step - 2 : step + 1]]
        assert torch.allclose(found[step], sinkhorn(torch.cat(latest, 1), 0.05, 3)[:, -4:], atol=1e-5)
    assert objective.state()["objective.queue"].shape == (2, 2, 4, 16)
    assert _objective().state() == {}


@pytest.mark.parametrize("whole", [False, True])
def test_micro_batches(whole: bool) -> None:
    model, crops = _model().eval(), [torch.randn(8, 3, 32, 32), torch.randn(12, 3, 16, 16)]
    undivided = _objective().accumulate(model, crops, 4, measure=True)
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    found = _objective(parts=2, whole_codes=whole).accumulate(model, crops, 4, measure=True)
    same = max(
        (p.grad - e).norm() / e.norm() for p, e in zip(model.parameters(), expected, strict=True) if e.norm() > 0
    )
    assert (same < 1e-4) == whole  # codes of the whole batch give its gradient; codes of halves another one
    assert (abs(found["loss"] - undivided["loss"]) < 1e-5) == whole
    if not whole:
        halves = []
        for rows in (slice(0, 2), slice(2, 4)):
            part = [kind.view(-1, 4, *kind.shape[1:])[:, rows].flatten(0, 1) for kind in crops]
            halves.append(_objective().accumulate(model, part, 2, measure=False)["loss"])
        assert found["loss"].item() == pytest.approx(sum(halves).item() / 2, abs=1e-6)


def test_padded_crops_are_pooled_where_the_picture_is() -> None:
    model, crops = _model().eval(), [torch.randn(8, 3, 64, 64), torch.randn(8, 3, 32, 32)]
    (one, spans), *rest = swav.padded(crops)
    assert not rest
    assert spans == [(8, 64), (8, 32)]
    assert one.shape == (16, 3, 64, 64)
    assert torch.equal(one[8:, :, :32, :32], crops[1])
    assert one[8:, :, 32:].count_nonzero() == one[8:, :, :, 32:].count_nonzero() == 0
    x = model.trunk.trunk_output(model.trunk.stem(one))  # 2 x 2, of which the small crops saw one
    pooled = model.trunk.pooled(one, spans)
    assert torch.allclose(pooled[:8], x[:8].mean((2, 3)), atol=1e-6)
    assert torch.allclose(pooled[8:], x[8:, :, 0, 0], atol=1e-6)
    found = _objective(pad=True).accumulate(model, crops, 4, measure=True)
    scores = list(model(one, spans).scores.split(4))
    expected = SwaVLoss(0.1, 3, 0.05)(scores[:2], scores[2:])
    assert found["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("wrapper", ["none", "torch", "fairscale"])
def test_the_pass_for_codes_leaves_batchnorm_alone(wrapper: str) -> None:
    once, twice = _model().train(), _model().train()
    if wrapper != "none":
        for model in (once, twice):
            checkpoint_blocks(model, wrapper)
    crops = [torch.randn(8, 3, 32, 32)]
    _objective(parts=2).accumulate(once, crops, 4, measure=False)
    _objective(parts=2, whole_codes=True).accumulate(twice, crops, 4, measure=False)
    for (name, a), b in zip(once.named_buffers(), twice.buffers(), strict=True):
        assert torch.equal(a, b), name
        assert not name.endswith("num_batches_tracked") or a == 2


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
