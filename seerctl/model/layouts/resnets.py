"""The tensor names of a ResNet of bottleneck blocks, as those of a RegNet in `names`.

Sources: torchvision.models.resnet, whose names timm has too; VISSL's trunk `resnet` (`resnext.py`) and heads; the
released files of facebookresearch/swav (`src/resnet50.py`), where trunk and head are one module; transformers'
`modeling_resnet.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from seerctl.model.layouts.layout import CLASSIFIER, SWAV_OF_VISSL, Layout

_OURS = ("stem.0", "stem.1", "conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1")


def _modules(*theirs: str) -> dict[str, str]:
    return dict(zip(_OURS, theirs, strict=True))


def _after(prefix: str) -> tuple[Callable[[int, int], str], re.Pattern[str]]:
    """Writer and reader of torchvision's names of blocks behind `prefix`."""
    pattern = re.compile(rf"{re.escape(prefix)}layer(?P<stage>\d+)\.(?P<block>\d+)\.")
    return lambda stage, block: f"{prefix}layer{stage}.{block}.", pattern


def _like_torchvision(title: str, prefix: str, heads: dict[str, str]) -> Layout:
    modules = _modules(f"{prefix}conv1", f"{prefix}bn1", *_OURS[2:])
    return Layout(title, modules, *_after(prefix), (1, 0), heads, family="ResNet")


TORCHVISION = _like_torchvision("torchvision", "", {CLASSIFIER: "fc."})
TIMM = replace(TORCHVISION, title="timm")
SEERCTL = _like_torchvision("seerctl", "trunk.", {"": "head."})
VISSL = _like_torchvision("VISSL", "_feature_blocks.", SWAV_OF_VISSL)
SWAV = _like_torchvision("SwAV", "", {"projection.": "projection_head.", "prototypes.weight": "prototypes.weight"})
HF = Layout(
    "Hugging Face",
    _modules("resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization",
             "layer.0.convolution", "layer.0.normalization", "layer.1.convolution", "layer.1.normalization",
             "layer.2.convolution", "layer.2.normalization", "shortcut.convolution", "shortcut.normalization"),
    lambda stage, block: f"resnet.encoder.stages.{stage - 1}.layers.{block}.",
    re.compile(r"resnet\.encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\."),
    (0, 0),
    {CLASSIFIER: "classifier.1."},
    family="ResNet",
)  # fmt: skip
LAYOUTS = (SEERCTL, TORCHVISION, SWAV, VISSL, HF)  # to be told apart; timm's cannot be told from torchvision's
