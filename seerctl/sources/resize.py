"""Smaller pictures, and pictures written anew: upright, without aliasing, in a format that keeps what they are.

JPEG, PNG, WebP, TIFF, AVIF and JPEG 2000 stay what they are, all else becomes PNG; of moving pictures the first frame
stays. The ICC profile is kept, not applied, as everywhere in seerctl; no other metadata is.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin

from seerctl.sources.check import CheckOptions
from seerctl.sources.decoders import Picture, examine
from seerctl.sources.magic import DECODABLE
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.transform import Resize

_STAY = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "JPEG2000")
_GAP = 3  # libjpeg may shrink by itself to this many times the wanted size: no difference to be seen
_LOSSLESS = 95  # quality where a lossy format has to be written again although nobody asked for a smaller one
# Modes that each format can hold; others are converted.
_MODES: dict[str, tuple[str, ...]] = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "F"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
}
_LOOK = CheckOptions("header", DECODABLE, max_pixels=1 << 40)


def resized(data: bytes, picture: Picture, resize: Resize) -> tuple[bytes, Picture]:
    """`data` after `resize`, and what it then is; unchanged where nothing is to be done.

    Raises:
        RejectedError: it cannot be decoded, or written.
    """
    sides = (picture.width, picture.height)
    sides = sides[::-1] if picture.orientation >= 5 else sides
    size = resize.size(*sides)
    kept = resize.crop(*size)
    if kept == sides:
        return data, picture
    with _opened(data, picture) as image:
        turned = image.format != "TIFF" and picture.orientation >= 5  # Pillow turns a TIFF by itself
        wanted, final = (size[::-1], kept[::-1]) if turned else (size, kept)
        if image.format == "JPEG":
            image.draft(None, (_GAP * wanted[0], _GAP * wanted[1]))
        image.load()
        left, top = ((1 - final[axis] / wanted[axis]) / 2 * image.size[axis] for axis in (0, 1))
        box = (left, top, image.width - left, image.height - top)
        small = _filterable(image).resize(final, Image.Resampling.LANCZOS, box=box)
        return _written(_upright(small, image, picture), image, data, picture, resize.quality)


def rewritten(data: bytes, picture: Picture) -> tuple[bytes, Picture]:
    """The same pixels in a new file without metadata; JPEG, WebP and AVIF lose a little.

    Raises:
        RejectedError: it cannot be decoded, or written.
    """
    with _opened(data, picture) as image:
        image.load()
        return _written(_upright(image.copy(), image, picture), image, data, picture, _LOSSLESS)


def _opened(data: bytes, picture: Picture) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=[picture.format.pillow or ""])
    except Exception as error:
        raise RejectedError(Reason.DAMAGED, f"{type(error).__name__}: {error}") from None


def _filterable(image: Image.Image) -> Image.Image:
    """A picture whose pixels can be averaged: no palette, no colour that means transparent."""
    if image.mode not in ("RGBA", "LA") and image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("P", "PA"):
        return image.convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I"):
        return Image.fromarray(np.asarray(image).astype(np.float32))  # back in `_holdable`
    return image


def _upright(pixels: Image.Image, image: Image.Image, picture: Picture) -> Image.Image:
    if image.format == "TIFF" or picture.orientation == 1:
        return pixels
    exif = Image.Exif()
    exif[0x0112] = picture.orientation
    pixels.info = {"exif": exif.tobytes()}
    return ImageOps.exif_transpose(pixels)


def _written(
    pixels: Image.Image, image: Image.Image, data: bytes, picture: Picture, quality: int
) -> tuple[bytes, Picture]:
    target = picture.format.name if picture.format.name in _STAY else "PNG"
    if image.mode == "F" and target != "TIFF":
        target = "TIFF"
    whole = image.mode.startswith("I")
    pixels = _holdable(pixels, target, whole=whole)
    profile = image.info.get("icc_profile") if _same_colours(image.mode, pixels.mode) else None
    pixels.info = {name: value for name, value in pixels.info.items() if name == "transparency"}
    options: dict[str, Any] = {"icc_profile": profile} if profile else {}
    options |= _options(target, image, data, quality)
    file = io.BytesIO()
    pixels.save(file, target, **options)
    stored = file.getvalue()
    return stored, examine(stored, _LOOK)


def _holdable(pixels: Image.Image, target: str, *, whole: bool) -> Image.Image:
    """`pixels` in a mode that `target` can hold; `whole`: they were integers of 16 bits or more."""
    if whole:
        values = np.clip(np.rint(np.asarray(pixels, dtype=np.float64)), 0, 65535).astype(np.uint16)
        pixels = Image.fromarray(values)
    if pixels.mode in _MODES[target] and not (pixels.mode == "P" and pixels.has_transparency_data):
        return pixels
    if pixels.mode.startswith("I"):  # 16 bits of grey, where there are 8
        return Image.fromarray((np.asarray(pixels) >> 8).astype(np.uint8)).convert("RGB")
    if pixels.has_transparency_data:
        return pixels.convert("RGBA" if "RGBA" in _MODES[target] else "RGB")
    return pixels.convert("RGB")


def _same_colours(before: str, after: str) -> bool:
    """Whether a profile that described `before` describes `after`."""
    kinds = {"CMYK": "CMYK", "LAB": "LAB", "L": "L", "LA": "L", "1": "L"}
    return kinds.get(before, "RGB") == kinds.get(after, "RGB")


def _options(target: str, image: Image.Image, data: bytes, quality: int) -> dict[str, Any]:
    """How to write it, the same on every machine."""
    if target == "JPEG":
        sampling = JpegImagePlugin.get_sampling(image) if isinstance(image, JpegImagePlugin.JpegImageFile) else -1
        return {"quality": quality, **({"subsampling": sampling} if sampling >= 0 else {})}
    if target == "WEBP":
        return {"lossless": True} if b"VP8L" in data[:64] else {"quality": quality}
    if target == "AVIF":
        return {"quality": quality, "max_threads": 1}
    return {"compression": "tiff_adobe_deflate"} if target == "TIFF" else {}
