"""Who calls what how: the tensor names of a RegNet in five layouts (those of a ResNet: `resnets`), and which one is it.

Sources: torchvision.models.regnet; VISSL's trunks `regnet` and `regnet_fsdp` and its SwAV and linear heads; timm's
`regnet.py`; transformers' `modeling_regnet.py`. A head is either SwAV's (`projection.*`, `prototypes.*`) or one linear
classifier (`clf.0.*`); every layout has a place for the second, only ours and VISSL's for the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from seerctl.errors import InputError, UsageError
from seerctl.model.layouts import resnets
from seerctl.model.layouts.layout import CLASSIFIER, SWAV_OF_VISSL, Layout

SHOWN = 3  # unknown keys that an error names
# Wrappers leave their own names inside those of the tensors: fairscale's and torch's FSDP, activation checkpoints,
# torch.compile, VISSL's feature extractor, DistributedDataParallel.
_WRAPPERS = {
    "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_orig_mod", "base_model", "module", "regnet",
}  # fmt: skip


_OURS = ("stem.0", "stem.1", "proj.0", "proj.1", "f.a.0", "f.a.1", "f.b.0", "f.b.1", "f.se.fc1", "f.se.fc2",
         "f.c.0", "f.c.1")  # fmt: skip


def _modules(*theirs: str) -> dict[str, str]:
    return dict(zip(_OURS, theirs, strict=True))


TORCHVISION = Layout(
    "torchvision",
    _modules(*_OURS),
    lambda stage, block: f"trunk_output.block{stage}.block{stage}-{block}.",
    re.compile(r"trunk_output\.block(?P<stage>\d+)\.block(?P<again>\d+)-(?P<block>\d+)\."),
    (1, 0),
    {CLASSIFIER: "fc."},
)
SEERCTL = Layout(
    "seerctl",
    _modules("trunk.stem.0", "trunk.stem.1", *_OURS[2:]),
    lambda stage, block: f"trunk.trunk_output.block{stage}.block{stage}-{block}.",
    re.compile(r"trunk\.trunk_output\.block(?P<stage>\d+)\.block(?P<again>\d+)-(?P<block>\d+)\."),
    (1, 0),
    {"": "head."},
)
VISSL = Layout(
    "VISSL",
    _modules("_feature_blocks.conv1.stem.0", "_feature_blocks.conv1.stem.1", "proj", "bn", "f.a.0", "f.a.1", "f.b.0",
             "f.b.1", "f.se.excitation.0", "f.se.excitation.2", "f.c", "f.final_bn"),
    lambda stage, block: f"_feature_blocks.res{stage + 1}.block{stage}-{block}.",
    # Trunks built for FSDP put blocks into parts; their numbers count on through the parts.
    re.compile(
        r"(?:_feature_blocks\.)?res\d+\.(?:block(?P<again>\d+)-part\d+\.)?block(?P<stage>\d+)-(?P<block>\d+)\."
    ),
    (1, 0),
    SWAV_OF_VISSL,
    {"conv1.stem.0": "stem.0", "conv1.stem.1": "stem.1"},
)  # fmt: skip
TIMM = Layout(
    "timm",
    _modules("stem.conv", "stem.bn", "downsample.conv", "downsample.bn", "conv1.conv", "conv1.bn", "conv2.conv",
             "conv2.bn", "se.fc1", "se.fc2", "conv3.conv", "conv3.bn"),
    lambda stage, block: f"s{stage}.b{block + 1}.",
    re.compile(r"s(?P<stage>\d+)\.b(?P<block>\d+)\."),
    (1, 1),
    {CLASSIFIER: "head.fc."},
)  # fmt: skip
HF = Layout(
    "Hugging Face",
    _modules("embedder.embedder.convolution", "embedder.embedder.normalization", "shortcut.convolution",
             "shortcut.normalization", "layer.0.convolution", "layer.0.normalization", "layer.1.convolution",
             "layer.1.normalization", "layer.2.attention.0", "layer.2.attention.2", "layer.3.convolution",
             "layer.3.normalization"),
    lambda stage, block: f"encoder.stages.{stage - 1}.layers.{block}.",
    re.compile(r"encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\."),
    (0, 0),
    {CLASSIFIER: "classifier.1."},
    {"layer.2.convolution": "f.c.0", "layer.2.normalization": "f.c.1"},  # of a RegNetX
)  # fmt: skip
LAYOUTS = (SEERCTL, TORCHVISION, VISSL, TIMM, HF, *resnets.LAYOUTS)
# By family: whose names the trunk's tensors have with us, and that of the stem's weight.
_OWN = {"RegNet": (TORCHVISION, "stem.0.weight"), "ResNet": (resnets.TORCHVISION, "conv1.weight")}
_VISSL_PART = re.compile(r"trunk\.(?=_feature_blocks\.)|heads\.(?=\d)")  # of a VISSL state dict that was flattened
_HEAD = re.compile(r"\d+\.|heads?\.|fc\.|classifier\.|projection_head\.|prototypes\.")


def unwrap(key: str) -> str:
    """`key` without what wrappers put into it."""
    return _VISSL_PART.sub("", ".".join(part for part in key.split(".") if part not in _WRAPPERS), count=1)


def of_head(key: str) -> bool:
    """Whether `key` looks like a head's, of whatever kind."""
    return _HEAD.match(key) is not None


