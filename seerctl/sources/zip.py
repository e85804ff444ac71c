"""Members of zips that others wrote, found through the central directory and read one at a time.

`zipfile` refuses a whole archive for one odd name, lets bzip2 members inflate without bound and has members overlap;
here each fault costs its member alone, or the archive when nothing can be found in it.
Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from seerctl.errors import InputError
from seerctl.sources.members import Entry
from seerctl.sources.reasons import Reason, RejectedError

MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK")
RATIO = 200  # times its stored size that a member may inflate to; photographs reach 1.1, drawings 50
FREE = 1 << 20  # bytes that any member may inflate to, and
FREE_TOTAL = 1 << 30  # that any archive may

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x1, 0x800
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz", 96: "JPEG", 98: "PPMd", 99: "AES"}
_FULL = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Member:
    """An entry of the central directory."""

    name: bytes
    utf8: bool
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    offset: int
    mode: int


class DamagedZipError(InputError):
    """An archive whose directory is cut, broken or a lie."""

    def __init__(self, where: str, fault: str) -> None:
        super().__init__(f"{where}: damaged: {fault}", "Copy it again, or leave it out")


def looks_like_zip(head: bytes) -> bool:
    """Whether a file that begins with `head` begins as zips do."""
    return head.startswith(MAGIC)


def zip_entries(file: BinaryIO, where: str) -> Iterator[Entry]:
    """The members of the zip in `file`, which is seekable, sorted by the bytes of their names.

    Names are never paths here; encrypted members, links and those of unknown methods carry their verdict.

    Raises:
        DamagedZipError: there is no directory, or its entries overlap or lie outside.
        InputError: it inflates to far more than it holds.
    """
    size = file.seek(0, 2)
    members, start = _directory(file, where, size)
    _check_overlap(members, where, start)
    members.sort(key=lambda member: member.name)
    budget = _Budget(max(FREE_TOTAL, RATIO * size), where)
    for member in members:
        name = _text(member)
        if name.endswith("/"):
            continue
        yield Entry(name, member.size, partial(_load, file, member, budget), _verdict(member))


class _Budget:
    """What an archive may inflate to altogether."""

    def __init__(self, limit: int, where: str) -> None:
        self._left, self._limit, self._where = limit, limit, where

    def spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise InputError(f"{self._where}: inflates to more than {self._limit:,} bytes: a bomb", "Leave it out")


def _directory(file: BinaryIO, where: str, size: int) -> tuple[list[_Member], int]:
    """Every entry of the central directory, and where in the file it starts."""
    tail_start = max(0, size - _END.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise DamagedZipError(where, "it ends without its directory")
    _, _, _, _, count, length, offset, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    count, length, offset, end = _zip64(file, where, end) or (count, length, offset, end)
    start = end - length
    before = start - offset  # bytes in front of the archive, as of a self-extracting one
    if start < 0 or before < 0:
        raise DamagedZipError(where, "its directory lies outside of it")
    file.seek(start)
    data = file.read(length)
    members, at = [], 0
    while at < len(data):
        member, at = _parse(data, at, before, where)
        members.append(member)
    if len(members) != count and len(members) & 0xFFFF != count:  # old writers count modulo 65,536
        raise DamagedZipError(where, f"{len(members)} entries in its directory, not {count}")
    return members, start


def _zip64(file: BinaryIO, where: str, end: int) -> tuple[int, int, int, int] | None:
    """(entries, bytes, offset, end) of a large archive's directory, or None where it is no zip64."""
    if end < _LOCATOR.size:
        return None
    file.seek(end - _LOCATOR.size)
    magic, _, offset, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if magic != b"PK\x06\x07":
        return None
    # What stands in front of the archive shifts its record too: look where it says and right before the locator.
    for place in (offset, end - _LOCATOR.size - _END64.size):
        if 0 <= place <= end - _LOCATOR.size - _END64.size:
            file.seek(place)
            fields = _END64.unpack(file.read(_END64.size))
            if fields[0] == b"PK\x06\x06":
                return fields[7], fields[8], fields[9], place
    raise DamagedZipError(where, "its zip64 directory cannot be found")


