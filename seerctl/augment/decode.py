"""Stored bytes to RGB pixels: the one decoder of every stage.

The rules (their version is `PIXELS_VERSION`, which features and reports carry): EXIF orientation applied, first frame,
alpha composited over white, 16-bit scaled rather than clipped, palette and CMYK converted, ICC profiles not applied.
"""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps

PIXELS_VERSION = "rgb-1"
MAX_PIXELS = 178_956_970  # Pillow's own error limit: twice a quarter of a gigabyte of RGB
_ORIENTATION_TAG = 0x0112
_CMYK = ("CMYK", "YCCK")
# Stray bytes before a table or comment come from careless writers; before any other marker they are a damaged scan.
HARMLESS = re.compile(r"extraneous bytes before marker 0x(db|e[0-9a-f]|fe)")

Pixels = npt.NDArray[np.uint8]


class DecodeError(ValueError):
    """These bytes are not an image that can be decoded in full."""


def to_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an image to uint8 (height, width, 3), upright.

    JPEGs go through libjpeg-turbo in strict mode (a damaged scan is an error, where Pillow shows a half-grey picture),
    all else through Pillow.

    Raises:
        DecodeError: damaged, unknown, or more than `max_pixels`.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            pixels = _decode_jpeg(data, max_pixels)
            if pixels is not None:
                return pixels
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > max_pixels:
                    raise DecodeError(f"{image.width}x{image.height} is more than {max_pixels} pixels")
                return pillow_to_rgb(image)
    except DecodeError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on hostile bytes
        raise DecodeError(f"{type(error).__name__}: {error}") from error


def _decode_jpeg(data: bytes, max_pixels: int) -> Pixels | None:
    """RGB of an ordinary JPEG; None where Pillow knows better: CMYK (Adobe's inversion) and harmless stray bytes."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > max_pixels:
            raise DecodeError(f"{width}x{height} is more than {max_pixels} pixels")
        if colorspace in _CMYK:
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        if HARMLESS.search(str(error)):  # simplejpeg's own strict=False still raises on these
            return None
        raise
    orientation = _orientation(data)
    return pixels if orientation == 1 else upright(pixels, orientation)


def _orientation(data: bytes) -> int:
    if b"Exif\0\0" not in data[:65536]:  # parsing costs as much as decoding a 32 px picture
        return 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                return int(image.getexif().get(_ORIENTATION_TAG, 1))
        except Exception:  # broken EXIF does not make the pixels wrong
            return 1


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels turned and mirrored as EXIF orientation 1-8 asks; any other value changes nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def pillow_to_rgb(image: Image.Image) -> Pixels:
    """The first frame of an open Pillow image by the rules of this module, uint8 (height, width, 3)."""
    image.load()
    upright_image = ImageOps.exif_transpose(image)
    if upright_image.mode.startswith(("I", "F")):
        grey = _scaled_to_8_bit(np.asarray(upright_image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if upright_image.has_transparency_data:
        rgba = upright_image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.array(upright_image.convert("RGB"))  # a copy: torch wants it writable


def _scaled_to_8_bit(grey: npt.NDArray[np.generic]) -> Pixels:
    """16-bit and wider grey to 8 bits by its range: integers above 255 as 16-bit, floats up to 1 as a fraction."""
    values = np.nan_to_num(grey.astype(np.float64))
    if np.issubdtype(grey.dtype, np.floating):
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
    else:
        scale = 1.0 if grey.dtype.itemsize > 2 and values.max(initial=0.0) <= 255 else 1 / 257
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
