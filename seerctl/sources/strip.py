"""`--strip-metadata`: what a file says about people goes, what its pixels need stays, and no pixel changes.

JPEG, PNG, WebP, GIF and JPEG 2000 are taken apart and put together again without the blocks that are not on a list of
those that decoding needs (so an unknown block goes too); in AVIF, whose blocks are found by their offsets, they are
overwritten in place; all others are written anew. Kept are the colour profile and the orientation. What comes out is
decoded, and read by the reader of `audit --privacy`: where that still finds something, the picture is written anew.

Sources: ITU-T T.81 (JPEG), PNG 3rd edition, RFC 9649 (WebP), GIF89a, ISO/IEC 15444-1 (JPEG 2000), 23008-12 (HEIF).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator

from seerctl.audit.metadata import personal_metadata
from seerctl.sources.boxes import MAX_STEPS, boxes, heif_items, heif_places
from seerctl.sources.check import CheckOptions
from seerctl.sources.decoders import Picture, examine
from seerctl.sources.magic import DECODABLE
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.resize import rewritten

_LOOK = CheckOptions("decode", DECODABLE, max_pixels=1 << 40)
_BROKEN = (struct.error, IndexError, ValueError, OverflowError)
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_KEPT = frozenset((*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF))
_PNG_KEPT = frozenset(
    b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI bKGD pHYs acTL fcTL fdAT".split()
)
_WEBP_KEPT = frozenset((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"))
_GIF_KEPT = (b"\x0bNETSCAPE2.0", b"\x0bANIMEXTS1.0")
_NOTHING = b"MM\0*\0\0\0\x08\0\0\0\0\0\0"  # EXIF without an entry
_JP2_KEPT = frozenset((b"jP  ", b"ftyp", b"jp2h", b"jp2c"))


def stripped(data: bytes, picture: Picture) -> tuple[bytes, Picture]:
    """`data` without personal metadata, and what it then is; unchanged where there is nothing to take out.

    Raises:
        RejectedError: it had to be written anew and could not.
    """
    surgery = _SURGERY.get(picture.format.name)
    if surgery is not None:
        try:
            clean = surgery(data, picture.orientation)
            if clean == data:
                return data, picture
            found = examine(clean, _LOOK)
            same = (found.width, found.height, found.orientation) == (
                picture.width, picture.height, picture.orientation,
            )  # fmt: skip
            if same and not personal_metadata(clean):
                return clean, found
        except (*_BROKEN, RejectedError):  # odd bytes that decode all the same
            pass
    try:
        return rewritten(data, picture)
    except RejectedError:
        raise
    except Exception as error:
        raise RejectedError(Reason.DAMAGED, f"its metadata cannot be taken out: {type(error).__name__}") from None


def _orientation_block(orientation: int) -> bytes:
    """An EXIF block that says nothing but the orientation."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def _jpeg(data: bytes, orientation: int) -> bytes:
    parts, turned = [b"\xff\xd8"], orientation == 1
    for marker, segment in _jpeg_segments(data):
        if marker == 0xE0:
            if segment[4:9] == b"JFIF\0":  # without its thumbnail
                parts.append(b"\xff\xe0\0\x10" + segment[4:16].ljust(12, b"\0") + b"\0\0")
            continue
        if not turned:
            block = b"Exif\0\0" + _orientation_block(orientation)
            parts.append(b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block)
            turned = True
        profile = marker == 0xE2 and segment[4:16] == b"ICC_PROFILE\0"
        if marker in _JPEG_KEPT or profile or (marker == 0xEE and segment[4:9] == b"Adobe"):
            parts.append(segment)
    return b"".join((*parts, b"\xff\xd9"))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, bytes from its 0xFF on) up to the end of the picture; a scan comes with its data."""
    at = 2
    for _ in range(MAX_STEPS):
        at = data.find(b"\xff", at)
        while at >= 0 and data[at : at + 2] == b"\xff\xff":
            at += 1
        if at < 0 or at + 4 > len(data) or data[at + 1] == 0xD9:
            return
        marker = data[at + 1]
        end = at + 2
        if marker not in (0x00, 0x01, *range(0xD0, 0xD9)):
            end += int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            found = _END_OF_SCAN.search(data, end)
            end = found.start() if found else len(data)
        yield marker, data[at:end]
        at = max(end, at + 2)
    raise ValueError("too many segments")


def _png(data: bytes, orientation: int) -> bytes:
    parts, at, turned = [data[:8]], 8, orientation == 1
    for _ in range(1 << 20):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT" and not turned:
            block = b"eXIf" + _orientation_block(orientation)
            parts.append(struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block)))
            turned = True
        if name in _PNG_KEPT:
            parts.append(data[at : at + 12 + length])
        if name == b"IEND":
            return b"".join(parts)
        at += 12 + length
    raise ValueError("too many chunks")


def _webp(data: bytes, orientation: int) -> bytes:
    parts, at, end = [], 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    extended = False
    for _ in range(MAX_STEPS):
        if at + 8 > end:
            break
        name, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        if name == b"VP8X":
            extended = True
            body = bytes((body[0] & ~0x0C | (0x08 if orientation != 1 else 0),)) + body[1:]
        if name in _WEBP_KEPT:
            parts.append(struct.pack("<4sI", name, len(body)) + body + b"\0" * (len(body) % 2))
        at += 8 + length + length % 2
    if orientation != 1:
        if not extended:
            raise ValueError("an orientation without a place for it")
        block = _orientation_block(orientation)
        parts.append(struct.pack("<4sI", b"EXIF", len(block)) + block + b"\0" * (len(block) % 2))
    chunks = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def _gif(data: bytes, _: int) -> bytes:
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    parts = [data[:at]]
    for _step in range(1 << 20):
        kind = data[at] if at < len(data) else 0x3B
        if kind == 0x21:
            end = _gif_chain(data, at + 2)
            kept = data[at + 1] == 0xF9 or (data[at + 1] == 0xFF and data[at + 2 : at + 14] in _GIF_KEPT)
        elif kind == 0x2C:
            end = _gif_chain(data, at + 11 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0))
            kept = True
        else:
            return b"".join((*parts, b"\x3b"))
        if kept:
            parts.append(data[at:end])
        at = end
    raise ValueError("too many blocks")


def _gif_chain(data: bytes, at: int) -> int:
    """Where a chain of sub-blocks that begins at `at` ends."""
    while length := data[at]:
        at += 1 + length
    return at + 1


def _jpeg2000(data: bytes, _: int) -> bytes:
    if data.startswith(b"\xff\x4f"):
        return _codestream(data)
    parts = []
    for name, begin, end in boxes(data, 0, len(data)):
        if name in _JP2_KEPT:
            body = _codestream(data[begin:end]) if name == b"jp2c" else data[begin:end]
            parts.append(struct.pack(">I4s", len(body) + 8, name) + body)
    return b"".join(parts)


def _codestream(data: bytes) -> bytes:
    """A codestream without the comments of its main header."""
    parts, at = [data[:2]], 2
    for _ in range(MAX_STEPS):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF90:  # the first tile
            return b"".join((*parts, data[at:]))
        if marker != 0xFF64:
            parts.append(data[at : at + 2 + length])
        at += 2 + length
    raise ValueError("too many segments")


def _avif(data: bytes, _: int) -> bytes:
    blank = bytearray(data)
    for name, begin, end in boxes(data, 0, len(data)):
        if name == b"uuid":
            blank[begin + 16 : end] = bytes(max(0, end - begin - 16))
        if name != b"meta":
            continue
        parts = {inner: (start, stop) for inner, start, stop in boxes(data, begin + 4, end)}
        if b"iinf" not in parts or b"iloc" not in parts:
            continue
        items = heif_items(data, *parts[b"iinf"])
        base = parts.get(b"idat", (0, 0))[0]
        for item, extents in heif_places(data, *parts[b"iloc"]):
            for inside, offset, length in extents if item in items else ():
                start = offset + (base if inside else 0)
                if not length or start + length > len(data):
                    raise ValueError("metadata without an end")
                empty = bytes(4) + _NOTHING if items[item] == b"Exif" else b""  # decoders refuse an EXIF of zeros
                blank[start : start + length] = empty.ljust(length, b"\0")[:length]
    return bytes(blank)


_SURGERY: dict[str, Callable[[bytes, int], bytes]] = {
    "JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "JPEG2000": _jpeg2000, "AVIF": _avif,
}  # fmt: skip
