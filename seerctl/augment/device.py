"""The second half of `augment.mode = "device"`: jitter, grey, blur and normalisation of many views at once, in torch.

Each step computes what Pillow does, roundings to 8 bits included, from the same draws as the other modes. Views do not
touch one another, so how they are batched, and where, changes nothing but float32's last bits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD
from seerctl.augment.draws import ViewDraws

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_AT_ONCE = {"cpu": 16, "cuda": 256}  # views: what a CPU's cache holds; what keeps a GPU busy and its memory free
_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # Pillow's "L"; exact in float32 for 8-bit colours
_NOT_JITTERED = np.array([1.0, 1.0, 1.0, 0.0])
_BOXES = 3  # passes of a box blur that Pillow makes a Gaussian of


def packed(draws: ViewDraws) -> Tensor:
    """What of the draws of V views `finish` needs, float32 (V, 10): order (4), factors (4), grey (0 or 1), blur."""
    factors = np.where(draws.jitter[:, None], draws.factors, _NOT_JITTERED)
    return torch.from_numpy(np.column_stack([draws.order, factors, draws.grey, draws.blur]).astype(np.float32))


def finish(views: Tensor, draws: Tensor) -> Tensor:
    """Jittered, blurred, normalised views, float32 (N, 3, S, S) on their device.

    Shapes: `views` (N, 3, S, S) uint8, `draws` (N, 10) float32 on the CPU as `packed` makes them: what is read from
    them by the host costs no wait for a device.
    """
    device = views.device
    out = torch.empty(views.shape, dtype=torch.float32, device=device)
    mean = 255 * torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1)
    scale = 1 / (255 * torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1))
    size = _AT_ONCE.get(device.type, len(views)) or 1
    parts = (torch.split(tensor, size) for tensor in (views, draws, out))
    for part, drawn, target in zip(*parts, strict=True):
        pixels = target.copy_(part)
        _jitter(pixels, drawn[:, :4], drawn[:, 4:8])
        grey, blurred = (_rows(drawn[:, column] > 0, device) for column in (8, 9))
        if len(grey):
            pixels[grey] = _luma(pixels[grey]).expand(-1, 3, -1, -1)
        if len(blurred):
            kernel = blur_matrices(pixels.shape[-1], drawn[:, 9][drawn[:, 9] > 0], device)
            pixels[blurred] = kernel[:, None] @ (pixels[blurred] @ kernel[:, None].mT)
        pixels.sub_(mean).mul_(scale)
    return out


def _jitter(pixels: Tensor, order: Tensor, factors: Tensor) -> None:
    """Pillow's four enhancements in each view's own order, in place: pixels (N, 3, S, S) whole numbers 0 to 255."""
    device = pixels.device
    for place in range(4):
        operation = order[:, place].long()
        factor = factors.gather(1, operation[:, None])[:, 0]
        for kind, change in ((_BRIGHTNESS, _brightened), (_CONTRAST, _contrasted), (_SATURATION, _saturated)):
            chosen = (operation == kind) & (factor != 1)
            rows = _rows(chosen, device)
            if len(rows):
                pixels[rows] = change(pixels[rows], _columns(factor[chosen], device)).clamp_(0, 255).floor_()
        chosen = (operation == _HUE) & (factor != 0)
        rows = _rows(chosen, device)
        if len(rows):
            pixels[rows] = _turned(pixels[rows], _columns(factor[chosen], device))


def _rows(chosen: Tensor, device: torch.device) -> Tensor:
    return chosen.nonzero()[:, 0].to(device, non_blocking=True)


def _columns(values: Tensor, device: torch.device) -> Tensor:
    return values.to(device, non_blocking=True).view(-1, 1, 1, 1)


def _brightened(pixels: Tensor, factor: Tensor) -> Tensor:
    return pixels * factor


def _contrasted(pixels: Tensor, factor: Tensor) -> Tensor:
    mean: Tensor = (_luma(pixels).mean((2, 3), keepdim=True) + 0.5).floor_()
    return (pixels - mean).mul_(factor).add_(mean)


def _saturated(pixels: Tensor, factor: Tensor) -> Tensor:
    grey = _luma(pixels)
    return (pixels - grey).mul_(factor).add_(grey)


def _luma(pixels: Tensor) -> Tensor:
    """Grey (N, 1, S, S) of (N, 3, S, S), rounded as Pillow does (ITU-R BT.601)."""
    red, green, blue = torch.split(pixels, 1, dim=1)
    grey: Tensor = (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).add_(0.5).floor_()
    return grey


def _turned(pixels: Tensor, factor: Tensor) -> Tensor:
    """Hue moved by `factor` (1: full circle) in Pillow's HSV of 8 bits each, as torchvision's `adjust_hue` does."""
    red, green, blue = torch.split(pixels, 1, dim=1)
    value, low = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = (value - low).clamp_(min=1)
    hue = torch.where(
        red == value,
        (green - blue) / chroma,
        torch.where(green == value, 2 + (blue - red) / chroma, 4 + (red - green) / chroma),
    )
    hue = (hue / 6 + 1).remainder_(1).mul_(255).floor_()
    hue = (hue + (factor * 255).trunc()).remainder_(256).mul_(6 / 255)
    saturation = ((value - low) / value.clamp(min=1)).mul_(255).floor_().div_(255)
    place = torch.tensor([5.0, 3.0, 1.0], device=pixels.device).view(3, 1, 1)
    part = (hue + place).remainder_(6)
    part = torch.minimum(part, 4 - part).clamp_(0, 1)
    return (value * (1 - saturation * part)).add_(0.5).floor_()


def blur_matrices(size: int, radius: Tensor, device: torch.device) -> Tensor:
    """Pillow's Gaussian blur of each `radius` (N,) > 0 along a line of `size` pixels, as matrices (N, size, size).

    Three box blurs whose edge pixels repeat (ImagingGaussianBlur; Gwosdek et al. 2011), without their roundings.
    """
    variance = radius.square() / _BOXES
    whole = ((12 * variance + 1).sqrt().sub_(1) / 2).floor_()
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1).square()))
    outside = torch.arange(1, int(whole.max()) + 2, device=device)
    reach = (whole + rest).to(device, non_blocking=True).view(-1, 1, 1)
    place = torch.arange(size, dtype=torch.float32, device=device)
    box = _box_weights(place[:, None] - place, reach)
    # What of a box lies beyond the edges falls on the pixels at them.
    beyond = _box_weights(place[:, None] + outside, reach).sum(2)
    box[:, :, 0] += beyond
    box[:, :, -1] += beyond.flip(1)
    return box @ box @ box


def _box_weights(distance: Tensor, reach: Tensor) -> Tensor:
    return (reach + 1 - distance.abs()).clamp_(0, 1).div_(2 * reach + 1)
