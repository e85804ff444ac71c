"""A frozen trunk from what a user names: a run, a weights file, or a RegNetY of torchvision."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from seerctl.errors import EnvironmentFault, InputError, did_you_mean
from seerctl.model.init import fill, init_weights
from seerctl.model.shapes import size_of
from seerctl.model.sizes import TORCHVISION_SIZES, Size, model_name, name_of
from seerctl.model.trunk import Trunk, build_trunk
from seerctl.model.weights import check_size, load_into, load_weights, state_sha256

WEIGHTS_FILE = "weights.safetensors"
TORCHVISION = "torchvision:"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trunk in eval mode, where it came from, and the hash that features made with it carry."""

    trunk: Trunk
    name: str
    weights_sha256: str
    widths: tuple[int, ...]
    metadata: dict[str, str] = field(default_factory=dict)


def scale_of(model: nn.Module, metadata: Mapping[str, str]) -> dict[str, int]:
    """How large a model is and how much it has seen, as far as is known: `parameters` (of the trunk), `images_seen`
    (by the run that wrote its file: steps times the batch of its recipe)."""
    found = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    try:
        batch = tomllib.loads(metadata["recipe"])["data"]["batch"]
        return {**found, "images_seen": int(metadata["step"]) * int(batch)}
    except (KeyError, TypeError, ValueError):  # of another program, or before any step
        return found


def load_model(spec: str) -> LoadedModel:
    """The model that `spec` names, on the CPU, in eval mode, float32, without gradients.

    `RUN` (its weights.safetensors), a file, checkpoint or directory of any layout that `convert` reads,
    `torchvision:NAME` (a RegNetY with random weights: the baseline to compare with), `torchvision:NAME@FILE` (weights
    from a file) or `torchvision:NAME@DEFAULT` (torchvision's own weights, from its cache or the network).

    Raises:
        InputError: no such model, or weights that are damaged or of another size.
        EnvironmentFault: torchvision's weights could not be fetched.
    """
    if spec.startswith(TORCHVISION):
        name, _, weights = spec.removeprefix(TORCHVISION).partition("@")
        return _from_torchvision(name, weights)
    return _from_file(Path(spec), name="")


def fill_model(model: nn.Module, path: Path, size: Size, facts: Mapping[str, str] | None = None) -> bool:
    """Fill trunk and head of a model in training, sharded or not, from a run or a file; whether the head was taken.

    The head is taken where all its shapes are the model's and the file's metadata agrees with `facts` (a classifier of
    as many, but other classes is another head), and left as it was otherwise.

    Raises:
        InputError: weights that are damaged or of another size than `size`.
    """
    weights = load_weights(path / WEIGHTS_FILE if path.is_dir() else path)
    check_size(size_of(weights.trunk, str(path)), size, str(path))
    for name, value in model.get_submodule("trunk").state_dict().items():
        if name in weights.trunk:
            fill(value, weights.trunk[name])
    head = model.get_submodule("head").state_dict()
    same = {name: value.shape for name, value in head.items()} == {
        name: value.shape for name, value in weights.head.items()
    }
    same = same and all(weights.metadata.get(name) == value for name, value in (facts or {}).items())
    if same:
        for name, value in head.items():
            fill(value, weights.head[name])
    return same


def size_in(path: Path) -> Size:
    """The size of the trunk in a run or a file, from its shapes alone.

    Raises:
        InputError: no such file, damaged, or no trunk of ours is in it.
    """
    from seerctl.model.layouts.source import open_source  # noqa: PLC0415  # which knows runs by this module

    return open_source(path / WEIGHTS_FILE if path.is_dir() else path).size


def _from_file(path: Path, name: str) -> LoadedModel:
    from seerctl.model.layouts.source import open_source  # noqa: PLC0415

    source = open_source(path)
    with torch.device("meta"):
        trunk = build_trunk(source.size)
    trunk.to_empty(device="cpu")
    load_into(trunk, {key: entry.mapped() for key, entry in source.trunk.items()}, str(path))
    return _loaded(trunk, name or model_name(source.size), source.sha256, source.metadata)


def _from_torchvision(name: str, weights: str) -> LoadedModel:
    if name not in TORCHVISION_SIZES:
        raise InputError(f"{TORCHVISION}{name}: not a RegNetY of torchvision", did_you_mean(name, TORCHVISION_SIZES))
    from torchvision.models import get_model_weights  # noqa: PLC0415  # a second for who needs no torchvision

    size, full_name = TORCHVISION_SIZES[name], f"{TORCHVISION}{name}"
    if weights and weights not in get_model_weights(name).__members__ and weights != "DEFAULT":
        loaded = _from_file(Path(weights), full_name)
        check_size(loaded.trunk.size, size, weights)
        return loaded
    trunk = build_trunk(size)
    if weights:
        fetched = _fetch(name, weights)
        load_into(trunk, {key: value for key, value in fetched.items() if not key.startswith("fc.")}, full_name)
    else:
        logging.getLogger("seerctl").warning("%s: random weights; add @DEFAULT or @FILE for trained ones", full_name)
        init_weights(trunk, seed=0)
    metadata = {"size": name_of(size), "weights": weights or "random"}
    return _loaded(trunk, full_name, state_sha256(trunk.state_dict().items()), metadata)


def _fetch(name: str, weights: str) -> Mapping[str, Tensor]:
    from torchvision.models import get_model_weights  # noqa: PLC0415  # a second for who needs no torchvision

    try:
        chosen = get_model_weights(name)[weights]
        state: Mapping[str, Tensor] = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise EnvironmentFault(
            f"{TORCHVISION}{name}@{weights}: could not be fetched ({error})",
            "Download the file, then name it after '@'",
        ) from None
    return state


def _loaded(trunk: Trunk, name: str, sha256: str, metadata: Mapping[str, str]) -> LoadedModel:
    trunk.eval().requires_grad_(False)
    return LoadedModel(trunk, name, sha256, trunk.size.widths, dict(metadata))
