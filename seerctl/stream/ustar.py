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
_ZEROS = END[:BLOCK]
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
        self._file = file
        # One buffer for all: a new one for each piece of a pipe costs more in fresh pages than what is done with it.
        # readinto1 and read1 hand over what a pipe has; the others would wait for a whole chunk.
        self._into = getattr(file, "readinto1", None)
        self._read = getattr(file, "read1", file.read)
        self._view = memoryview(bytearray(CHUNK))
        self._at = self._end = 0  # what is left of the buffer

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end of the file."""
        size = min(count, self._fill(count))  # which may bring another buffer
        piece = self._view[self._at : self._at + size].tobytes()
        self._at += len(piece)
        self.offset += len(piece)
        return piece

    def at_end(self) -> bool:
        """True when nothing is left to read."""
        return not self._fill(1)

    def _fill(self, count: int) -> int:
        """Read until `count` bytes are in the buffer, or the file ends; how many there are."""
        while self._end - self._at < count:
            if self._at == self._end:
                self._move(CHUNK if len(self._view) > 16 * CHUNK else len(self._view))  # smaller after a large member
            elif self._end == len(self._view):
                # A header may claim what it likes: the buffer grows with what comes.
                self._move(len(self._view) if self._at else min(count, 2 * len(self._view)))
            got = self._more()
            if not got:
                break
            self._end += got
        return self._end - self._at

    def _move(self, size: int) -> None:
        """Bring what is left to the front of a buffer of `size` bytes."""
        left = self._view[self._at : self._end].tobytes()
        if size != len(self._view):
            self._view = memoryview(bytearray(size))
        self._view[: len(left)] = left
        self._at, self._end = 0, len(left)

    def _more(self) -> int:
        """Read what the file has into the rest of the buffer; how much that was."""
        room = self._view[self._end :]
        if self._into is not None:
            return self._into(room) or 0
        chunk = self._read(len(room)) or b""
        room[: len(chunk)] = chunk
        return len(chunk)

    def read_member(self) -> tuple[str, bytes, bytes] | None:
        """(name, data, the member's raw bytes), or None at the two zero blocks.

        Raises:
            TarError: cut, damaged, or not written by `member`.
        """
        start = self.offset
        self._fill(BLOCK)
        block = self._view[self._at : min(self._at + BLOCK, self._end)].tobytes()
        if block == _ZEROS:
            rest = self.take(2 * BLOCK)[BLOCK:]
            if rest != _ZEROS:
                cut = len(rest) < BLOCK
                raise TarError(self.where, "cut" if cut else "zero", start, "the end mark is two blocks of zeros")
            return None
        name, size = parse(block, self.where, start)
        raw = self.take(BLOCK + padded(size))
        if len(raw) < BLOCK + padded(size):
            raise TarError(self.where, "cut", start, f"{name}: {max(0, len(raw) - BLOCK)} of {size} bytes")
        if raw[BLOCK + size :] != END[: len(raw) - BLOCK - size]:
            raise TarError(self.where, "padding", start, f"{name}: bytes after its end")
        return name, raw[BLOCK : BLOCK + size], raw
