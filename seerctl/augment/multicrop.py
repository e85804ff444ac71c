"""Multi-crop: one image, several views (SwAV, Caron et al. 2020, section 3.3), exactly as SEER or fused."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, cos, pi, sin

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torchvision.transforms import functional

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, CropSpec
from seerctl.augment.decode import Pixels
from seerctl.augment.draws import ViewDraws, draw_views

_MEAN = np.array(IMAGENET_MEAN, dtype=np.float64)
_STD = np.array(IMAGENET_STD, dtype=np.float64)
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's "L"
_TO_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
# The clamp to [0, 1] said in normalised units, so that jitter, grey and normalisation are one matrix.
_FLOOR = ((0 - _MEAN) / _STD).astype(np.float32)
_CEILING = ((1 - _MEAN) / _STD).astype(np.float32)

Floats = npt.NDArray[np.float32]


class MultiCrop:
    """Views of a batch of images; each depends on (seed, epoch, sample index) and the image alone."""

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        self.config = config
        self.seed = seed

    def __call__(
        self, images: Sequence[Pixels], indices: npt.NDArray[np.int64], epochs: npt.NDArray[np.int64]
    ) -> list[Tensor]:
        """One float32 tensor (count * B, 3, size, size) per kind of crop, crop-major, in channels-last memory.

        `images` are B uint8 arrays (height, width, 3); pixels come out normalised by ImageNet's mean and deviation.
        """
        sizes = np.array([(image.shape[1], image.shape[0]) for image in images], dtype=np.int64).reshape(-1, 2)
        sources = [Image.fromarray(image) for image in images]
        groups, number = [], 0
        for crop in self.config.crops:
            views = np.empty((crop.count * len(images), crop.size, crop.size, 3), dtype=np.float32)
            for repeat in range(crop.count):
                draws = draw_views(self.config, crop, number, self.seed, sizes, indices, epochs)
                for row, source in enumerate(sources):
                    self._view(source, crop, draws, row, views[repeat * len(images) + row])
                number += 1
            groups.append(torch.from_numpy(views).permute(0, 3, 1, 2))
        return groups

    def _view(self, source: Image.Image, crop: CropSpec, draws: ViewDraws, row: int, out: Floats) -> None:
        left, top, width, height = (int(value) for value in draws.box[row])
        box = (left, top, left + width, top + height)
        if self.config.mode == "exact":
            view = source.crop(box).resize((crop.size, crop.size), Image.Resampling.BILINEAR)
            _exact(view, draws, row, out)
        else:
            view = source.resize((crop.size, crop.size), Image.Resampling.BILINEAR, box=box)
            _fused(view, draws, row, out)


def _exact(view: Image.Image, draws: ViewDraws, row: int, out: Floats) -> None:
    """SEER's order in Pillow: flip, jitter, grey, blur, normalise."""
    if draws.flip[row]:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draws.jitter[row]:
        view = _jitter(view, draws, row)
    if draws.grey[row]:
        view = view.convert("L").convert("RGB")
    if draws.blur[row] > 0:
        view = view.filter(ImageFilter.GaussianBlur(float(draws.blur[row])))
    pixels = np.asarray(view, dtype=np.float32) / np.float32(255)
    np.divide(pixels - _MEAN.astype(np.float32), _STD.astype(np.float32), out=out)


def _jitter(view: Image.Image, draws: ViewDraws, row: int) -> Image.Image:
    brightness, contrast, saturation, hue = (float(factor) for factor in draws.factors[row])
    for operation in draws.order[row]:
        if operation == 0:
            view = ImageEnhance.Brightness(view).enhance(brightness)
        elif operation == 1:
            view = ImageEnhance.Contrast(view).enhance(contrast)
        elif operation == 2:
            view = ImageEnhance.Color(view).enhance(saturation)
        elif hue != 0:
            view = functional.adjust_hue(view, hue)
    return view


def _fused(view: Image.Image, draws: ViewDraws, row: int, out: Floats) -> None:
    """The same draws as one affine map of colours, then a separable blur (which commutes with it but for the clamp)."""
    pixels = np.asarray(view)
    if draws.flip[row]:
        pixels = pixels[:, ::-1]
    x = pixels.reshape(-1, 3).astype(np.float32)
    matrix, offset = _color_matrix(draws, row, x)
    np.matmul(x, matrix, out=out.reshape(-1, 3))
    out += offset
    np.clip(out, _FLOOR, _CEILING, out=out)
    if draws.blur[row] > 0:
        out[:] = _blur(out, float(draws.blur[row]))


def _color_matrix(draws: ViewDraws, row: int, x: Floats) -> tuple[Floats, Floats]:
    """Colours 0-255 (P, 3) -> normalised ones as `x @ matrix + offset`: the jitter's four operations in their order."""
    matrix, offset = np.eye(3) / 255, np.zeros(3)
    if draws.jitter[row]:
        mean = x.mean(axis=0, dtype=np.float64)
        for operation in draws.order[row]:
            factor = draws.factors[row, operation]
            if operation == 0:
                step, shift = np.eye(3) * factor, 0.0
            elif operation == 1:
                step, shift = np.eye(3) * factor, (1 - factor) * (_LUMA @ (matrix @ mean + offset))
            elif operation == 2:
                step, shift = factor * np.eye(3) + (1 - factor) * _LUMA, 0.0
            else:
                step, shift = _hue_rotation(factor), 0.0
            matrix, offset = step @ matrix, step @ offset + shift
    if draws.grey[row]:
        grey = np.tile(_LUMA, (3, 1))
        matrix, offset = grey @ matrix, grey @ offset
    matrix, offset = matrix / _STD[:, None], (offset - _MEAN) / _STD
    return np.ascontiguousarray(matrix.T, dtype=np.float32), offset.astype(np.float32)


def _hue_rotation(turn: float) -> npt.NDArray[np.float64]:
    """Hue shifted by `turn` (1 = full circle) as a rotation of the chroma plane of YIQ; luma is kept."""
    angle = 2 * pi * turn
    rotation = np.array([[1, 0, 0], [0, cos(angle), -sin(angle)], [0, sin(angle), cos(angle)]])
    turned: npt.NDArray[np.float64] = _FROM_YIQ @ rotation @ _TO_YIQ
    return turned


def _blur(x: Floats, sigma: float) -> Floats:
    """Separable Gaussian of deviation `sigma` pixels over (H, W, 3), edges repeated."""
    reach = max(1, ceil(2.5 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2) if sigma > 0 else np.ones(1)
    weights = (taps / taps.sum()).astype(np.float32)
    for axis in (0, 1):
        padding = [(reach, reach) if axis == a else (0, 0) for a in range(3)]
        padded = np.pad(x, padding, mode="edge")
        length = x.shape[axis]
        slices = [padded[k : k + length] if axis == 0 else padded[:, k : k + length] for k in range(2 * reach + 1)]
        x = weights[reach] * slices[reach]
        for k in range(reach):
            x += weights[k] * (slices[k] + slices[2 * reach - k])
    return x
