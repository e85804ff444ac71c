"""Frozen networks behind one face: from normalised images to the layers that are asked for."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.features.pooling import Tokens, Value
from seerctl.model.heads import SwAVHead
from seerctl.model.trunk import Trunk

AVGPOOL = "avgpool"
HEAD = "head"
# What torchvision, timm and others call the four stages that SEER's papers call res2 ... res5; the parent holds these
# and nothing else (ConvNeXt's and Swin's `features` alternate with downsampling).
_STAGES = (
    ("layer{}", (1, 2, 3, 4), 0),
    ("s{}", (1, 2, 3, 4), 0),
    ("trunk_output.block{}", (1, 2, 3, 4), 4),
    ("stages.{}", (0, 1, 2, 3), 4),
    ("layers.{}", (0, 1, 2, 3), 4),
    ("features.{}", (1, 3, 5, 7), 8),
)
_SHOWN = 12  # layers that an error names
_TRY = 2  # pictures in the batch that a model is tried with: 1 could be mistaken for another dimension


class TrunkNetwork(nn.Module):
    """A RegNet of ours and, where the weights have one, its SwAV head: res2 ... res5, avgpool, head."""

    def __init__(self, trunk: Trunk, head: SwAVHead | None) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers it has."""
        return (*self.trunk.layers, HEAD) if self.head is not None else self.trunk.layers

    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Value]:
        """The layers (maps, or vectors of avgpool and head) of images (B, 3, H, W), from one pass."""
        wanted = dict.fromkeys(AVGPOOL if name == HEAD else name for name in layers)
        found: dict[str, Value] = dict(self.trunk.features(images, tuple(wanted)))
        if self.head is not None and HEAD in layers:
            pooled = found[AVGPOOL]
            assert isinstance(pooled, Tensor)
            with torch.autocast(images.device.type, enabled=False):
                found[HEAD] = self.head(pooled.float()).projections
        return found

    def try_out(self, layers: Sequence[str], shape: tuple[int, int], where: str) -> dict[str, Value]:
        """Stand-ins for the layers, of the right number of dimensions.

        Raises:
            UsageError: a layer that it does not have.
        """
        for name in layers:
            if name not in self.layers:
                raise UsageError(f"{where}: no layer '{name}'", did_you_mean(name, self.layers))
        return {name: torch.ones((1, 1) if name in (AVGPOOL, HEAD) else (1, 1, 1, 1)) for name in layers}