def _parse(data: bytes, at: int, before: int, where: str) -> tuple[_Member, int]:
    if at + _CENTRAL.size > len(data) or data[at : at + 4] != b"PK\x01\x02":
        raise DamagedZipError(where, f"a broken entry at byte {at} of its directory")
    (
        _,
        maker,
        _,
        flags,
        method,
        _,
        _,
        crc,
        stored,
        size,
        name_size,
        extra_size,
        comment_size,
        _,
        _,
        attributes,
        offset,
    ) = _CENTRAL.unpack_from(data, at)
    at += _CENTRAL.size
    name, extra = data[at : at + name_size], data[at + name_size : at + name_size + extra_size]
    if len(extra) < extra_size:
        raise DamagedZipError(where, "its directory is cut")
    fields = _extra(extra)
    values = [size, stored, offset]
    wide = fields.get(1, b"")
    for number, value in enumerate(values):
        if value == _FULL and len(wide) >= 8:
            values[number], wide = int.from_bytes(wide[:8], "little"), wide[8:]
    size, stored, offset = values
    utf8 = bool(flags & _UTF8)
    unicode_path = fields.get(0x7075, b"")
    if unicode_path[:1] == b"\x01" and unicode_path[1:5] == zlib.crc32(name).to_bytes(4, "little"):
        name, utf8 = unicode_path[5:], True
    mode = attributes >> 16 if maker >> 8 in (3, 19) else 0  # Unix, macOS
    member = _Member(name, utf8, flags, method, crc, stored, size, offset + before, mode)
    return member, at + name_size + extra_size + comment_size


def _extra(extra: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        fields.setdefault(kind, extra[at + 4 : at + 4 + length])
        at += 4 + length
    return fields


def _check_overlap(members: list[_Member], where: str, end: int) -> None:
    """Members that share bytes are how a small archive becomes a huge one (https://www.bamsoftware.com/hacks/zipbomb)."""
    previous = 0
    for member in sorted(members, key=lambda member: member.offset):
        if member.offset < previous:
            raise DamagedZipError(where, "its members overlap")
        previous = member.offset + _LOCAL.size + member.stored
    if previous > end:
        raise DamagedZipError(where, "a member reaches beyond its end")


def _text(member: _Member) -> str:
    """The name: UTF-8 where it is (as macOS writes without saying so), else code page 437 as of old."""
    try:
        text = member.name.decode("utf-8")
    except UnicodeDecodeError:
        text = member.name.decode("utf-8", "surrogateescape") if member.utf8 else member.name.decode("cp437")
    return text.replace("\\", "/") if "/" not in text else text  # some Windows writers


def _verdict(member: _Member) -> tuple[str, str] | None:
    if member.flags & _ENCRYPTED:
        return Reason.UNREADABLE, "encrypted"
    if stat.S_IFMT(member.mode) not in (0, stat.S_IFREG):
        return Reason.UNREADABLE, "a link or device inside an archive"
    if member.method not in (_STORED, _DEFLATED):
        return Reason.UNREADABLE, f"compressed by {_METHODS.get(member.method, f'method {member.method}')}"
    if member.stored > 2 * member.size + FREE:
        return Reason.DAMAGED, f"{member.stored:,} bytes for {member.size:,}"
    if member.size > FREE and member.size > RATIO * member.stored:
        return Reason.BOMB, f"{member.stored:,} bytes that inflate to {member.size:,}"
    return None


def _load(file: BinaryIO, member: _Member, budget: _Budget) -> bytes:
    budget.spend(member.size)
    file.seek(member.offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
        raise RejectedError(Reason.DAMAGED, "its header in the zip is broken")
    *_, name_size, extra_size = _LOCAL.unpack(header)
    file.seek(name_size + extra_size, 1)
    data = file.read(member.stored)
    if len(data) < member.stored:
        raise RejectedError(Reason.DAMAGED, "the zip ends inside it")
    if member.method == _DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
        except zlib.error as error:
            raise RejectedError(Reason.DAMAGED, f"its compression is broken ({error})") from None
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise RejectedError(Reason.DAMAGED, "not the bytes that were zipped: its CRC is another")
    return data
