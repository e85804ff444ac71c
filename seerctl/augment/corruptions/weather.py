"""Weather, drawn without any picture files. Arguments and results as in `noise`."""

from __future__ import annotations

import math

import numpy as np

from seerctl.augment.corruptions.filters import Floats, gaussian, plasma, sample, streaks, zoomed
from seerctl.augment.corruptions.levels import Level
from seerctl.augment.corruptions.noise import Pixels

GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
ICE = np.array([0.80, 0.90, 1.0], dtype=np.float32)
WATER = np.array([175, 238, 238], dtype=np.float32)  # pale turquoise
MUD = np.array([63, 42, 20], dtype=np.float32)


def snow(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """Falling flakes over a whitened picture.

    level: mean and deviation of the noise that flakes are cut from, their size in pixels, the threshold, radius and
    deviation of their motion in pixels, and the share of the picture that is not whitened.
    """
    mean, deviation, size, threshold, radius, sigma, share = level
    height, width = pixels.shape[:2]
    factor = max(1.0, size * scale)
    coarse = (math.ceil(height / factor) + 1, math.ceil(width / factor) + 1)
    flakes = zoomed(generator.normal(mean, deviation, coarse).astype(np.float32), factor, (height, width))
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = 255 * streaks(flakes, radius * scale, sigma * scale, generator.uniform(-135, -45))
    image = pixels.astype(np.float32)
    grey = (image * GREY).sum(-1, keepdims=True)
    image = share * image + (1 - share) * np.maximum(image, 1.5 * grey + 127.5)
    return np.asarray(image + (flakes + flakes[::-1, ::-1])[:, :, None], dtype=np.float32)


def frost(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """Ice on a window pane. level: weights of the picture and of the ice.

    ImageNet-C lays crops of six photographs of frost over the picture. Here the ice is drawn: needles (ridges of noise
    that is stretched along three directions 60 degrees apart), thicker towards the borders of the picture, fresh
    for every picture instead of one of six.
    """
    ice = _ice(pixels.shape[0], pixels.shape[1], generator)
    return np.asarray(level[0] * pixels.astype(np.float32) + (255 * level[1]) * ice[:, :, None] * ICE, dtype=np.float32)


def _ice(height: int, width: int, generator: np.random.Generator) -> Floats:
    """Brightness of frost in [0, 1], (height, width)."""
    side = min(height, width)
    y = ((np.arange(height, dtype=np.float32) - height / 2) / side)[:, None]
    x = (np.arange(width, dtype=np.float32) - width / 2) / side
    cloud = _bumps(generator, height, width, 4)
    turn = generator.uniform(0, 60)
    needles = np.zeros((height, width), dtype=np.float32)
    for number in range(3):
        angle = math.radians(turn + 60 * number)
        along = x * math.cos(angle) + y * math.sin(angle)
        across = y * math.cos(angle) - x * math.sin(angle) + np.float32(0.04) * cloud
        place = np.clip(1.8 * _bumps(generator, height, width, 5) - 0.2, 0, 1)
        for fine in (1, 2):
            grid = generator.random((64, 64), dtype=np.float32)
            places = (18 * fine * across + 32).astype(np.float32), (4 * fine * along + 32).astype(np.float32)
            ridge = 1 - np.abs(2 * sample(grid, *places) - 1)
            ridge *= ridge
            needles = np.maximum(needles, ridge * ridge * place / np.float32(fine**0.5))
    border = np.clip(1.4 * np.maximum(np.abs(x), np.abs(y)) + 0.9 * (cloud - 0.5) + 0.1, 0, 1)
    thickness = border * border * (3 - 2 * border)
    return np.asarray(np.clip(thickness * (0.35 + 0.75 * needles) + 0.25 * needles * cloud, 0, 1), dtype=np.float32)


def _bumps(generator: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Smooth noise in [0, 1], (height, width), with `cells` bumps to the short side."""
    size = min(height, width) / cells
    grid = generator.random((math.ceil(height / size) + 1, math.ceil(width / size) + 1), dtype=np.float32)
    return zoomed(grid, size, (height, width))


def fog(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """Bright clouds by the diamond-square algorithm. level: how much of it, and how smooth it is."""
    height, width = pixels.shape[:2]
    side = 1 << max(1, math.ceil(math.log2(max(height, width))))
    cloud = plasma(side, level[1], generator)[:height, :width, None]
    bright = max(int(pixels.max()), 1) / 255
    foggy: Floats = pixels + np.float32(255 * level[0]) * cloud
    return foggy * np.float32(bright / (bright + level[0]))


def brightness(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """level: what is added to the value of hue, saturation and value, as a fraction of white."""
    image = pixels.astype(np.float32)
    value = image.max(-1, keepdims=True)
    brighter = np.minimum(value + np.float32(255 * level[0]), 255)
    found = np.where(value > 0, image * (brighter / np.maximum(value, 1)), brighter)
    return np.asarray(found, dtype=np.float32)


def spatter(pixels: Pixels, level: Level, scale: float, generator: np.random.Generator) -> Floats:
    """Drops on the lens: water at severities 1 to 3, mud at 4 and 5.

    level: size of the drops as a share of the short side, share of the picture they cover, 0 for water or 1 for mud,
    opacity. ImageNet-C shades water by an edge detector and a distance transform; here it is lit from one side by the
    slope of its surface.
    """
    size, share, mud, opacity = level
    sigma = max(0.6, size * min(pixels.shape[:2]))
    surface = gaussian(generator.standard_normal(pixels.shape[:2], dtype=np.float32), sigma)
    surface /= max(float(surface.std()), 1e-6)
    height = surface - np.quantile(surface, 1 - share)
    image = pixels.astype(np.float32)
    cover = (np.clip(height * 3, 0, 1) * np.float32(opacity))[:, :, None]
    if mud:
        return np.asarray(image * (1 - cover) + MUD * cover, dtype=np.float32)
    down, right = np.gradient(height)
    light = np.clip(0.65 - 0.6 * sigma * (down + right), 0, 1.4)[:, :, None]
    return np.asarray(image * (1 - cover) + (0.35 * image + 0.65 * WATER * light) * cover, dtype=np.float32)