class HookedNetwork(nn.Module):
    """Any model: its modules' outputs by their names, and what it returns.

    `function`: (B, 3, H, W) -> (B, D), which is the layer `avgpool`, or layers by name. Of a module the output of every
    submodule is a layer too (of one that runs several times its last), called as in `named_modules`; `classifier` is
    the submodule whose input is `avgpool` instead. `prefix`: tokens before the patches of a transformer, if known.

    Maps are (B, C, H, W), or (B, H, W, C) where that is told from a square picture; tokens (B, N, C). Several threads
    may call `features` at once.
    """

    def __init__(
        self, function: Callable[[Tensor], Any], classifier: str | None = None, prefix: int | None = None
    ) -> None:
        super().__init__()
        self.module = function if isinstance(function, nn.Module) else None
        self._function = [function]  # in a list: a module must not be registered twice
        self.classifier, self.prefix = classifier, prefix
        self._calls = threading.local()
        self._hooked: dict[str, int] = {}  # calls of each hooked module in one pass
        self._last_dim: set[str] = set()  # maps whose channels come last
        self._stop = False
        self._named = dict(self.module.named_modules()) if self.module is not None else {}
        self.aliases = _aliases(self._named)

    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Value]:
        """The layers of images (B, 3, H, W), from one pass that ends where the last of them is known."""
        names = {name: self.aliases.get(name, name) for name in layers}
        raw = self._outputs(images, frozenset(names.values()))
        return {name: self._value(name, raw[own], images) for name, own in names.items()}

    def try_out(self, layers: Sequence[str], shape: tuple[int, int], where: str) -> dict[str, Value]:
        """Hook what `layers` need and run once on blank pictures of `shape` (height, width).

        Raises:
            UsageError: a layer that it does not have.
            InputError: the model fails on such pictures, or gives something else than features.
        """
        names = {name: self.aliases.get(name, name) for name in layers}
        self._hook(names.values())
        images = torch.zeros(_TRY, 3, *shape)
        try:
            with torch.inference_mode():
                found = self._outputs(images, frozenset(names.values()), trial=True)
        except (UsageError, InputError):
            raise
        except Exception as error:  # a stranger's model may raise anything
            raise InputError(
                f"{where}: fails on pictures of {shape[1]}x{shape[0]} ({type(error).__name__}: {error})",
                "Pass the --size that it takes",
            ) from error
        for name, own in names.items():
            self._check(name, found.get(own), found, shape, where)
        self._stop = all(self._hooked.get(own) == 1 for own in names.values())
        return {name: self._value(name, found[own], images) for name, own in names.items()}

    def _hook(self, names: Iterable[str]) -> None:
        """Hook the modules of these names, and count their calls from now on."""
        modules = self._named
        self._hooked = dict.fromkeys(self._hooked, 0)
        for name in names:
            if name == AVGPOOL and self.classifier is not None:
                if name not in self._hooked:
                    modules[self.classifier].register_forward_pre_hook(partial(self._seen_before, name))
                    self._hooked[name] = 0
            elif name != AVGPOOL and name in modules and name and name not in self._hooked:
                modules[name].register_forward_hook(partial(self._seen, name))
                self._hooked[name] = 0

    def _seen(self, name: str, _: nn.Module, __: Any, output: Any) -> None:
        self._keep(name, output)

    def _seen_before(self, name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._keep(name, inputs)

    def _keep(self, name: str, output: Any) -> None:
        """Note a layer of the pass that this thread runs; copied, since what comes after may work in place."""
        call: _Pass | None = getattr(self._calls, "current", None)
        if call is None or name not in call.wanted:
            return
        tensor = output[0] if isinstance(output, (tuple, list)) and output else output
        call.found[name] = tensor.clone() if isinstance(tensor, Tensor) else tensor
        if call.trial:
            self._hooked[name] += 1
        elif self._stop and len(call.found) == len(call.wanted):
            raise _Enough

    def _outputs(self, images: Tensor, wanted: frozenset[str], trial: bool = False) -> dict[str, Any]:
        call = self._calls.current = _Pass(wanted, trial)
        try:
            output = self._function[0](images)
        except _Enough:
            return call.found
        finally:
            self._calls.current = None
        if isinstance(output, Mapping):
            return {**{str(key): value for key, value in output.items()}, **call.found}
        return {AVGPOOL: output, **call.found}

    def _check(self, name: str, value: Any, found: Mapping[str, Any], shape: tuple[int, int], where: str) -> None:
        if value is None:
            raise UsageError(f"{where}: no layer '{name}'", self._known(name, found))
        if not isinstance(value, Tensor) or value.ndim not in (2, 3, 4) or value.shape[0] != _TRY:
            told = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"{where}: layer '{name}' is {told}, not (B, D), (B, C, H, W) or (B, N, C) of B = {_TRY}",
                "Ask for another layer",
            )
        if value.ndim == 4 and shape[0] == shape[1]:
            _, first, second, third = value.shape
            if first == second != third:
                self._last_dim.add(name)
            else:
                self._last_dim.discard(name)

    def _known(self, name: str, found: Mapping[str, Any]) -> str:
        modules = [other for other in self._named if other]
        known = [*self.aliases, *found, *modules]
        hint = did_you_mean(name, known)
        if not hint.startswith("Known") or len(known) <= _SHOWN:
            return hint
        short = sorted(dict.fromkeys(known), key=lambda one: one.count("."))[:_SHOWN]
        return f"Known: {', '.join(short)} and other submodules, as {modules[-1]}"

    def _value(self, name: str, tensor: Tensor, images: Tensor) -> Value:
        if tensor.ndim == 4 and name in self._last_dim:
            return tensor.permute(0, 3, 1, 2)
        return self._tokens(name, tensor, images) if tensor.ndim == 3 else tensor

    def _tokens(self, name: str, tensor: Tensor, images: Tensor) -> Tokens:
        """Tokens (B, N, C) as the class token and a map of the patches, which lie as the picture's places do."""
        count = tensor.shape[1]
        for prefix in (0, 1) if self.prefix is None else (self.prefix,):
            side = math.isqrt(count - prefix)
            if side * side == count - prefix and images.shape[2] == images.shape[3]:
                patches = tensor[:, prefix:].transpose(1, 2).reshape(len(tensor), -1, side, side)
                return Tokens(patches, tensor[:, 0] if prefix else None)
        raise UsageError(
            f"layer '{name}': its {count} tokens are no square of patches, with or without a class token",
            "Extract square crops, or ask for avgpool",
        )


class _Enough(Exception):
    """Every layer that was asked for is known: the rest of the model need not run."""


class _Pass:
    """What one pass of one thread looks for and has found."""

    def __init__(self, wanted: frozenset[str], trial: bool) -> None:
        self.wanted, self.trial = wanted, trial
        self.found: dict[str, Any] = {}


def _aliases(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """res2 ... res5 where the stages have names that are known."""
    for pattern, numbers, siblings in _STAGES:
        names = [pattern.format(number) for number in numbers]
        parent = modules.get(pattern.rpartition(".")[0])
        if all(name in modules for name in names) and siblings in (0, len(list(parent.children())) if parent else 0):
            return {f"res{stage}": name for stage, name in enumerate(names, 2)}
    return {}


Network = TrunkNetwork | HookedNetwork
