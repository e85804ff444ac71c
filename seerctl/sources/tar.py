"""Members of tars that others wrote: ustar, GNU and PAX names, compressed or not, and no faith in any of it.

`tarfile` ends a damaged archive silently (a bad header counts as the end of it); here every fault is an error.
Formats: POSIX.1-2001 pax, https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html, and
https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from seerctl.errors import InputError
from seerctl.stream.ustar import BLOCK, CHUNK, padded

_MAX_NAME = 1 << 16  # bytes of a long name or a PAX record
_FILE_TYPES = (b"0", b"\x00", b"7")
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_PAX = re.compile(rb"([0-9]{1,7}) ([^=\n]+)=")


class DamagedTarError(InputError):
    """An archive that is cut or broken: what follows cannot be found."""

    def __init__(self, where: str, offset: int, fault: str) -> None:
        super().__init__(f"{where}: damaged at byte {offset}: {fault}", "Copy it again, or leave it out")


@dataclass(frozen=True, slots=True)
class Member:
    """Something in a tar: `offset` is where its bytes start; read them before asking for the next one.

    Of links and devices there is only the name (`is_file` is False).
    """

    name: str
    size: int
    offset: int
    is_file: bool = True


class TarReader:
    """Members of the tar in `file`, which is read once from front to back; directories are passed over.

    Several archives may follow each other, padded with zeros as GNU
    tar does. With `seekable`, contents that nobody reads are skipped without reading them.
    """

    def __init__(self, file: BinaryIO, where: str, *, seekable: bool = False) -> None:
        self._file, self._where, self._seekable = file, where, seekable
        self._at = 0
        self._left = 0  # bytes of the current member that were not read

    def __iter__(self) -> Iterator[Member]:
        overrides: dict[str, str] = {}
        ended = False
        while True:
            self._skip()
            start, block = self._at, self._take(BLOCK)
            if not block:
                break
            if block == bytes(BLOCK):
                ended = True
                continue
            name, size, kind = self._parse(block, start)
            if kind in (b"x", b"L", b"g", b"K"):
                overrides |= self._extension(kind, size, start)
                continue
            ended, real_size = False, int(overrides.pop("size", size))
            is_file = kind in _FILE_TYPES
            self._left = padded(real_size if is_file else _stored(kind, size))
            path = overrides.get("path", name)
            if kind != b"5" and not path.endswith("/"):  # the oldest tars mark directories by a slash
                yield Member(path, real_size if is_file else 0, self._at, is_file)
            overrides = {}
        if not ended:
            raise DamagedTarError(self._where, self._at, "it ends without its end mark")

    def read(self, member: Member) -> bytes:
        """The bytes of the member just yielded.

        Raises:
            DamagedTarError: the archive ends inside it.
        """
        data = self._take(member.size)
        self._left -= len(data)
        if len(data) != member.size:
            raise DamagedTarError(self._where, self._at, f"it ends inside {member.name!r}")
        return data

    def _take(self, count: int) -> bytes:
        parts, missing = [], count
        while missing and (chunk := self._file.read(min(missing, CHUNK))):
            parts.append(chunk)
            missing -= len(chunk)
        self._at += count - missing
        if 0 < missing < count and count == BLOCK:
            raise DamagedTarError(self._where, self._at, "cut inside a header")
        return b"".join(parts)

    def _skip(self) -> None:
        """Go on to the next header."""
        while self._left:
            if self._seekable and self._left > BLOCK:
                # All but the last block, which has to be there.
                self._file.seek(self._left - BLOCK, 1)
                self._at += self._left - BLOCK
                self._left = BLOCK
            piece = self._file.read(min(self._left, CHUNK))
            if not piece:
                raise DamagedTarError(self._where, self._at, "it ends inside a member")
            self._at += len(piece)
            self._left -= len(piece)

    def _parse(self, block: bytes, start: int) -> tuple[str, int, bytes]:
        if not _sum_matches(block):
            raise DamagedTarError(self._where, start, "a header does not match its sum" if start else "it is no tar")
        size = _number(block[124:136])
        if size is None:
            raise DamagedTarError(self._where, start, "a header without a size")
        name = block[:100].split(b"\0", 1)[0]
        if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
            name = prefix + b"/" + name
        return name.decode("utf-8", "surrogateescape"), size, block[156:157]

    def _extension(self, kind: bytes, size: int, start: int) -> dict[str, str]:
        """What a PAX or GNU extension record says about the next member."""
        if size > _MAX_NAME:
            raise DamagedTarError(self._where, start, f"an extension record of {size} bytes")
        data = self._take(padded(size))
        if len(data) < padded(size):
            raise DamagedTarError(self._where, self._at, "it ends inside an extension record")
        data = data[:size]
        if kind == b"L":
            return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
        return self._pax(data, start) if kind == b"x" else {}  # g: global defaults, K: a link's target

    def _pax(self, data: bytes, start: int) -> dict[str, str]:
        found: dict[str, str] = {}
        at = 0
        while at < len(data):
            match = _PAX.match(data, at)
            end = at + int(match[1]) if match else 0
            if match is None or end > len(data) or end <= match.end() or data[end - 1 : end] != b"\n":
                raise DamagedTarError(self._where, start, "a broken PAX record")
            value = data[match.end() : end - 1].decode("utf-8", "surrogateescape")
            if match[2] == b"path" or (match[2] == b"size" and value.isascii() and value.isdigit()):
                found[match[2].decode()] = value
            at = end
        return found


def _stored(kind: bytes, size: int) -> int:
    """Bytes that follow the header of something that is no file: links and devices have none, whatever they say."""
    return 0 if kind in b"123456" else size


def _number(raw: bytes) -> int | None:
    """An octal field, or the base-256 one of GNU for sizes beyond 8 GiB."""
    if raw[0] & 0x80:
        return int.from_bytes(bytes((raw[0] & 0x7F,)) + raw[1:], "big")
    match = _OCTAL.fullmatch(raw)
    return None if match is None else int(match[1] or b"0", 8)


def _sum_matches(block: bytes) -> bool:
    written = _number(block[148:156])
    rest = block[:148] + block[156:]
    total = sum(rest) + 8 * ord(" ")
    # Some old tars summed signed bytes.
    return written == total or written == total - 256 * sum(byte > 127 for byte in rest)


def looks_like_tar(block: bytes) -> bool:
    """Whether a file that begins with `block` (512 bytes) begins with a tar header."""
    if len(block) < BLOCK or not any(block):
        return False
    return _sum_matches(block)
