"""Blur: of lenses, of motion, of rough glass. Arguments and results as in `noise`."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from seerctl.augment.corruptions.filters import Floats, convolve, gaussian, streaks, zoomed
from seerctl.augment.corruptions.levels import Level
from seerctl.augment.corruptions.noise import Pixels


def gaussian_blur(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """level: standard deviation in pixels."""
    return gaussian(pixels.astype(np.float32), level[0] * scale)


def defocus_blur(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """A lens out of focus: every point becomes a disk. level: its radius, and the softness of its rim, in pixels."""
    kernel, side = disk(level[0] * scale, level[1])
    reach = side // 2
    if reach >= min(pixels.shape[:2]):  # mirrored edges need a picture wider than the disk
        return gaussian(pixels.astype(np.float32), level[0] * scale / 2)
    return convolve(pixels.astype(np.float32), kernel, side)


@lru_cache(maxsize=64)
def disk(radius: float, softness: float) -> tuple[bytes, int]:
    """A disk that sums to 1, as the bytes of (side, side) float32, and its side.

    All pixels whose centres lie within `radius`, then a Gaussian of `softness` over 3x3 pixels (5x5 beyond a radius of
    8), as OpenCV has it.
    """
    border = 1 if radius <= 8 else 2
    reach = math.floor(radius) + border
    places = np.arange(-reach, reach + 1)
    found = (places[:, None] ** 2 + places**2 <= radius**2).astype(np.float64)
    taps = np.exp(-0.5 * (np.arange(-border, border + 1) / softness) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        found = np.apply_along_axis(np.convolve, axis, found, taps, mode="same")
    return (found / found.sum()).astype(np.float32).tobytes(), 2 * reach + 1


def glass_blur(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """Frosted glass: pixels trade places with close neighbours, between two small blurs.

    level: blur in pixels, how far a pixel is taken from, rounds, share of the pixels that move. ImageNet-C walks over
    the picture pixel by pixel and copies; here, in each round, all pixels at once take the value of a random neighbour
    (as likely before as behind, so that the picture does not move).
    """
    sigma, reach, rounds = level[0] * scale, max(1, round(level[1] * scale)), int(level[2])
    found = gaussian(pixels.astype(np.float32), sigma)
    height, width = pixels.shape[:2]
    rows, columns = np.arange(height)[:, None], np.arange(width)
    for _ in range(rounds):
        dy, dx = generator.integers(-reach, reach + 1, (2, height, width))
        if level[3] < 1:
            dy, dx = np.array([dy, dx]) * (generator.random((height, width)) < level[3])
        found = found[np.clip(rows + dy, 0, height - 1), np.clip(columns + dx, 0, width - 1)]
    return gaussian(found, sigma)


def motion_blur(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """A moving camera, within 45 degrees of the horizontal. level: radius and standard deviation in pixels."""
    angle = generator.uniform(-45, 45)
    return streaks(pixels.astype(np.float32), level[0] * scale, level[1] * scale, angle)


def zoom_blur(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """A camera that moves forward. level: the largest enlargement (excluded) and the step between the averaged ones."""
    image = pixels.astype(np.float32)
    factors = np.arange(1, level[0] - 1e-9, level[1])
    total = 2 * image  # once as it is, once enlarged by 1
    for factor in factors[1:]:
        total += zoomed(image, float(factor))
    return total / np.float32(len(factors) + 1)
