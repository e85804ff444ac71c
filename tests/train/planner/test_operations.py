"""Operations against counts by hand, grouped convolutions above all; collectives against the bytes of a ring."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from seerctl.train.planner.operations import Operations


def counted(run: Any) -> int:
    operations = Operations()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            operations.saw(func, args, kwargs or {}, result)
            return result

    with Watch():
        run()
    return operations.flops


@pytest.mark.parametrize("groups", [1, 8, 64])
def test_a_grouped_convolution_by_hand(groups: int) -> None:
    layer = nn.Conv2d(64, 64, 3, padding=1, groups=groups, bias=False)
    images = torch.randn(2, 64, 6, 6, requires_grad=True)
    by_hand = 2 * (2 * 64 * 6 * 6) * (64 // groups) * 9
    assert counted(lambda: layer(images)) == by_hand
    assert counted(lambda: layer(images).sum().backward()) == 3 * by_hand


def test_a_first_layer_takes_no_gradient_of_its_input() -> None:
    layer = nn.Conv2d(3, 8, 3, stride=2, bias=False)
    images = torch.randn(2, 3, 9, 9)
    assert counted(lambda: layer(images).sum().backward()) == 2 * (2 * (2 * 8 * 4 * 4) * 3 * 9)


def test_products_of_matrices() -> None:
    layer, rows = nn.Linear(20, 30), torch.randn(7, 20, requires_grad=True)
    assert counted(lambda: layer(rows)) == 2 * 7 * 20 * 30
    assert counted(lambda: layer(rows).sum().backward()) == 3 * 2 * 7 * 20 * 30
    assert counted(lambda: torch.randn(4, 5, 6) @ torch.randn(4, 6, 2)) == 2 * 4 * 5 * 6 * 2
