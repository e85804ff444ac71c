"""How one library names the tensors of a trunk and its head: a bijection with torchvision's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

CLASSIFIER = "clf.0."
SWAV_OF_VISSL = {"projection.": "0.projection_head.", "prototypes.": "0.prototypes0.", CLASSIFIER: "0.clf.0."}
_LEAF = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


class Place(NamedTuple):
    """One tensor of a trunk: stage from 1 and block from 0 (the stem has neither), module by its key in `modules`."""

    stage: int
    block: int
    module: str
    leaf: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of one library for one family of trunks, "RegNet" or "ResNet".

    `modules` maps torchvision's modules (the two of the stem: stem.0 and stem.1 in every family) to its own; `block`
    writes a block's prefix and `pattern` reads it (groups `stage` and `block`, counted from `first`); `heads` maps
    prefixes of our head's names to its own; `aliases` are other names that are read, but never written.
    """

    title: str
    modules: Mapping[str, str]
    block: Callable[[int, int], str]
    pattern: re.Pattern[str]
    first: tuple[int, int]
    heads: Mapping[str, str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    family: str = "RegNet"

    def place(self, key: str) -> Place | None:
        """What the trunk's tensor called `key` is, or None."""
        found = self.pattern.match(key)
        stage, block = (int(found["stage"]), int(found["block"])) if found else (0, 0)
        if found and found.groupdict().get("again", found["stage"]) not in (None, found["stage"]):
            return None  # VISSL repeats the stage's number
        module, _, leaf = key[found.end() if found else 0 :].rpartition(".")
        names = (ours for ours, theirs in self.modules.items() if theirs == module and _of_stem(ours) != bool(found))
        name = next(names, self.aliases.get(module))
        if name is None or not re.fullmatch(_LEAF, leaf) or _of_stem(name) == bool(found):
            return None
        return Place(stage - self.first[0] + 1, block - self.first[1], name, leaf) if found else Place(0, 0, name, leaf)

    def key(self, place: Place) -> str:
        """The name of the trunk's tensor at `place`."""
        prefix = self.block(place.stage, place.block) if place.stage else ""
        return f"{prefix}{self.modules[place.module]}.{place.leaf}"

    def head_in(self, key: str) -> str | None:
        """Our name of the head's tensor called `key`, or None."""
        for ours, theirs in self.heads.items():
            if key.startswith(theirs):
                return ours + key.removeprefix(theirs)
        return None

    def head_out(self, key: str) -> str | None:
        """The name of our head's tensor `key`, or None where the layout has no place for it."""
        for ours, theirs in self.heads.items():
            if key.startswith(ours):
                return theirs + key.removeprefix(ours)
        return None


def _of_stem(module: str) -> bool:
    return module.startswith("stem")
