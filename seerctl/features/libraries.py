"""Models of torchvision and timm, with the pictures that their libraries show them."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seerctl.errors import EnvironmentFault, InputError, did_you_mean
from seerctl.features.frozen import DEFAULT_SIZE, Frozen, hooked
from seerctl.features.pixels import FILTERS, View
from seerctl.model.layouts.source import tensors_of
from seerctl.model.load import TORCHVISION
from seerctl.model.weights import load_into

TIMM = "timm:"
PRETRAINED = "pretrained"  # after "timm:NAME@": what timm has for it, from its cache or the network
_TRANSFORM_INPUT = ("inception_v3", "googlenet")  # whose weights expect torchvision's own rescaling

log = logging.getLogger("seerctl")


def of_torchvision(name: str, weights: str) -> Frozen:
    """torchvision's `name` with random weights, those of the file `weights`, or its own by their name.

    Raises:
        InputError: no such model, or weights that do not fit. EnvironmentFault: weights could not be fetched.
    """
    import torchvision  # noqa: PLC0415  # a second for who needs no torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    full_name = f"{TORCHVISION}{name}"
    if name not in known:
        raise InputError(f"{full_name}: not a classification model of torchvision", did_you_mean(name, known))
    chosen = torchvision_weights(name, weights)
    settings: dict[str, Any] = {"transform_input": True} if name in _TRANSFORM_INPUT else {}
    try:
        module = _quietly(lambda: torchvision.models.get_model(name, weights=chosen, **({} if chosen else settings)))
    except OSError as error:
        raise EnvironmentFault(
            f"{full_name}@{weights}: could not be fetched ({error})", "Download the file, then name it after '@'"
        ) from None
    classifier = _last_linear(module)
    if weights and chosen is None:
        _fill_torchvision(module, Path(weights), full_name, classifier)
    elif not weights:
        log.warning("%s: random weights; add @DEFAULT or @FILE for trained ones", full_name)
    view = view_of_transforms(chosen) if chosen else View.of(int(getattr(module, "image_size", DEFAULT_SIZE)))
    return hooked(module, full_name, weights if chosen is None else "", view, classifier=classifier)


def torchvision_weights(name: str, weights: str) -> Any:
    """torchvision's weights of that name ("DEFAULT", "IMAGENET1K_V2"), or None."""
    from torchvision.models import get_model_weights  # noqa: PLC0415  # a second for who needs no torchvision

    known = get_model_weights(name)
    return known[weights] if weights in known.__members__ or (weights == "DEFAULT" and known.__members__) else None


def view_of_transforms(weights: Any) -> View:
    """The centre crop that torchvision evaluated its weights on."""
    shown = weights.transforms()
    view = View(shown.crop_size[0], shown.resize_size[0], str(shown.interpolation.value))
    return replace(view, mean=tuple(shown.mean), deviation=tuple(shown.std))


def _fill_torchvision(module: nn.Module, path: Path, name: str, classifier: str | None) -> None:
    """Load a file into `module`, whose classifier becomes that of the file: of other classes, or none."""
    state = _tensors(str(path), name)
    if classifier is not None:
        shape = state[f"{classifier}.weight"].shape if f"{classifier}.weight" in state else ()
        made = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Identity()
        module.set_submodule(classifier, made)
    load_into(module, state, f"{path} ({name})")


def _last_linear(module: nn.Module) -> str | None:
    linear = [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    return linear[-1] if linear else None


def of_timm(name: str, weights: str) -> Frozen:
    """timm's `name` with random weights, those of the file `weights`, or timm's own for "pretrained".

    Raises:
        InputError: no such model, or weights that do not fit. EnvironmentFault: no timm here, or no weights there.
    """
    try:
        timm: Any = importlib.import_module("timm")  # an extra
    except ImportError:
        raise EnvironmentFault(f"{TIMM}{name}: timm is not installed", "pip install 'seerctl[timm]'") from None
    full_name = f"{TIMM}{name}"
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"{full_name}: not a model of timm", did_you_mean(name, timm.list_models()))
    own = weights == PRETRAINED
    try:
        module = _quietly(lambda: timm.create_model(name, pretrained=own, num_classes=0))
    except Exception as error:  # huggingface_hub, urllib and timm raise many kinds
        if own:
            raise EnvironmentFault(
                f"{full_name}@{PRETRAINED}: could not be fetched ({error})", "Download it, then name the file after '@'"
            ) from error
        raise InputError(f"{full_name}: cannot be built ({error})", "Choose another model") from error
    if weights and not own:
        heads: Any = module.pretrained_cfg["classifier"] or ()  # type: ignore[index]
        prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        state = {key: value for key, value in _tensors(weights, full_name).items() if not key.startswith(prefixes)}
        load_into(module, state, f"{weights} ({full_name})")
    elif not weights:
        log.warning("%s: random weights; add @%s or @FILE for trained ones", full_name, PRETRAINED)
    view = _view_of_timm(timm.data.resolve_model_data_config(module))
    prefix = getattr(module, "num_prefix_tokens", None)
    found = hooked(module, full_name, "" if own else weights, view, prefix=prefix)
    return replace(found, facts={**found.facts, "timm": timm.__version__})


def _view_of_timm(settings: Mapping[str, Any]) -> View:
    """The centre crop of timm's configuration; its short side is rounded down, as timm does."""
    size = int(settings["input_size"][-1])
    chosen = settings["interpolation"] if settings["interpolation"] in FILTERS else "bicubic"
    if settings.get("crop_mode", "center") != "center":
        log.warning("timm shows this model pictures by '%s'; seerctl crops the centre", settings["crop_mode"])
    short = int(size / float(settings["crop_pct"]))
    return View(size, short, chosen, tuple(settings["mean"]), tuple(settings["std"]))


def _tensors(weights: str, name: str) -> dict[str, Tensor]:
    if not Path(weights).is_file():
        raise InputError(f"{weights}: no such file", f"Name weights of {name}")
    return tensors_of(Path(weights))


def _quietly(make: Callable[[], nn.Module]) -> nn.Module:
    """A module whose random weights are always the same, without its library's warnings."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return make()
