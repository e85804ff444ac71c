"""One image's bytes: are they a picture, of which format and size? The decoders' side of `ingest`, run in workers."""

from __future__ import annotations

import io
import struct
import warnings
from typing import NamedTuple

import simplejpeg
from PIL import Image, UnidentifiedImageError

from seerctl.augment.decode import HARMLESS
from seerctl.sources.check import CheckOptions
from seerctl.sources.magic import Format, detect
from seerctl.sources.reasons import Reason, RejectedError

_WIDTH_TAG, _HEIGHT_TAG, _ORIENTATION_TAG = 0x0100, 0x0101, 0x0112
_SEGMENT, _SCAN, _APP1 = struct.Struct(">HH"), 0xFFDA, 0xFFE1  # marker and length; two markers
_MODES = {"Gray": "L", "YCbCr": "RGB", "RGB": "RGB", "CMYK": "CMYK", "YCCK": "CMYK"}


class Picture(NamedTuple):
    """What a file turned out to be: sides in pixels as stored, `orientation` as EXIF says (1 when it does not)."""

    format: Format
    width: int
    height: int
    mode: str
    orientation: int


def prepare() -> None:
    """Set up the decoders, once per worker: no warnings, no limits but ours. Plugins load when first needed."""
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None  # `_check_size` refuses before anything is decoded
    Image.preinit()


def examine(data: bytes, options: CheckOptions) -> Picture:
    """What the picture in `data` is, after looking as closely as `options.check` asks.

    header: the header is sound. decode: every pixel of the first frame decodes; JPEGs through libjpeg-turbo with its
    warnings as errors, which notices damage that Pillow shows as grey. strict: also a second decoder and every frame.

    Raises:
        RejectedError: it is no picture that can be stored, and why.
    """
    if not data:
        raise RejectedError(Reason.EMPTY)
    found = detect(data)
    if found is None:
        raise RejectedError(Reason.NOT_IMAGE, f"begins with {data[:8]!r}")
    if found.name not in options.formats or found.pillow is None:
        raise RejectedError(Reason.FORMAT, found.name)
    try:
        if found.name == "JPEG":
            return _examine_jpeg(data, found, options)
        return _examine_other(data, found, options)
    except RejectedError:
        raise
    except MemoryError:
        raise RejectedError(Reason.MEMORY, "decoding needs more memory than allowed") from None
    except Exception as error:  # decoders raise almost anything on hostile bytes
        raise RejectedError(Reason.DAMAGED, _one_line(error)) from None


def _examine_jpeg(data: bytes, found: Format, options: CheckOptions) -> Picture:
    try:
        return _examine_turbo(data, found, options)
    except ValueError as error:
        if HARMLESS.search(str(error)):  # careless writers: `to_rgb` lets Pillow read these too
            return _examine_other(data, found, options)
        raise


def _examine_turbo(data: bytes, found: Format, options: CheckOptions) -> Picture:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    _check_size(width, height, options)
    mode = _MODES[colours]
    if options.check == "strict":
        simplejpeg.decode_jpeg(data, "CMYK" if mode == "CMYK" else "RGB")
        _agree(data, found, (width, height))
    elif options.check == "decode":
        # An eighth of the size in grey reads every coefficient and gives the same verdict as full RGB at 0.7 of the
        # cost (tests/sources/test_decoders.py compares the verdicts).
        simplejpeg.decode_jpeg(data, "CMYK" if mode == "CMYK" else "GRAY", min_factor=8)
    return Picture(found, width, height, mode, jpeg_orientation(data))


def _agree(data: bytes, found: Format, size: tuple[int, int]) -> None:
    with _open(data, found) as image:
        image.load()
        if image.size != size:
            raise RejectedError(Reason.DISAGREE, f"{size[0]}x{size[1]} and {image.width}x{image.height}")


def _examine_other(data: bytes, found: Format, options: CheckOptions) -> Picture:
    with _open(data, found) as image:
        width, height = image.size
        if found.name == "TIFF":  # Pillow gives the size after orientation, and forgets the tag on loading
            width, height = (int(image.tag_v2[tag]) for tag in (_WIDTH_TAG, _HEIGHT_TAG))  # type: ignore[attr-defined]
        _check_size(width, height, options)
        mode = image.mode
        orientation = _pillow_orientation(image) if found.name == "TIFF" else 1
        if options.check != "header":
            image.load()
        if found.name != "TIFF" and (options.check != "header" or "exif" in image.info):
            # Not before: asking a PNG for its metadata loads it, and hides that it could not be loaded.
            orientation = _pillow_orientation(image)
        if options.check == "strict":
            _load_frames(image)
    if options.check == "strict" and found.name == "PNG":
        with _open(data, found) as image:
            image.verify()  # the sums of the chunks that hold no pixels
    return Picture(found, width, height, mode, orientation)


def _open(data: bytes, found: Format) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=[found.pillow or ""])


def _load_frames(image: Image.Image) -> None:
    for frame in range(1, getattr(image, "n_frames", 1)):
        image.seek(frame)
        image.load()


def _check_size(width: int, height: int, options: CheckOptions) -> None:
    if width < 1 or height < 1:
        raise RejectedError(Reason.DAMAGED, f"{width}x{height} pixels")
    if width * height > options.max_pixels:
        raise RejectedError(Reason.BOMB, f"{width}x{height} is more than {options.max_pixels} pixels")
    if min(width, height) < options.min_side:
        raise RejectedError(Reason.TOO_SMALL, f"{width}x{height}, a side below {options.min_side}")
    if options.max_aspect is not None and max(width, height) > options.max_aspect * min(width, height):
        raise RejectedError(Reason.ASPECT, f"{width}x{height} is longer than {options.max_aspect:g} to 1")


def _pillow_orientation(image: Image.Image) -> int:
    try:
        return _valid(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken metadata does not make the pixels wrong
        return 1


def jpeg_orientation(data: bytes) -> int:
    """EXIF orientation 1-8 of a JPEG, 1 where there is none: its own small parser, Pillow's takes longer than decoding.

    Layout: Exif 2.32, sections 4.5.2 (IFD) and 4.6.4 (orientation).
    """
    at, last = 2, len(data) - _SEGMENT.size
    while at <= last:
        marker, length = _SEGMENT.unpack_from(data, at)
        if marker == _SCAN or marker < 0xFF00:
            break
        if marker == _APP1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return _tiff_orientation(data[at + 10 : at + 2 + length])
        at += 2 + (length if length > 2 else 2)
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return _valid(value) if kind == 3 else 1
    except struct.error:
        pass
    return 1


def _valid(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own words hold an address, another one each time
        return "its header cannot be read"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:197] + "..."
