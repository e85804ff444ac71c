"""The size of a trunk from the shapes of its tensors: names do not count, since two models are called 256GF."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from seerctl.errors import InputError
from seerctl.model.sizes import RegNetSize, ResNetSize, Size

_REGNET = re.compile(r"trunk_output\.block(\d+)\.block\d+-(\d+)\.f\.(b\.0|se\.fc1)\.weight")
_RESNET = re.compile(r"layer(\d+)\.(\d+)\.conv([123])\.weight")

_Blocks = dict[tuple[int, int], dict[str, tuple[int, ...]]]  # (stage from 1, block from 0): shapes by module


def size_of(trunk: Mapping[str, Tensor], where: str) -> Size:
    """The size of a trunk in torchvision's names.

    Raises:
        InputError: the shapes are neither a RegNet's nor those of a ResNet of bottlenecks.
    """
    resnet = "conv1.weight" in trunk
    blocks = _blocks(trunk, _RESNET if resnet else _REGNET)
    stages = sorted({stage for stage, _ in blocks})
    stem = trunk.get("conv1.weight" if resnet else "stem.0.weight")
    kind = "ResNet's of bottleneck blocks" if resnet else "RegNet's"
    if stem is None or not stages or stages != list(range(1, len(stages) + 1)):
        raise InputError(f"{where}: the shapes in it are no {kind}")
    try:
        depths = tuple(sum(stage == block[0] for block in blocks) for stage in stages)
        firsts = [blocks[stage, 0] for stage in stages]
        return (_resnet if resnet else _regnet)(depths, firsts, stem.shape[0])
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        raise InputError(f"{where}: the shapes in it are no {kind} ({error})") from None


def _blocks(trunk: Mapping[str, Tensor], pattern: re.Pattern[str]) -> _Blocks:
    found: _Blocks = {}
    for key, tensor in trunk.items():
        if match := pattern.fullmatch(key):
            found.setdefault((int(match[1]), int(match[2])), {})[match[3]] = tuple(tensor.shape)
    return found


def _regnet(depths: tuple[int, ...], firsts: list[dict[str, tuple[int, ...]]], stem: int) -> RegNetSize:
    grouped = [block["b.0"] for block in firsts]
    squeeze = firsts[0].get("se.fc1")
    ratio = None if squeeze is None else 0.25 if squeeze[0] == round(0.25 * stem) else squeeze[0] / stem
    widths, groups = (tuple(shape[side] for shape in grouped) for side in (0, 1))
    return RegNetSize(depths=depths, widths=widths, group_widths=groups, se_ratio=ratio, stem_width=stem)


def _resnet(depths: tuple[int, ...], firsts: list[dict[str, tuple[int, ...]]], stem: int) -> ResNetSize:
    return ResNetSize(
        depths=depths,
        widths=tuple(block["3"][0] for block in firsts),
        inner_widths=tuple(block["2"][0] for block in firsts),
        group_widths=tuple(block["2"][1] for block in firsts),
        stem_width=stem,
    )
