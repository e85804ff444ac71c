"""Noise: of the sensor, of light, of broken pixels. Every function takes pixels (H, W, 3) uint8 and gives them as
float32 on the same scale, not yet clipped; `scale` multiplies lengths in pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seerctl.augment.corruptions.filters import Floats
from seerctl.augment.corruptions.levels import Level

Pixels = NDArray[np.uint8]


def gaussian_noise(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """Additive normal noise. level: standard deviation as a fraction of white."""
    noise = generator.standard_normal(pixels.shape, dtype=np.float32)
    noise *= np.float32(255 * level[0])
    noise += pixels
    return noise


def shot_noise(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """Poisson noise of counted photons. level: photons of a white pixel; fewer are noisier."""
    counts = generator.poisson(np.arange(256, dtype=np.float64)[pixels] * (level[0] / 255))
    return counts.astype(np.float32) * np.float32(255 / level[0])


def impulse_noise(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """Values that are black or white, each channel for itself. level: the share of them, half of each kind."""
    draw = generator.random(pixels.shape, dtype=np.float32)
    found = pixels.astype(np.float32)
    found[draw < level[0] / 2] = 0
    found[draw >= 1 - level[0] / 2] = 255
    return found


def speckle_noise(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """Normal noise in proportion to the pixel. level: standard deviation as a fraction of the value."""
    noise = generator.standard_normal(pixels.shape, dtype=np.float32)
    noise *= np.float32(level[0])
    noise += 1
    noise *= pixels
    return noise
