"""Multi-crop: one image, several views (SwAV, Caron et al. 2020, section 3.3): as SEER, fused, or in two halves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from math import cos, pi, sin

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torch.nn.functional import interpolate

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig
from seerctl.augment.decode import Pixels
from seerctl.augment.device import finish, packed
from seerctl.augment.draws import ViewDraws, draw_views

_MEAN = np.array(IMAGENET_MEAN, dtype=np.float64)
_STD = np.array(IMAGENET_STD, dtype=np.float64)
_MEAN_PLANES = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
_STD_PLANES = torch.tensor(IMAGENET_STD).view(3, 1, 1)
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's "L"
_TO_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


class MultiCrop:
    """Views of a batch of images; each depends on (seed, epoch, sample index) and the image alone."""

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        view = {"exact": _exact_view, "fused": _fused_view, "device": _cropped_view}[config.mode]
        self._view = partial(view, interpolation=config.interpolation)

    def __call__(
        self, images: Sequence[Pixels], indices: npt.NDArray[np.int64], epochs: npt.NDArray[np.int64]
    ) -> list[Tensor]:
        """One float32 tensor (count * B, 3, size, size) per kind of crop, crop-major.

        `images` are B uint8 arrays (height, width, 3); pixels come out normalised by ImageNet's mean and deviation.
        """
        groups, colors = self.halves(images, indices, epochs)
        return [finish(*pair) for pair in zip(groups, colors, strict=True)] if colors else groups

    def halves(
        self, images: Sequence[Pixels], indices: npt.NDArray[np.int64], epochs: npt.NDArray[np.int64]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What a loader does of it: the views as called, and nothing; in mode `device` what `finish` makes them from.

        That is per kind of crop the cropped and mirrored views, uint8 (count * B, 3, size, size) in channels-last
        memory, and the draws of their colours and blur (count * B, 10) float32.
        """
        sizes = np.array([(image.shape[1], image.shape[0]) for image in images], dtype=np.int64).reshape(-1, 2)
        groups, colors, number = [], [], 0
        for crop in self.config.crops:
            views = self._empty(crop.count, len(images), crop.size)
            drawn = []
            for repeat in range(crop.count):
                draws = draw_views(self.config, crop, number, self.seed, sizes, indices, epochs)
                for row, image in enumerate(images):
                    self._view(image, draws, row, views[repeat, row])
                drawn.append(packed(draws))
                number += 1
            groups.append(views.flatten(0, 1))
            colors.append(torch.cat(drawn))
        return groups, colors if self.config.mode == "device" else []

    def _empty(self, count: int, images: int, size: int) -> Tensor:
        if self.config.mode == "device":
            return torch.empty(count, images, size, size, 3, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
        return torch.empty(count, images, 3, size, size)


def _exact_view(image: Pixels, draws: ViewDraws, row: int, out: Tensor, interpolation: str) -> None:
    """SEER's order in Pillow: crop, resize, flip, jitter, grey, blur, normalise. Writes `out` (3, size, size)."""
    left, top, width, height = (int(value) for value in draws.box[row])
    box = (left, top, left + width, top + height)
    view = Image.fromarray(image).crop(box).resize((out.shape[2], out.shape[1]), _FILTERS[interpolation])
    if draws.flip[row]:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draws.jitter[row]:
        view = _jitter(view, draws, row)
    if draws.grey[row]:
        view = view.convert("L").convert("RGB")
    if draws.blur[row] > 0:
        view = view.filter(ImageFilter.GaussianBlur(float(draws.blur[row])))
    out.copy_(torch.from_numpy(np.array(view)).permute(2, 0, 1)).div_(255)
    out.sub_(_MEAN_PLANES).div_(_STD_PLANES)


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
            view = _turned(view, hue)
    return view


def _turned(view: Image.Image, hue: float) -> Image.Image:
    """The hue turned by a share of the circle, in Pillow's 256 steps and rounded to zero, as torchvision does."""
    tone, saturation, value = view.convert("HSV").split()
    turned = np.asarray(tone) + np.uint8(int(hue * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def _cropped_view(image: Pixels, draws: ViewDraws, row: int, out: Tensor, interpolation: str) -> None:
    """The half of a view that needs the whole image: crop, resize, flip. Writes `out` (3, size, size) uint8."""
    left, top, width, height = draws.box[row].tolist()
    # Contiguous uint8 in channels-last memory takes torch's vectorised resampler: Pillow's result, 3 times as fast.
    crop = np.ascontiguousarray(image[top : top + height, left : left + width])
    view = interpolate(
        torch.from_numpy(crop).permute(2, 0, 1)[None], size=out.shape[1:], mode=interpolation, antialias=True
    )
    out.copy_((view.flip(3) if draws.flip[row] else view)[0])


def _fused_view(image: Pixels, draws: ViewDraws, row: int, out: Tensor, interpolation: str) -> None:
    """The same draws as one affine map of colours and a separable blur; the planes (3, size, size) stay in cache."""
    _cropped_view(image, draws, row, out, interpolation)
    planes = out.flatten(1).clone()
    matrix, offset = _color_matrix(draws, row, planes)
    flat = out.flatten(1)
    torch.addmm(offset, matrix, planes, out=flat).clamp_(0, 1)
    if draws.blur[row] > 0:
        kernel = _blur_matrix(out.shape[1], float(draws.blur[row]))
        out.copy_(kernel @ (out @ kernel.T))
    out.sub_(_MEAN_PLANES).div_(_STD_PLANES)


def _color_matrix(draws: ViewDraws, row: int, planes: Tensor) -> tuple[Tensor, Tensor]:
    """Planes 0-255 (3, P) -> colours 0-1 as `matrix @ planes + offset`: the jitter's four operations in their order."""
    matrix, offset = np.eye(3) / 255, np.zeros(3)
    if draws.jitter[row]:
        mean = planes.mean(1).double().numpy()
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
    return torch.from_numpy(matrix.astype(np.float32)), torch.from_numpy(offset.astype(np.float32))[:, None]


def _hue_rotation(turn: float) -> npt.NDArray[np.float64]:
    """Hue shifted by `turn` (1 = full circle) as a rotation of the chroma plane of YIQ; luma is kept."""
    angle = 2 * pi * turn
    rotation = np.array([[1, 0, 0], [0, cos(angle), -sin(angle)], [0, sin(angle), cos(angle)]])
    turned: npt.NDArray[np.float64] = _FROM_YIQ @ rotation @ _TO_YIQ
    return turned


@cache
def _squared_distances(size: int) -> Tensor:
    place = torch.arange(size, dtype=torch.float32)
    return (place[:, None] - place).square()


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """A Gaussian of deviation `sigma` pixels as a (size, size) matrix; rows sum to 1, also at the edges."""
    # The floor keeps far weights out of the denormals, which make the matrix product ten times slower.
    weights = (_squared_distances(size) * (-0.5 / sigma**2)).clamp_(min=-20).exp_()
    return weights.div_(weights.sum(1, keepdim=True))
