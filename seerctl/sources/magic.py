"""What a file is, by its first bytes alone: names lie."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

PREFIX = 64  # bytes that `detect` looks at


@dataclass(frozen=True, slots=True)
class Format:
    """A file format: `name` as in the samples' json, the one extension of stored files, Pillow's name for it.

    Without `pillow` it is recognised only to be named in a reject: no decoder of ours reads it, or (EPS, WMF) reading
    it would run another program.
    """

    name: str
    ext: str
    pillow: str | None


_TABLE: tuple[tuple[bytes, Format], ...] = tuple(
    (pattern, Format(name, ext, pillow))
    for pattern, name, ext, pillow in (
        (rb"\xff\xd8\xff", "JPEG", "jpg", "JPEG"),
        (rb"\x89PNG\r\n\x1a\n", "PNG", "png", "PNG"),
        (rb"RIFF....WEBP", "WEBP", "webp", "WEBP"),
        (rb"GIF8[79]a", "GIF", "gif", "GIF"),
        (rb"BM....\0\0|BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP", "bmp", "BMP"),
        (rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]", "TIFF", "tif", "TIFF"),
        (rb"....ftypavi[fs]|....ftyp(mif1|msf1|miaf).{4,44}avi[fs]", "AVIF", "avif", "AVIF"),
        (rb"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000", "jp2", "JPEG2000"),
        (rb"\xff\x4f\xff\x51\0", "JPEG2000", "j2k", "JPEG2000"),
        (rb"P[14][\s#]", "PPM", "pbm", "PPM"),
        (rb"P[25][\s#]", "PPM", "pgm", "PPM"),
        (rb"P[36][\s#]", "PPM", "ppm", "PPM"),
        (rb"P[fF]\s", "PPM", "pfm", "PPM"),
        # Not on the default allow-list, but --formats may add them.
        (rb"\0\0\x01\0[^\0]\0", "ICO", "ico", "ICO"),
        (rb"icns", "ICNS", "icns", "ICNS"),
        (rb"8BPS\0[\x01\x02]", "PSD", "psd", "PSD"),
        (rb"DDS ", "DDS", "dds", "DDS"),
        (rb"qoif", "QOI", "qoi", "QOI"),
        (rb"\x01\xda[\0\x01][\x01\x02]", "SGI", "sgi", "SGI"),
        (rb"BLP[12]", "BLP", "blp", "BLP"),
        (rb"\x0a[\0\x02-\x05][\0\x01][\x01\x02\x04\x08]", "PCX", "pcx", "PCX"),
        (rb"\x59\xa6\x6a\x95", "SUN", "ras", "SUN"),
        (rb"....(\x11\xaf|\x12\xaf)", "FLI", "fli", "FLI"),
        # Never decoded here.
        (rb"%!PS|\xc5\xd0\xd3\xc6", "EPS", "eps", None),
        (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "WMF", "wmf", None),
        (rb"%PDF-", "PDF", "pdf", None),
        (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIF", "heic", None),
        (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", "jxl", None),
        (rb"\x76\x2f\x31\x01", "OpenEXR", "exr", None),
        (rb"#\?R(ADIANCE|GBE)", "HDR", "hdr", None),
        (rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<svg", "SVG", "svg", None),
    )
)

DEFAULT_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
DECODABLE = tuple(dict.fromkeys(format.name for _, format in _TABLE if format.pillow))

# Extensions whose bearer claims to be an image: it counts as a reject when it is none. Others are ignored.
IMAGE_EXTENSIONS = frozenset(format.ext for _, format in _TABLE if format.pillow) | frozenset(
    ("jpeg", "jpe", "jfif", "apng", "dib", "tiff", "jpc", "jpf", "jpx", "jph", "j2c", "pnm", "heif", "heic", "tga")
)  # fmt: skip


def detect(data: bytes) -> Format | None:
    """The format of a file that begins with `data` (`PREFIX` bytes are enough), or None."""
    head = data[:PREFIX]
    for pattern, format in _TABLE:
        if _compiled(pattern).match(head):
            return format
    return None


@functools.cache
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)  # when first needed: most runs meet one format or two


def named_like_image(name: str) -> bool:
    """Whether a file's extension claims that it is an image (`._x.jpg`, which a Mac keeps beside x.jpg, does not)."""
    _, dot, ext = name.rpartition(".")
    return dot == "." and ext.lower() in IMAGE_EXTENSIONS and not name.rpartition("/")[2].startswith("._")
