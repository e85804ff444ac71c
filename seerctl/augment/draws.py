"""The random numbers of views: a pure function of (seed, epoch, sample, crop), so workers and ranks change no pixel."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seerctl.augment.config import AugmentConfig, CropSpec

_ATTEMPTS = 10  # of torchvision's RandomResizedCrop before it falls back to a centre crop
_DRAWS = 2 * _ATTEMPTS + 12
_ORDERS = np.array(list(itertools.permutations(range(4))))  # brightness, contrast, saturation, hue in any order

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ViewDraws:
    """Everything random about V views: arrays of length V."""

    box: npt.NDArray[np.int64]  # (V, 4): left, top, width, height in source pixels
    flip: npt.NDArray[np.bool_]
    jitter: npt.NDArray[np.bool_]
    order: npt.NDArray[np.int64]  # (V, 4): a permutation of brightness, contrast, saturation, hue
    factors: Floats  # (V, 4): brightness, contrast, saturation (1 = unchanged), hue (0 = unchanged)
    grey: npt.NDArray[np.bool_]
    blur: Floats  # radius in pixels, 0 = none


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014): a bijection of 64-bit words with full avalanche."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seed: int, epochs: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], crop: int, draws: int) -> Floats:
    """Uniform numbers in [0, 1), float64 (B, draws), fixed by (seed, epoch, sample index, crop, draw)."""
    with np.errstate(over="ignore"):
        state = _mix(np.full(len(indices), seed % 2**64, dtype=np.uint64))
        for word in (epochs.astype(np.uint64), indices.astype(np.uint64), np.full(len(indices), crop, np.uint64)):
            state = _mix(state ^ word)
        words = _mix(state[:, None] + np.arange(draws, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_views(
    config: AugmentConfig,
    crop: CropSpec,
    crop_number: int,
    seed: int,
    sizes: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    epochs: npt.NDArray[np.int64],
) -> ViewDraws:
    """Draws of view `crop_number` of B samples; `sizes` (B, 2) holds the sources' width and height."""
    u = uniforms(seed, epochs, indices, crop_number, _DRAWS)
    rest = u[:, 2 * _ATTEMPTS :]
    radius = config.blur_radius[0] + rest[:, 9] * (config.blur_radius[1] - config.blur_radius[0])
    strengths = np.array([config.brightness, config.contrast, config.saturation])
    low = np.append(np.maximum(0.0, 1.0 - strengths), -config.hue)
    high = np.append(1.0 + strengths, config.hue)
    return ViewDraws(
        box=_boxes(u, sizes, crop.scale, config.ratio),
        flip=rest[:, 2] < config.flip,
        jitter=rest[:, 3] < config.jitter,
        order=_ORDERS[(rest[:, 10] * 24).astype(np.int64)],
        factors=low + rest[:, 4:8] * (high - low),
        grey=rest[:, 8] < config.grey,
        blur=np.where(rest[:, 11] < config.blur, radius, 0.0),
    )


def _boxes(
    u: Floats, sizes: npt.NDArray[np.int64], scale: tuple[float, float], ratio: tuple[float, float]
) -> npt.NDArray[np.int64]:
    """torchvision's RandomResizedCrop.get_params for B samples at once: the first of ten attempts that fits."""
    width, height = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    area = (width * height)[:, None] * (scale[0] + u[:, :_ATTEMPTS] * (scale[1] - scale[0]))
    log_low, log_high = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(log_low + u[:, _ATTEMPTS : 2 * _ATTEMPTS] * (log_high - log_low))
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first = fits.argmax(axis=1)
    rows = np.arange(len(sizes))
    w, h = w[rows, first], h[rows, first]
    left = np.floor(u[:, 2 * _ATTEMPTS] * (width - w + 1))
    top = np.floor(u[:, 2 * _ATTEMPTS + 1] * (height - h + 1))
    # No attempt fits: the largest centre crop whose aspect lies within `ratio`.
    in_ratio = width / height
    fallback_w = np.where(in_ratio > ratio[1], np.rint(height * ratio[1]), width)
    fallback_h = np.where(in_ratio < ratio[0], np.rint(width / ratio[0]), height)
    none = ~fits.any(axis=1)
    w, h = np.where(none, fallback_w, w), np.where(none, fallback_h, h)
    left = np.where(none, (width - w) // 2, left)
    top = np.where(none, (height - h) // 2, top)
    return np.stack([left, top, w, h], axis=1).astype(np.int64)
