"""The strict tar records: round trips against the standard library, and every way to be odd by its name."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seerctl.stream import ustar
from seerctl.stream.ustar import BLOCK, END, MemberReader, TarError

NAMES = st.from_regex(r"[a-z0-9_.-]([a-z0-9_./-]{0,98}[a-z0-9_.-])?", fullmatch=True)
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=1200)), max_size=6)


def archive(members: list[tuple[str, bytes]]) -> bytes:
    return b"".join(ustar.member(name, data) for name, data in members) + END


class Trickle(io.RawIOBase):
    """A pipe that hands over at most `step` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step = io.BytesIO(data), step

    def read(self, count: int = -1) -> bytes:
        return self.data.read(min(count, self.step) if count >= 0 else self.step)


def read_all(data: bytes, step: int = 1 << 20) -> list[tuple[str, bytes]]:
    reader = MemberReader(Trickle(data, step), "test.tar")  # type: ignore[arg-type]
    found = []
    while (member := reader.read_member()) is not None:
        found.append(member[:2])
    assert reader.at_end()
    assert reader.offset == len(data)
    return found


@given(MEMBERS, st.integers(1, 3000))
def test_what_is_written_is_read_in_any_pieces(members: list[tuple[str, bytes]], step: int) -> None:
    assert read_all(archive(members), step) == members


@given(MEMBERS)
def test_the_standard_library_reads_the_same(members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(members))) as tar:
        found = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    assert [(info.name, data) for info, data in found] == members
    assert {(info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) for info, _ in found} <= {
        (0, 0, 0, "", "", 0o444)
    }


def test_gnu_tar_reads_it(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(archive([("one.jpg", b"1" * 600), ("two.json", b"{}")]))
    done = subprocess.run(["tar", "tvf", tmp_path / "x.tar"], capture_output=True, text=True, check=True)
    assert [line.split()[2:6:3] for line in done.stdout.splitlines()] == [["600", "one.jpg"], ["2", "two.json"]]
    assert not done.stderr


def test_every_bit_of_a_header_matters() -> None:
    block = bytearray(ustar.header("key.jpg", 1234))
    for bit in range(8 * BLOCK):
        block[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TarError):
            ustar.parse(bytes(block), "test.tar", 0)
        block[bit // 8] ^= 1 << bit % 8
    assert ustar.parse(bytes(block), "test.tar", 0) == ("key.jpg", 1234)


def resummed(block: bytes) -> bytes:
    total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def changed(at: int, to: bytes) -> bytes:
    block = ustar.header("key.jpg", 1234)
    return resummed(block[:at] + to + block[at + len(to) :])


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        (b"", "cut"),
        (ustar.header("key.jpg", 1234)[:511], "cut"),
        (bytes(BLOCK), "zero"),
        (b"<html>" + bytes(BLOCK - 6), "checksum"),
        (changed(257, b"ustar  \0"), "format"),
        (changed(156, b"2"), "type"),
        (changed(156, b"x"), "type"),
        (changed(124, b"77777777777"), "size"),
        (changed(124, b"     002322"), "size"),
        (changed(0, bytes(7)), "name"),
        (changed(0, b"k\xc3\xa4.jpg"), "name"),
        (changed(0, b"key\0jpg"), "name"),
        (changed(100, b"0000777"), "field"),
        (changed(136, b"00000000001"), "field"),
        (changed(345, b"directory"), "field"),
        (changed(124, b"00000_02322"), "size"),
    ],
)
def test_odd_headers_are_named(block: bytes, fault: str) -> None:
    with pytest.raises(TarError) as caught:
        ustar.parse(block, "test.tar", 1024)
    assert caught.value.fault == fault
    assert str(caught.value).startswith("test.tar: damaged at byte 1024: " + fault)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (ustar.header("a", 5) + b"12345" + bytes(500), "cut"),
        (ustar.header("a", 5) + b"12345" + bytes(506) + b"x" + END, "padding"),
        (ustar.member("a", b"12345"), "cut"),
        (ustar.member("a", b"12345") + bytes(BLOCK), "cut"),
        (ustar.member("a", b"12345") + bytes(BLOCK) + ustar.member("b", b""), "zero"),
        (ustar.header("a", ustar.MAX_MEMBER), "cut"),  # a claimed size is never allocated
    ],
)
def test_odd_members_are_named(data: bytes, fault: str) -> None:
    with pytest.raises(TarError) as caught:
        read_all(data)
    assert caught.value.fault == fault


@pytest.mark.parametrize(("name", "size"), [("", 1), ("a" * 101, 1), ("ä", 1), ("a", -1), ("a", ustar.MAX_MEMBER + 1)])
def test_what_has_no_header_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"USTAR|ascii"):
        ustar.header(name, size)


@settings(max_examples=30)
@given(st.binary(max_size=4096))
def test_noise_is_no_archive(data: bytes) -> None:
    with pytest.raises(TarError):
        read_all(data.ljust(1, b"x"))