def recognise(keys: Iterable[str], where: str) -> tuple[Layout, dict[str, str], list[str]]:
    """The layout that most of `keys` (unwrapped, trunk and heads together) belong to.

    Returns:
        The layout, our name of each key that it knows (`trunk.*` or `head.*`), and the keys that it does not know.

    Raises:
        InputError: no layout knows a stem among them; the message names the first keys.
    """
    names = list(keys)
    best: tuple[Layout, dict[str, str]] | None = None
    for layout in LAYOUTS:
        known = {key: ours for key in names if (ours := _ours(layout, key)) is not None}
        stem = f"trunk.{_OWN[layout.family][1]}"
        if stem in known.values() and (best is None or len(known) > len(best[1])):
            best = layout, known
    if best is None:
        raise InputError(
            f"{where}: holds no RegNet or ResNet trunk; its first keys are {listing(names)}",
            "Known layouts: VISSL, torchvision, timm, Hugging Face, SwAV, seerctl",
        )
    unknown = [key for key in names if key not in best[1]]
    if len(set(best[1].values())) < len(best[1]):
        raise InputError(f"{where}: names a tensor of its {best[0].title} {best[0].family} twice")
    return *best, unknown


def _ours(layout: Layout, key: str) -> str | None:
    if (place := layout.place(key)) is not None:
        return f"trunk.{_OWN[layout.family][0].key(place)}"
    return f"head.{head}" if (head := layout.head_in(key)) is not None else None


def rename(trunk: Iterable[str], head: Iterable[str], layout: Layout) -> tuple[dict[str, str], dict[str, str]]:
    """The names that our trunk's and head's tensors have in `layout`.

    Raises:
        UsageError: the layout has no place for the head.
    """
    places = {key: _OWN[layout.family][0].place(key) for key in trunk}
    named = {key: layout.key(place) for key, place in places.items() if place is not None}
    if layout is HF:
        if "f.se.fc1" not in {place.module for place in places.values() if place}:
            named = {key: value.replace(".layer.3.", ".layer.2.") for key, value in named.items()}  # a RegNetX
        named = {key: f"regnet.{value}" for key, value in named.items()}
    heads: dict[str, str] = {}
    for key in head:
        theirs = layout.head_out(key)
        if theirs is None:
            raise UsageError(f"{layout.title} has no place for the head's '{key}'", "Pass --head drop")
        heads[key] = theirs
    return named, heads


def listing(keys: Iterable[str]) -> str:
    """The first few of `keys`, quoted."""
    names = list(keys)
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{key[:120]}'" for key in names[:SHOWN]) + more if names else "none"
