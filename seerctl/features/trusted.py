"""A model that a function of the user's makes: code that runs only when the command line says so."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD
from seerctl.errors import SeerctlError, UsageError, did_you_mean
from seerctl.features.frozen import DEFAULT_SIZE, Frozen, hooked
from seerctl.features.pixels import SMALLEST_SIDE, View
from seerctl.files import sha256_file

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_function(spec: str) -> bool:
    """Whether `spec` reads as module:function, and is no file."""
    return _FUNCTION.fullmatch(spec) is not None and not Path(spec).exists()


def of_function(spec: str, trust_code: bool) -> Frozen:
    """What the user's `function()` in `module` (found as by `python -m`) returns.

    A torch module, or a function that threads may share: images (B, 3, S, S), float32, normalised -> (B, D), or layers
    by name. Its attribute `preprocess`, a dictionary, may say otherwise than 224 pixels and ImageNet's normalisation:
    `size`, `crop` (of the short side), `mean`, `std`.

    Raises:
        UsageError: the code is not trusted, cannot be found, raises, or returns no model.
    """
    if not trust_code:
        meant = did_you_mean(spec.partition(":")[0] + ":", ["torchvision:", "timm:"])
        hint = meant if meant.startswith("Did") else "Pass --trust-code if you trust it"
        raise UsageError(f"{spec}: no such file, and as module:function it would run code", hint)
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    sys.path[:0] = [] if here in sys.path else [here]
    try:
        code = importlib.import_module(module_name)
        made = getattr(code, name)()
    except SeerctlError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise UsageError(
            f"{spec}: {type(error).__name__}: {error}", "Its function is called without arguments"
        ) from error
    if not callable(made):
        raise UsageError(f"{spec}: returns {type(made).__name__}", "Return a torch module, or a function of images")
    source = getattr(code, "__file__", None)
    facts = {"code_sha256": sha256_file(Path(source))} if source else {}
    view = _view_of_user(spec, getattr(made, "preprocess", None))
    found = hooked(made, spec, "", view)
    return replace(found, facts={**found.facts, **facts})


def _view_of_user(spec: str, told: Any) -> View:
    if not isinstance(told, Mapping):  # nn.Modules may well have something else of that name
        return View.of(DEFAULT_SIZE)
    try:
        unknown = set(told) - {"size", "crop", "mean", "std"}
        size = int(told.get("size", DEFAULT_SIZE))
        mean, deviation = (tuple(map(float, told.get(key, usual)))
                           for key, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))  # fmt: skip
        view = View.of(size, float(told["crop"]) if "crop" in told else None)
        if unknown or size < SMALLEST_SIDE or (len(mean), len(deviation)) != (3, 3) or min(deviation) <= 0:
            raise ValueError(f"{dict(told)}")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"{spec}: its 'preprocess' is none ({error})",
            "Give it size, crop, and mean and std of three numbers each",
        ) from None
    return replace(view, mean=mean, deviation=deviation)
