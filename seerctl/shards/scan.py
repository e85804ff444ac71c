"""Finding the samples of a shard without its offsets, past damage: what `verify` names and `--repair` keeps.

A walk from header to header; where one is unreadable, on to the next place that looks like the header of a picture.
Only a place from which a whole sample can be read counts as one: nothing is put together from pieces.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

from seerctl.errors import InputError
from seerctl.shards.index import parse_sample
from seerctl.stream.records import SAMPLE_NAME
from seerctl.stream.ustar import BLOCK, END, TarError, padded, parse

_MAGIC, _MAGIC_AT = b"ustar\x0000", 257


def find_samples(descriptor: int) -> Iterator[tuple[int, int]]:
    """(start, end) in bytes of every piece of a shard up to its end mark: a sample each, or what cannot be read.

    The pieces follow each other without gaps.
    """
    size = os.fstat(descriptor).st_size
    if not size:
        return
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as data:
        at = 0
        while at < size and data[at:] != END[: size - at] if size - at <= len(END) else True:
            end = _end(data, at) or _next(data, at)
            yield at, end
            at = end


def key_at(raw: bytes) -> str | None:
    """The key that a damaged sample's own headers still give, by the picture's or else the json's; else None."""
    at = 0
    while 0 <= at < len(raw):
        try:
            match = SAMPLE_NAME.fullmatch(parse(raw[at : at + BLOCK], "", at)[0])
        except TarError:
            match = None
        if match is not None:
            return match[1]
        magic = raw.find(_MAGIC, at + _MAGIC_AT + 1)
        at = magic - _MAGIC_AT if magic >= 0 else -1
    return None


def _end(data: mmap.mmap, at: int) -> int | None:
    """Where the sample at `at` ends; None where no whole one begins."""
    end = _stated_end(data, at)
    if end is None or end > len(data):
        return None
    try:
        parse_sample(data[at:end], "", at)
    except InputError:
        return end if _picture(data, end) or data[end : end + len(END)] == END else None
    return end


def _stated_end(data: mmap.mmap, at: int) -> int | None:
    """Where both members that begin at `at` end, by their headers."""
    try:
        for number in range(2):
            name, size = parse(data[at : at + BLOCK], "", at)
            match = SAMPLE_NAME.fullmatch(name)
            if match is None or (match[2] == "json") != bool(number):
                return None
            at += BLOCK + padded(size)
    except TarError:
        return None
    return at


def _next(data: mmap.mmap, at: int) -> int:
    """The next place where a whole sample begins; the end of the data where there is none."""
    try:  # beyond a picture whose own header is sound: what looks like a header in its bytes is none
        start = at + BLOCK + padded(parse(data[at : at + BLOCK], "", at)[1])
    except TarError:
        start = at + BLOCK
    magic = data.find(_MAGIC, start + _MAGIC_AT)
    while magic >= 0:
        place = magic - _MAGIC_AT
        if _picture(data, place) and _end(data, place) is not None:
            return place
        magic = data.find(_MAGIC, magic + 1)
    tail = len(data) - len(END)
    return tail if tail > at and data[tail:] == END else len(data)


def _picture(data: mmap.mmap, at: int) -> bool:
    """Whether the header of a picture stands at `at`."""
    try:
        match = SAMPLE_NAME.fullmatch(parse(data[at : at + BLOCK], "", at)[0])
    except TarError:
        return False
    return match is not None and match[2] != "json"
