"""Corruptions by name: `fog:3`, whole families (`weather:2`) and all of them (`all:5`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from seerctl.augment.corruptions import blur, digital, noise, weather
from seerctl.augment.corruptions.filters import Floats
from seerctl.augment.corruptions.levels import Level, level
from seerctl.augment.corruptions.noise import Pixels
from seerctl.errors import UsageError, did_you_mean

VERSION = "corruptions-1"  # changes whenever a pixel of any of them does
SEVERITIES = range(1, 6)

FAMILIES: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness", "spatter"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
}
NAMES = tuple(name for family in FAMILIES.values() for name in family)

_Function = Callable[[Pixels, Level, float, np.random.Generator], Floats | Pixels]
_MODULES = {"noise": noise, "blur": blur, "weather": weather, "digital": digital}
_FUNCTIONS: dict[str, _Function] = {
    name: getattr(_MODULES[family], name) for family, names in FAMILIES.items() for name in names
}


@dataclass(frozen=True, slots=True)
class Corruption:
    """One of `NAMES` at a severity from 1 to 5."""

    name: str
    severity: int
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}"

    @property
    def stem(self) -> str:
        """What files of it are called."""
        return f"{self.name}-{self.severity}"

    @property
    def recipe(self) -> str:
        """What goes into `preprocess`."""
        return f"{self} ({VERSION}, seed {self.seed})"

    def __call__(self, pixels: Pixels, key: str) -> Pixels:
        """Corrupt (H, W, 3) uint8 pixels of sample `key`; the same for the same seed, key, name and severity."""
        numbers, scale = level(self.name, self.severity, min(pixels.shape[:2]))
        found = _FUNCTIONS[self.name](pixels, numbers, scale, self._generator(key))
        if found.dtype == np.uint8:
            return np.array(found)  # a copy: torch wants it writable
        np.rint(found, out=found)
        np.clip(found, 0, 255, out=found)
        return found.astype(np.uint8)

    def _generator(self, key: str) -> np.random.Generator:
        words = "\0".join((str(self.seed), key, self.name, str(self.severity)))
        digest = hashlib.blake2b(words.encode(), digest_size=16).digest()
        return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))


def parse_corruptions(texts: Iterable[str], seed: int = 0) -> tuple[Corruption, ...]:
    """`NAME:SEVERITY` texts, where NAME may be a family or "all"; each corruption once, in the order they come.

    Raises:
        UsageError: an unknown name, or a severity that is not 1 to 5.
    """
    found: dict[Corruption, None] = {}
    for text in texts:
        name, _, number = text.partition(":")
        names = NAMES if name == "all" else FAMILIES.get(name, (name,))
        if names[0] not in NAMES:
            raise UsageError(f"no corruption '{name}'", did_you_mean(name, [*NAMES, *FAMILIES, "all"]))
        if number not in map(str, SEVERITIES):
            raise UsageError(f"corruption '{text}' has no severity from 1 to 5", f"Write {name}:3")
        found |= dict.fromkeys(Corruption(one, int(number), seed) for one in names)
    return tuple(found)
