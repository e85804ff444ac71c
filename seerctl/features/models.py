"""A frozen model from what a user names: ours, torchvision's, timm's, or a function of the user's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from seerctl.features.frozen import DEFAULT_SIZE, Frozen
from seerctl.features.libraries import TIMM, of_timm, of_torchvision, torchvision_weights, view_of_transforms
from seerctl.features.networks import TrunkNetwork
from seerctl.features.pixels import SMALLEST_SIDE, View
from seerctl.features.trusted import is_function, of_function
from seerctl.model.heads import SwAVHead
from seerctl.model.load import TORCHVISION, WEIGHTS_FILE, load_model, scale_of
from seerctl.model.sizes import TORCHVISION_SIZES
from seerctl.model.weights import load_into, load_weights


def load_frozen(spec: str, *, trust_code: bool = False) -> Frozen:
    """The model that `spec` names, without gradients.

    Beside what `load_model` reads: `torchvision:NAME` of any classification model of torchvision, `timm:NAME` of any of
    timm (both with random weights; `@FILE` for others, `@DEFAULT` or `@pretrained` for the library's own), and, with
    `trust_code`, `module:function` (see `of_function`).

    Raises:
        UsageError: code that is not trusted or cannot be had.
        InputError: no such model, or weights that are damaged or do not fit.
        EnvironmentFault: weights could not be fetched, or timm is not installed.
    """
    if spec.startswith(TIMM):
        found = of_timm(*_split(spec.removeprefix(TIMM)))
    elif spec.startswith(TORCHVISION):
        name, weights = _split(spec.removeprefix(TORCHVISION))
        found = _ours(spec) if name in TORCHVISION_SIZES else of_torchvision(name, weights)
    elif is_function(spec):
        found = of_function(spec, trust_code)
    else:
        found = _ours(spec)
    found.network.eval().requires_grad_(False)
    return found


def _split(text: str) -> tuple[str, str]:
    name, _, weights = text.partition("@")
    return name, weights


def _ours(spec: str) -> Frozen:
    loaded = load_model(spec)
    size = loaded.metadata.get("crop_size", "")
    trained = int(size) if size.isascii() and size.isdigit() and int(size) >= SMALLEST_SIDE else DEFAULT_SIZE
    view = View.of(trained)
    name, _, weights = spec.removeprefix(TORCHVISION).partition("@")
    if spec.startswith(TORCHVISION) and (chosen := torchvision_weights(name, weights)):
        view = view_of_transforms(chosen)
    network = TrunkNetwork(loaded.trunk, _head(spec, loaded.widths[-1]))
    scale = scale_of(loaded.trunk, loaded.metadata)
    return Frozen(network, loaded.name, loaded.weights_sha256, view, dict(scale))


def _head(spec: str, trunk_width: int) -> SwAVHead | None:
    """The SwAV head in the weights file of `spec`, its sizes read from the shapes, or None.

    Raises:
        InputError: the file is damaged, or its head is none of ours.
    """
    name = spec.partition("@")[2] if spec.startswith(TORCHVISION) else spec
    path = Path(name) / WEIGHTS_FILE if Path(name).is_dir() else Path(name)
    state = load_weights(path).head if name and path.is_file() else {}
    linear = sorted((int(key.split(".")[1]), key) for key, value in state.items()
                    if key.startswith("projection.") and key.endswith(".weight") and value.ndim == 2)  # fmt: skip
    if not linear or "prototypes.weight" not in state:
        return None
    dims = [state[key].shape[0] for _, key in linear]
    normed = any(key.endswith("running_mean") for key in state)
    norm = partial(nn.BatchNorm1d, eps=1e-5) if normed else None
    head = SwAVHead(trunk_width, dims, state["prototypes.weight"].shape[0], norm)
    load_into(head, state, spec)
    return head
