"""Generated pictures with structure, so that decoding, augmentation and learning have something to work on."""

from __future__ import annotations

import numpy as np
from PIL import Image


def draw(seed: int = 0, width: int = 48, height: int = 40) -> Image.Image:
    """Smooth colour fields with a bright disc; the same for the same seed."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    field = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    left, top = generator.uniform(0.3, 0.7, 2) * (width, height)
    field[(x - left) ** 2 + (y - top) ** 2 < (min(width, height) / 5) ** 2] = generator.integers(128, 256, 3)
    return Image.fromarray(field)
