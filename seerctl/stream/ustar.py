"""The tar records of streams and shards: one canonical USTAR header per member, and nothing else accepted.

Every field but name and size is fixed (mode 0444, owner 0, time 0), so reading is a comparison with what writing would
have produced: any changed bit, odd type, PAX record or foreign field is a named fault. Tars of others are read by
`seerctl.sources.tar`. Layout: POSIX.1-1988 ustar, https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

from typing import BinaryIO

from seerctl.errors import InputError

BLOCK = 512
END = bytes(2 * BLOCK)
MAX_MEMBER = 1 << 30  # bytes of one member: bounds what a reader ever holds, whatever a header claims
CHUNK = 1 << 20
_NAME = 100  # no prefix field: wids and DALI read the first hundred bytes alone
_OWNER = b"0000444\x00" + b"0000000\x00" * 2
_TIME = b"00000000000\x00"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\x00" * 2 + bytes(167)
_END = b"\x00 " + _TAIL
_CONSTANT_SUM = sum(_OWNER) + sum(_TIME) + 8 * ord(" ") + sum(_TAIL)  # the checksum field counts as spaces


class TarError(InputError):
    """Bytes that are not what `seerctl` writes; `fault` is a stable word, `offset` the byte where it was seen."""

    def __init__(self, where: str, fault: str, offset: int, detail: str = "") -> None:
        super().__init__(
            f"{where}: damaged at byte {offset}: {fault}{f' ({detail})' if detail else ''}",
            "Make it again from its source",
        )
        self.fault = fault
        self.offset = offset


def padded(size: int) -> int:
    """`size` rounded up to whole 512-byte blocks."""
    return (size + BLOCK - 1) & -BLOCK


def header(name: str, size: int) -> bytes:
    """The 512-byte header of a regular file of `size` bytes.

    Raises:
        ValueError: a name that is empty, not ASCII, holds NUL or has more than 100 bytes, or a size over `MAX_MEMBER`.
    """
    raw = name.encode("ascii")
    if not 0 < len(raw) <= _NAME or b"\x00" in raw or not 0 <= size <= MAX_MEMBER:
        raise ValueError(f"no USTAR header for {name!r} of {size} bytes")
    length = b"%011o\x00" % size
    checksum = sum(raw) + sum(length) + _CONSTANT_SUM
    return b"%b%b%b%b%06o\x00 %b" % (raw.ljust(_NAME, b"\x00"), _OWNER, length, _TIME, checksum, _TAIL)


def pieces(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, data and padding of one member, to be written one after the other."""
    return header(name, len(data)), data, bytes(-len(data) % BLOCK)


def member(name: str, data: bytes) -> bytes:
    """One member as one piece."""
    return b"".join(pieces(name, data))


def parse(block: bytes, where: str, offset: int) -> tuple[str, int]:
    """Name and size in a canonical header.

    Raises:
        TarError: anything else, by name: cut, zero, checksum, format, type, size, name or field.
    """
    # The header is compared with what `header` would have made, piece by piece: half the cost of making it.
    raw = block[:_NAME].rstrip(b"\x00")
    length = block[124:136]
    if len(block) == BLOCK and block[100:124] == _OWNER and block[136:148] == _TIME and block[154:] == _END:
        try:
            name, size = raw.decode("ascii"), int(length[:11], 8)
        except ValueError:
            pass
        else:
            sound = length == b"%011o\x00" % size and block[148:154] == b"%06o" % (
                sum(raw) + sum(length) + _CONSTANT_SUM
            )
            if sound and raw and b"\x00" not in raw and size <= MAX_MEMBER:
                return name, size
    raise TarError(where, *_diagnose(block, offset))


def _diagnose(block: bytes, offset: int) -> tuple[str, int, str]:
    """Which word describes a block that is no canonical header."""
    if len(block) < BLOCK:
        return "cut", offset, f"{len(block)} of {BLOCK} bytes of a header"
    if not any(block):
        return "zero", offset, "a lone block of zeros"
    spaces = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    digits = block[148:156].strip(b" \x00")
    if not digits.isdigit() or any(digit > ord("7") for digit in digits) or int(digits, 8) != spaces:
        return "checksum", offset, "the header does not match its sum"
    if block[257:265] != b"ustar\x0000":
        return "format", offset, "not POSIX ustar"
    if block[156:157] != b"0":
        return "type", offset, f"type {block[156:157]!r} is no regular file"
    octal = block[124:135]
    if not octal.isdigit() or any(digit > ord("7") for digit in octal) or int(octal, 8) > MAX_MEMBER:
        return "size", offset, f"{octal!r} is no size up to {MAX_MEMBER} bytes"
    name = block[:_NAME].rstrip(b"\x00")
    if not name or not name.isascii() or b"\x00" in name:
        return "name", offset, repr(name)
    return "field", offset, "mode, owner, time or another field is not as seerctl writes it"


class MemberReader:
    """Members of a tar made by `member`, from any readable binary file, in one pass and bounded memory.

    `offset` counts the bytes consumed. After the two zero blocks `read_member` gives None once; then another tar may
    follow (`cat a.tar b.tar`).
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.where = where
        self.offset = 0
        # read1 hands over what a pipe has; read would wait for a whole chunk.
        self._read = getattr(file, "read1", file.read)
        self._buffer = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end of the file."""
        piece = self._buffer[self._at : self._at + count]
        if len(piece) < count:
            parts, missing = [piece], count - len(piece)
            while missing > 0 and (chunk := self._read(max(CHUNK, min(missing, 16 * CHUNK)))):
                parts.append(chunk)
                missing -= len(chunk)
            self._buffer, self._at = b"".join(parts), 0
            piece = self._buffer[:count]
        self._at += len(piece)
        self.offset += len(piece)
        return piece

    def at_end(self) -> bool:
        """True when nothing is left to read."""
        if self._at >= len(self._buffer):
            self._buffer, self._at = self._read(CHUNK) or b"", 0
        return not self._buffer

    def read_member(self) -> tuple[str, bytes, bytes] | None:
        """(name, data, the member's raw bytes), or None at the two zero blocks.

        Raises:
            TarError: cut, damaged, or not written by `member`.
        """
        start = self.offset
        block = self.take(BLOCK)
        if block == END[:BLOCK]:
            rest = self.take(BLOCK)
            if rest != END[:BLOCK]:
                cut = len(rest) < BLOCK
                raise TarError(self.where, "cut" if cut else "zero", start, "the end mark is two blocks of zeros")
            return None
        name, size = parse(block, self.where, start)
        body = self.take(padded(size))
        if len(body) < padded(size):
            raise TarError(self.where, "cut", start, f"{name}: {len(body)} of {size} bytes")
        if body[size:] != END[: len(body) - size]:
            raise TarError(self.where, "padding", start, f"{name}: bytes after its end")
        return name, body[:size], block + body
