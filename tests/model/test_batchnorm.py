"""The CPU form of SyncBatchNorm with two ranks played by threads: each must see what one BatchNorm of all rows sees."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from seerctl.model.batchnorm import SyncBatchNorm, joined_statistics, norm_layer


class _Ranks:
    """Stands in for torch.distributed among threads: collectives by a barrier and a table; a group is its ranks."""

    def __init__(self, size: int) -> None:
        self.size, self.table, self.local = size, dict[int, Tensor](), threading.local()
        self.barriers: dict[Any, threading.Barrier] = {None: threading.Barrier(size)}

    def _exchange(self, value: Tensor, group: range | None) -> list[Tensor]:
        self.table[self.local.rank] = value.clone()
        self.barriers[group].wait(timeout=60)
        everyone = [self.table[rank] for rank in group or range(self.size)]
        self.barriers[group].wait(timeout=60)
        return everyone

    def get_world_size(self, group: range | None = None) -> int:
        return len(group or range(self.size))

    def all_reduce(self, value: Tensor, group: range | None = None) -> None:
        value.copy_(torch.stack(self._exchange(value, group)).sum(0))

    def all_gather_into_tensor(self, into: Tensor, value: Tensor, group: range | None = None) -> None:
        into.copy_(torch.cat(self._exchange(value, group)))

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        results: list[Any] = [None] * self.size

        def target(rank: int) -> None:
            self.local.rank = rank
            results[rank] = work(rank)

        threads = [threading.Thread(target=target, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def _play(size: int, monkeypatch: pytest.MonkeyPatch) -> _Ranks:
    world = _Ranks(size)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", world.get_world_size)
    monkeypatch.setattr(dist, "all_reduce", world.all_reduce)
    monkeypatch.setattr(dist, "all_gather_into_tensor", world.all_gather_into_tensor)
    return world


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> _Ranks:
    return _play(2, monkeypatch)


def test_groups_of_ranks_know_nothing_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four ranks in two groups: each group is one BatchNorm of its rows, forward, backward and in its statistics."""
    world = _play(4, monkeypatch)
    groups = [range(2), range(2, 4)]
    world.barriers |= {group: threading.Barrier(len(group)) for group in groups}
    torch.manual_seed(0)
    x, pull = torch.randn(16, 5, 3, 3), torch.randn(16, 5, 3, 3)
    norms = [norm_layer(nn.BatchNorm2d, groups[rank // 2], synchronised=True)(5) for rank in range(4)]  # type: ignore[arg-type]

    def rank_work(rank: int) -> Tensor:
        rows = slice(4 * rank, 4 * rank + 4)
        mine = x[rows].clone().requires_grad_()
        (norms[rank](mine) * pull[rows]).sum().backward()
        assert mine.grad is not None
        return mine.grad

    gradients = world.run(rank_work)
    for number, rows in enumerate((slice(0, 8), slice(8, 16))):
        one, whole = nn.BatchNorm2d(5), x[rows].clone().requires_grad_()
        (one(whole) * pull[rows]).sum().backward()
        pair = slice(2 * number, 2 * number + 2)
        assert whole.grad is not None
        assert torch.allclose(torch.cat(gradients[pair]), whole.grad, atol=1e-5)
        assert all(torch.allclose(norm.running_mean, one.running_mean, atol=1e-6) for norm in norms[pair])
        assert all(torch.allclose(norm.running_var, one.running_var, rtol=1e-4) for norm in norms[pair])
    assert not torch.allclose(norms[0].running_mean, norms[2].running_mean, atol=1e-3)


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (6, 5)])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_forward_backward_and_statistics_equal_one_batch(ranks: _Ranks, shape: tuple[int, ...], shift: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) + shift
    pull = torch.randn(shape)
    one = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(5)
    with torch.no_grad():
        one.weight.uniform_(0.5, 2)
        one.bias.uniform_(-1, 1)
    whole = x.clone().requires_grad_()
    expected = one(whole)
    (expected * pull).sum().backward()

    norms = [SyncBatchNorm(5), SyncBatchNorm(5)]
    parts = [slice(0, 2), slice(2, 6)]  # uneven on purpose

    def rank_work(rank: int) -> tuple[Tensor, Tensor]:
        norms[rank].load_state_dict({**norms[rank].state_dict(), "weight": one.weight, "bias": one.bias})
        mine = x[parts[rank]].clone().requires_grad_()
        output = norms[rank](mine)
        (output * pull[parts[rank]]).sum().backward()
        assert mine.grad is not None
        return output.detach(), mine.grad

    outputs, gradients = zip(*ranks.run(rank_work), strict=True)
    tolerance = 1e-5 if shift == 0 else 2e-3  # float32 holds 1000.123 to 6e-5
    assert torch.allclose(torch.cat(outputs), expected, atol=tolerance)
    assert whole.grad is not None
    assert torch.allclose(torch.cat(gradients), whole.grad, atol=tolerance)
    for norm in norms:
        assert torch.allclose(norm.running_mean, one.running_mean, rtol=1e-6, atol=1e-6)
        assert torch.allclose(norm.running_var, one.running_var, rtol=1e-4)
        assert norm.num_batches_tracked == 1
    assert torch.allclose(norms[0].weight.grad + norms[1].weight.grad, one.weight.grad, atol=max(1e-4, tolerance * 30))
    assert torch.allclose(norms[0].bias.grad + norms[1].bias.grad, one.bias.grad, atol=1e-4)


def test_variance_survives_a_large_mean(ranks: _Ranks) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3) + 5000  # E[x^2] - E[x]^2 would be wrong in the first digit
    parts = [x[:20], x[20:]]
    mean, variance, count = ranks.run(lambda rank: joined_statistics(parts[rank], None))[0]
    assert torch.allclose(mean, x.mean(0))
    assert torch.allclose(variance, x.double().var(0, correction=0).float(), rtol=1e-3)
    assert count.item() == 64


