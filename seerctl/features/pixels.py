"""From stored bytes to the pixels a frozen model sees: decode, resize, centre crop or none; no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD
from seerctl.augment.decode import PIXELS_VERSION, to_rgb
from seerctl.errors import UsageError
from seerctl.features.layout import CORRUPTION_STEP, STEP

if TYPE_CHECKING:
    from seerctl.augment.corruptions import Corruption  # scipy: a second for who corrupts nothing

WHOLE_BELOW = 160  # pixels: smaller inputs are not cropped by default, they have no margin to spare
CROP = 0.875  # the usual 224 of 256
SMALLEST_SIDE = 16  # pixels: what --size and --resize take at least
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class View:
    """What a model sees of a picture: one centre crop of `size` x `size`, or the whole picture, `size` long.

    A crop comes after the short side was resized to `short` by Pillow's `filter`: the same pixels as torchvision's
    Resize(short) and CenterCrop(size) on a Pillow image; smaller pictures are enlarged. `short` 0: the whole picture,
    its aspect kept, its long side resized to `size` (also enlarged). mean, deviation: what the model's input is
    normalised by, of 0 to 1. mirror: the features are means over the picture and its mirror image.
    """

    size: int
    short: int
    filter: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_STD
    mirror: bool = False

    @classmethod
    def of(cls, size: int, crop: float | None = None) -> View:
        """The centre crop of `size`; without `crop` 0.875 of the short side (all of it below 160 px)."""
        view = cls(size, size)
        return view.cropped(crop if crop is not None else (CROP if size >= WHOLE_BELOW else 1.0))

    def cropped(self, crop: float) -> View:
        """The same with a crop that keeps this fraction of the short side."""
        return replace(self, short=round(self.size / crop))

    @property
    def whole(self) -> bool:
        """Whether pictures keep their aspect, so that their shapes differ."""
        return not self.short

    def steps(self, corruption: Corruption | None = None) -> str:
        """What goes into the attribute `preprocess`."""
        if self.whole:
            steps = [f"long side {self.size} {self.filter}"]
        else:
            steps = [f"short side {self.short} {self.filter}", f"centre crop {self.size}"]
        steps += [] if corruption is None else [f"{CORRUPTION_STEP}{corruption.recipe}"]
        steps += ["mean with mirror image"] if self.mirror else []
        return STEP.join([f"pixels {PIXELS_VERSION}", *steps, self._normalisation()])

    def _normalisation(self) -> str:
        if (self.mean, self.deviation) == (IMAGENET_MEAN, IMAGENET_STD):
            return "ImageNet mean and deviation"
        mean, deviation = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.deviation))
        return f"mean {mean} deviation {deviation}"

    def __call__(self, data: bytes) -> NDArray[np.uint8]:
        """Stored bytes -> (size, size, 3) uint8; of a whole picture (height, width, 3), the longer of them `size`.

        Raises:
            DecodeError: they are not a whole image.
        """
        pixels = to_rgb(data)
        height, width = pixels.shape[:2]
        if self.whole:
            wanted = _scaled(width, height, self.size, max(width, height))
        else:
            short = self.short
            wanted = (short, short * height // width) if width <= height else (short * width // height, short)
        if wanted != (width, height) and (self.whole or min(height, width) != self.short):
            # Resizing only the crop (Pillow's `box`) would be a third cheaper, but Pillow then orders its two passes
            # differently, and the pixels are no longer torchvision's.
            pixels = np.asarray(Image.fromarray(pixels).resize(wanted, FILTERS[self.filter]))
        return pixels if self.whole else _centre(pixels, self.size)


def parse_resize(text: str) -> int:
    """The long side in "long=1024".

    Raises:
        UsageError: anything else.
    """
    name, _, number = text.partition("=")
    if name != "long" or not (number.isascii() and number.isdigit()) or not SMALLEST_SIDE <= int(number) <= 1 << 14:
        raise UsageError(f"--resize {text}: not a size", f"Write --resize long=1024 ({SMALLEST_SIDE} to {1 << 14})")
    return int(number)


def _scaled(width: int, height: int, to: int, of: int) -> tuple[int, int]:
    return max(1, round(width * to / of)), max(1, round(height * to / of))


def _centre(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])
