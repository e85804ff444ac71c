"""LARC against a plain reading of its formula, AdamW and exclusions, schedules against SEER's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from seerctl.recipe import OptimConfig, ScheduleConfig
from seerctl.train.optim import LARC, build_optimizer, lr_at, peak_lr, set_lr, tensor_norms


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


def _gradients(model: nn.Module, step: int) -> None:
    torch.manual_seed(100 + step)
    loss = model(torch.randn(6, 3, 4, 4)).square().mean()
    model.zero_grad()
    loss.backward()


@pytest.mark.parametrize("clip", [False, True])
def test_larc_is_its_formula(clip: bool) -> None:
    ours, theirs = _model(), _model()
    lr, decay, trust, eps, momentum = 0.5, 0.01, 0.02, 1e-8, 0.9
    optimizer = LARC(ours.parameters(), lr, momentum=momentum, weight_decay=decay, trust=trust, eps=eps, clip=clip)
    buffers = [torch.zeros_like(p) for p in theirs.parameters()]
    for step in range(5):
        _gradients(ours, step)
        optimizer.step()
        _gradients(theirs, step)
        with torch.no_grad():
            for p, buffer in zip(theirs.parameters(), buffers, strict=True):
                assert p.grad is not None
                grad: Tensor = p.grad
                p_norm, g_norm = p.norm(), grad.norm()
                if p_norm != 0 and g_norm != 0:
                    scale = trust * p_norm / (g_norm + decay * p_norm + eps)
                    scale = min(float(scale) / lr, 1.0) if clip else scale
                    grad = (grad + decay * p) * scale
                buffer.mul_(momentum).add_(grad)
                p.sub_(lr * buffer)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-7)


def test_larc_passes_by_parameters_without_gradient() -> None:
    model = _model()
    optimizer = LARC(model.parameters(), 1.0)
    _gradients(model, 0)
    model[3].weight.grad = None
    before = model[3].weight.clone()
    optimizer.step()
    assert torch.equal(model[3].weight, before)


def test_decay_leaves_out_what_the_recipe_says() -> None:
    model = _model()
    optimizer = build_optimizer(
        model, OptimConfig(name="adamw", larc=False, weight_decay=0.1, no_decay=("bias", "norm"))
    )
    kept, free = (
        {name for name, p in model.named_parameters() if any(p is q for q in group["params"])}
        for group in optimizer.param_groups
    )
    assert (kept, free) == ({"0.weight", "3.weight"}, {"1.weight", "1.bias", "3.bias"})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    larc = build_optimizer(model, OptimConfig(weight_decay=0.1, no_decay=("norm",)))
    assert [(len(group["params"]), group["larc_decay"]) for group in larc.param_groups] == [(3, 0.1), (2, 0.0)]
    assert [len(group["params"]) for group in build_optimizer(model, OptimConfig()).param_groups] == [5]


@pytest.mark.parametrize(
    "config",
    [
        OptimConfig(name="adamw", larc=False, lr=1e-2, weight_decay=0.1, betas=(0.8, 0.9)),
        OptimConfig(larc=False, lr=0.1, weight_decay=0.01),
    ],
)
def test_state_made_in_advance_changes_nothing(config: OptimConfig) -> None:
    ours, theirs = _model(), _model()
    if config.name == "adamw":
        plain: torch.optim.Optimizer = torch.optim.AdamW(theirs.parameters(), 1e-2, betas=(0.8, 0.9), weight_decay=0.1)
    else:
        plain = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    optimizer = build_optimizer(ours, config)
    assert len(optimizer.state) == 5
    for step in range(4):
        _gradients(ours, step)
        optimizer.step()
        _gradients(theirs, step)
        plain.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-7)


def test_set_lr_reaches_all_groups() -> None:
    optimizer = build_optimizer(_model(), OptimConfig(no_decay=("norm",)))
    set_lr(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_norms_of_tensors() -> None:
    tensors = [torch.tensor([3.0, 4.0]), torch.zeros(2), torch.full((2, 2), 0.5, dtype=torch.bfloat16), None]
    assert tensor_norms(tensors).tolist() == [5.0, 0.0, 1.0]


def test_peak_learning_rates() -> None:
    assert peak_lr(OptimConfig(lr=0.3), 7936) == pytest.approx(9.3)
    assert peak_lr(OptimConfig(lr=0.3, lr_scaling="sqrt"), 1024) == pytest.approx(0.6)
    assert peak_lr(OptimConfig(lr=0.3, lr_scaling="none"), 7936) == 0.3


def test_seers_schedule() -> None:
    schedule = ScheduleConfig(warmup=0.043648, start=0.016129, end=0.001)
    steps, peak = 126_008, 9.3
    assert lr_at(0, steps, peak, schedule) == pytest.approx(0.15, rel=1e-4)
    assert lr_at(2750, steps, peak, schedule) == pytest.approx((0.15 + 9.3) / 2, rel=1e-3)
    assert lr_at(5499, steps, peak, schedule) == pytest.approx(9.3, rel=1e-3)
    assert lr_at(steps // 2, steps, peak, schedule) == pytest.approx(0.0093 + (9.3 - 0.0093) / 2)
    assert lr_at(steps - 1, steps, peak, schedule) == pytest.approx(0.0093, rel=1e-3)
    rates = [lr_at(step, steps, peak, schedule) for step in range(0, steps, 997)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_constant_schedule_and_no_warmup() -> None:
    constant = ScheduleConfig(shape="constant", warmup=0.5, start=0.0)
    assert [lr_at(step, 4, 2.0, constant) for step in range(4)] == [0.0, 1.0, 2.0, 2.0]
    assert lr_at(0, 10, 2.0, ScheduleConfig(warmup=0.0)) == 2.0
