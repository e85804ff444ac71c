"""What a frozen model is to an extraction, and how any torch module or function becomes one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from seerctl.features.networks import HookedNetwork, Network
from seerctl.features.pixels import View
from seerctl.files import sha256_file
from seerctl.model.load import scale_of
from seerctl.model.weights import state_sha256

DEFAULT_SIZE = 224
_NO_WEIGHTS = hashlib.sha256().hexdigest()  # of a function without tensors


@dataclass(frozen=True, slots=True)
class Frozen:
    """A network in eval mode on the CPU, what its features are said to be of, and what it wants to see.

    facts: what else made it what it is, for the lineage.
    """

    network: Network
    name: str
    weights_sha256: str
    view: View
    facts: dict[str, str | int] = field(default_factory=dict)


def hooked(
    function: Callable[[Tensor], Any], name: str, weights: str, view: View, *,
    classifier: str | None = None, prefix: int | None = None,
) -> Frozen:  # fmt: skip
    """A torch module or a function as a frozen model; `weights` is the file that its tensors are from, "" where they
    have to be summed themselves. classifier, prefix: see `HookedNetwork`."""
    network = HookedNetwork(function, classifier, prefix)
    state = {} if network.module is None else network.module.state_dict()
    sha256 = sha256_file(Path(weights)) if weights else (state_sha256(state.items()) if state else _NO_WEIGHTS)
    facts = {} if network.module is None else scale_of(network.module, {})
    return Frozen(network, name, sha256, view, dict(facts))