def test_bfloat16_input_keeps_float32_statistics(ranks: _Ranks) -> None:
    x = torch.randn(8, 4, 3, 3).bfloat16()
    norms = [SyncBatchNorm(4), SyncBatchNorm(4)]

    def rank_work(rank: int) -> tuple[torch.dtype, torch.dtype]:
        mine = x[4 * rank : 4 * rank + 4].clone().requires_grad_()
        output = norms[rank](mine)
        output.float().square().sum().backward()
        assert mine.grad is not None
        return output.dtype, mine.grad.dtype

    assert ranks.run(rank_work) == [(torch.bfloat16, torch.bfloat16)] * 2
    assert norms[0].running_mean.dtype == torch.float32
    assert torch.allclose(norms[0].running_mean, 0.1 * x.float().mean((0, 2, 3)), atol=1e-6)


def test_untracked_and_frozen_statistics(ranks: _Ranks) -> None:
    norms = [SyncBatchNorm(4), SyncBatchNorm(4)]
    for norm in norms:
        norm.track_running_stats = False  # what fairscale does during a forward that will be recomputed
    ranks.run(lambda rank: norms[rank](torch.randn(4, 4)))
    assert norms[0].num_batches_tracked == 0
    assert torch.equal(norms[0].running_mean, torch.zeros(4))


def test_one_process_and_eval_mode_are_a_plain_batchnorm() -> None:
    x = torch.randn(8, 4, 3, 3)
    ours, theirs = SyncBatchNorm(4), nn.BatchNorm2d(4)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_norm_layer_factories() -> None:
    plain, joined = norm_layer(nn.BatchNorm1d, synchronised=False)(4), norm_layer(nn.BatchNorm2d, synchronised=True)(4)
    assert type(plain) is nn.BatchNorm1d
    assert isinstance(joined, SyncBatchNorm)
    assert joined.eps == 1e-5
    assert joined.momentum == 0.1
