"""Boxes of ISO media files (AVIF, HEIF, JPEG 2000), and where HEIF's items of metadata lie.

Sizes and counts come from strangers: walks are bounded; what cannot be followed raises `struct.error` or IndexError.
Sources: ISO/IEC 14496-12 (boxes), 23008-12 (items).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAX_STEPS = 20_000  # boxes, chunks or segments of one file


def boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Boxes of ISO media files (AVIF, HEIF, JPEG 2000): name, where the content begins, where it ends."""
    for _ in range(MAX_STEPS):
        if at + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", data, at)
        begin = at + 8
        if size == 1:
            size, begin = *struct.unpack_from(">Q", data, at + 8), at + 16
        stop = end if size == 0 else min(at + size, end)
        if stop < begin:
            return
        yield name, begin, stop
        at = stop


def heif_items(data: bytes, begin: int, end: int) -> dict[int, bytes]:
    """Item numbers of type Exif or mime."""
    wide = data[begin] > 0
    items: dict[int, bytes] = {}
    for name, start, _ in boxes(data, begin + (8 if wide else 6), end):
        version = data[start]
        if name == b"infe" and version >= 2:
            number, kind = struct.unpack_from(">IH4s" if version > 2 else ">HH4s", data, start + 4)[::2]
            if kind in (b"Exif", b"mime"):
                items[number] = kind
    return items


def heif_places(data: bytes, begin: int, end: int) -> Iterator[tuple[int, list[tuple[bool, int, int]]]]:
    """(item, extents as (inside idat, offset, length))."""
    version = data[begin]
    sizes = struct.unpack_from(">H", data, begin + 4)[0]
    of_offset, of_length, of_base, of_index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    at = begin + 6

    def take(size: int) -> int:
        nonlocal at
        at += size
        if at > end:
            raise IndexError(at)
        return int.from_bytes(data[at - size : at], "big")

    for _ in range(min(take(4 if version > 1 else 2), MAX_STEPS)):
        item = take(4 if version > 1 else 2)
        method = take(2) & 15 if version > 0 else 0
        take(2)
        base = take(of_base)
        extents = []
        for _ in range(min(take(2), MAX_STEPS)):
            if version > 0:
                take(of_index)
            offset = take(of_offset)
            extents.append((method == 1, base + offset, take(of_length)))
        yield item, extents[:256]
