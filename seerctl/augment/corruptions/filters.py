"""What several corruptions are made of: blurs, resampling and random fields, in numpy (transforms by scipy's FFT).

No matrix products: what BLAS adds up depends on the number of threads in the last bits, and a pixel must not.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.float32]
TRUNCATE = 4.0  # standard deviations that a Gaussian reaches, as in scipy and scikit-image


def gaussian(image: Floats, sigma: float) -> Floats:
    """`image` (H, W) or (H, W, C) blurred by a Gaussian of `sigma` pixels; edges repeat."""
    reach = int(TRUNCATE * sigma + 0.5)
    if reach < 1:
        return image
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights /= weights[0] + 2.0 * weights[1:].sum()
    return _symmetric(_symmetric(image, weights, 0), weights, 1)


def _symmetric(image: Floats, weights: NDArray[np.float64], axis: int) -> Floats:
    """Convolution along `axis` with the kernel (..., w1, w0, w1, ...)."""
    reach, length = len(weights) - 1, image.shape[axis]
    padded = np.pad(image, [(reach, reach) if other == axis else (0, 0) for other in range(image.ndim)], "edge")

    def part(offset: int) -> Floats:
        return padded[offset : offset + length] if axis == 0 else padded[:, offset : offset + length]

    total = part(reach) * np.float32(weights[0])
    both = np.empty_like(total)
    for step in range(1, reach + 1):
        np.add(part(reach - step), part(reach + step), out=both)
        both *= np.float32(weights[step])
        total += both
    return total


def convolve(image: Floats, kernel: bytes, side: int) -> Floats:
    """`image` (H, W, C) convolved with a square kernel, given as the bytes of (side, side) float32; edges mirrored."""
    reach = side // 2
    height, width = image.shape[:2]
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "reflect")
    shape = (fft.next_fast_len(height + 2 * reach, real=True), fft.next_fast_len(width + 2 * reach, real=True))
    spectrum = fft.rfft2(padded, shape, axes=(0, 1)) * _transformed(kernel, side, shape)[:, :, None]
    whole = fft.irfft2(spectrum, shape, axes=(0, 1))
    found: Floats = whole[2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width].astype(np.float32)
    return found


@lru_cache(maxsize=16)
def _transformed(kernel: bytes, side: int, shape: tuple[int, int]) -> NDArray[np.complexfloating]:
    return np.asarray(fft.rfft2(np.frombuffer(kernel, np.float32).reshape(side, side), shape))


def streaks(image: Floats, radius: float, sigma: float, degrees: float) -> Floats:
    """`image` (H, W) or (H, W, C) smeared in one direction, as ImageMagick's motion blur does it.

    One-sided: weights exp(-i^2 / 2 sigma^2) at i = 0 .. 2 ceil(radius) pixels along the direction, at whole pixels;
    edges repeat.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    down = np.rint(steps * math.sin(math.radians(degrees))).astype(int)
    right = np.rint(steps * math.cos(math.radians(degrees))).astype(int)
    above, left = -min(0, down.min()), -min(0, right.min())
    pads = [(above, max(0, down.max())), (left, max(0, right.max())), (0, 0)][: image.ndim]
    padded = np.pad(image, pads, "edge")
    height, width = image.shape[:2]
    total = np.zeros_like(image)
    part = np.empty_like(image)
    for weight, dy, dx in zip(weights, down + above, right + left, strict=True):
        if weight > 1e-4:
            np.multiply(padded[dy : dy + height, dx : dx + width], np.float32(weight), out=part)
            total += part
    return total


def sample(image: Floats, rows: Floats, columns: Floats) -> Floats:
    """`image` (H, W) or (H, W, C) at fractional places (h, w), by bilinear interpolation; places outside mirrored."""
    height, width = image.shape[:2]
    rows, columns = _mirrored(rows, height), _mirrored(columns, width)
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    down, right = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    below, beside = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    flat = image.reshape(height * width, *image.shape[2:])
    if image.ndim == 3:
        down, right = down[..., None], right[..., None]
    top, below = top * width, below * width
    upper: Floats = flat.take(top + left, axis=0)
    upper += (flat.take(top + beside, axis=0) - upper) * right
    lower = flat.take(below + left, axis=0)
    lower += (flat.take(below + beside, axis=0) - lower) * right
    lower -= upper
    lower *= down
    upper += lower
    return upper


def _mirrored(places: Floats, length: int) -> Floats:
    """Places reflected once at the ends of [0, length - 1]; those that are further out go to the end."""
    last = np.float32(length - 1)
    folded = last - np.abs(last - np.abs(places))
    return np.clip(folded, 0, last, out=folded)


def zoomed(image: Floats, factor: float, shape: tuple[int, int] | None = None) -> Floats:
    """The middle of `image` (H, W) or (H, W, C) enlarged `factor` times, bilinear, to `shape` (its own by default)."""
    height, width = shape or image.shape[:2]
    rows = _places(height, image.shape[0], factor)
    columns = _places(width, image.shape[1], factor)
    return _lines(_lines(image, rows, 0), columns, 1)


def _places(count: int, length: int, factor: float) -> NDArray[np.float64]:
    centred = (np.arange(count) - (count - 1) / 2) / factor + (length - 1) / 2
    return np.clip(centred, 0, length - 1)


def _lines(image: Floats, places: NDArray[np.float64], axis: int) -> Floats:
    first = np.minimum(places.astype(np.intp), max(0, image.shape[axis] - 2))
    second = np.minimum(first + 1, image.shape[axis] - 1)
    share = (places - first).astype(np.float32)
    share = share.reshape([-1 if other == axis else 1 for other in range(image.ndim)])
    found: Floats = image.take(first, axis) * (1 - share) + image.take(second, axis) * share
    return found


def plasma(side: int, decay: float, generator: np.random.Generator) -> Floats:
    """A cloudy height map in [0, 1], (side, side) with `side` a power of two, by the diamond-square algorithm.

    decay: the square root of how much the roughness shrinks from one scale to the next; it wraps around at its edges.
    """
    field = np.zeros((side, side), dtype=np.float32)
    step, rough = side, 1.0
    while step >= 2:
        half = step // 2

        def jitter(count: int, rough: float = rough) -> Floats:
            return np.float32(rough) * (2 * generator.random((count, count), dtype=np.float32) - 1)

        count = side // step
        corners = field[::step, ::step]
        across = corners + np.roll(corners, -1, 0)
        field[half::step, half::step] = (across + np.roll(across, -1, 1)) / 4 + jitter(count)
        centres = field[half::step, half::step]
        above = centres + np.roll(centres, 1, 0)
        field[::step, half::step] = (above + corners + np.roll(corners, -1, 1)) / 4 + jitter(count)
        beside = centres + np.roll(centres, 1, 1)
        field[half::step, ::step] = (beside + corners + np.roll(corners, -1, 0)) / 4 + jitter(count)
        step, rough = half, rough / decay**2
    field -= field.min()
    return field / max(float(field.max()), 1e-6)
