"""What processing does to pictures: contrast, warps, coarse pixels, JPEG, colour. Arguments and results as in
`noise`."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from seerctl.augment.corruptions.filters import Floats, gaussian, sample
from seerctl.augment.corruptions.levels import Level
from seerctl.augment.corruptions.noise import Pixels


def contrast(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """level: factor of the distance from each channel's mean."""
    image = pixels.astype(np.float32)
    mean = pixels.mean((0, 1), dtype=np.float64).astype(np.float32)
    return np.asarray((image - mean) * np.float32(level[0]) + mean, dtype=np.float32)


def elastic_transform(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """A picture on rubber: three of its points are moved, and every pixel a little more.

    level: largest shift of the three points (an affine map, the same for the whole picture), root mean square of the
    local shift, and the length over which that varies, all as shares of the short side. ImageNet-C's levels 1 and 2
    are nearly pure affine maps of up to 44 px of 224, stronger than its levels 3 to 5; here both parts grow.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    rows, columns = np.meshgrid(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32), indexing="ij")
    centre, arm = np.array([(height - 1) / 2, (width - 1) / 2]), side / 3
    corners = centre + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + generator.uniform(-level[0] * side, level[0] * side, corners.shape)
    matrix = np.linalg.solve(np.column_stack([corners, np.ones(3)]), moved).astype(np.float32)
    shift = generator.uniform(-1, 1, (height, width, 2)).astype(np.float32)
    shift = gaussian(shift, max(0.8, level[2] * side))
    shift *= np.float32(level[1] * side) / max(float(np.sqrt((shift**2).sum(-1).mean())), 1e-6)
    down = rows * matrix[0, 0] + columns * matrix[1, 0] + matrix[2, 0] + shift[..., 0]
    right = rows * matrix[0, 1] + columns * matrix[1, 1] + matrix[2, 1] + shift[..., 1]
    return sample(pixels.astype(np.float32), down, right)


def pixelate(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Pixels:
    """Fewer, larger pixels. level: sides of the coarse picture as a share of the fine one's."""
    height, width = pixels.shape[:2]
    coarse = (max(1, int(width * level[0])), max(1, int(height * level[0])))
    small = Image.fromarray(pixels).resize(coarse, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Pixels:
    """level: Pillow's quality."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(level[0]))
    return np.asarray(Image.open(file))


def saturate(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """level: factor and offset of the saturation of hue, saturation and value; grey counts as red, as in
    scikit-image."""
    image = pixels.astype(np.float32)
    value = image.max(-1, keepdims=True)
    chroma = value - image.min(-1, keepdims=True)
    before = chroma / np.maximum(value, 1)
    after = np.clip(before * np.float32(level[0]) + np.float32(level[1]), 0, 1)
    coloured = value - (value - image) * (after / np.maximum(before, 1e-6))
    red = value * (1 - after * np.array([0, 1, 1], dtype=np.float32))
    return np.asarray(np.where(chroma > 0, coloured, red), dtype=np.float32)
