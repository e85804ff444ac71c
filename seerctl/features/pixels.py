"""From stored bytes to the pixels a frozen model sees: decode, resize, centre crop; no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seerctl.augment.corruptions import Corruption
from seerctl.augment.decode import PIXELS_VERSION, to_rgb
from seerctl.features.layout import CORRUPTION_STEP, STEP

WHOLE_BELOW = 160  # pixels: smaller inputs are not cropped by default, they have no margin to spare
CROP = 0.875  # the usual 224 of 256


@dataclass(frozen=True, slots=True)
class View:
    """One centre crop of `size` x `size` after the short side was resized to size / crop, by Pillow's bicubic filter.

    The same pixels as torchvision's Resize(short side) and CenterCrop(size) on a Pillow image; smaller pictures are
    enlarged. crop: fraction of the short side that is kept. corruption: what is done to the crop, if anything.
    """

    size: int
    crop: float
    corruption: Corruption | None = None

    @classmethod
    def of(cls, size: int, crop: float | None = None) -> View:
        """The view of `size`; without `crop` 0.875 of the short side (all of it below 160 px)."""
        return cls(size, crop if crop is not None else (CROP if size >= WHOLE_BELOW else 1.0))

    @property
    def short_side(self) -> int:
        """What the short side is resized to, in pixels."""
        return round(self.size / self.crop)

    def __str__(self) -> str:
        """What goes into the attribute `preprocess`."""
        steps = [f"pixels {PIXELS_VERSION}", f"short side {self.short_side} bicubic", f"centre crop {self.size}"]
        steps += [] if self.corruption is None else [f"{CORRUPTION_STEP}{self.corruption.recipe}"]
        return STEP.join([*steps, "ImageNet mean and deviation"])

    def __call__(self, data: bytes, key: str = "") -> NDArray[np.uint8]:
        """Stored bytes -> (size, size, 3) uint8; a corruption draws its random numbers from the sample's `key`.

        Raises:
            DecodeError: they are not a whole image.
        """
        pixels = to_rgb(data)
        height, width = pixels.shape[:2]
        short = self.short_side
        if min(height, width) != short:
            wanted = (short, short * height // width) if width <= height else (short * width // height, short)
            # Resizing only the crop (Pillow's `box`) would be a third cheaper, but Pillow then orders its two passes
            # differently, and the pixels are no longer torchvision's.
            pixels = np.asarray(Image.fromarray(pixels).resize(wanted, Image.Resampling.BICUBIC))
            height, width = pixels.shape[:2]
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        pixels = np.ascontiguousarray(pixels[top : top + self.size, left : left + self.size])
        return pixels if self.corruption is None else self.corruption(pixels, key)
