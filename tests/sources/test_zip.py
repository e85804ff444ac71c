"""Zips of others: what `zipfile` and its like write is read as they read it; every fault is one clear answer."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import InputError
from seerctl.sources.archives import spooled
from seerctl.sources.check import CheckOptions
from seerctl.sources.item import Item
from seerctl.sources.members import Entry, member_items
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.zip import DamagedZipError, zip_entries

Members = dict[str | zipfile.ZipInfo, bytes]


def zipped(members: Members, *, stream: bool = False, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    target: Any = _Pipe(file) if stream else file  # into a pipe, sizes come after the data (data descriptors)
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


class _Pipe(io.RawIOBase):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)


def info(name: str, **fields: Any) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.compress_type = zipfile.ZIP_DEFLATED
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def entries(data: bytes) -> list[Entry]:
    return list(zip_entries(io.BytesIO(data), "z.zip"))


def contents(data: bytes) -> dict[str, bytes]:
    return {entry.name: entry.load() for entry in entries(data)}


def items(data: bytes, **options: Any) -> list[Item]:
    return list(member_items(zip_entries(io.BytesIO(data), "z.zip"), CheckOptions(**options), True))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("stream", [False, True])
def test_members_are_those_of_zipfile_in_the_order_of_names(method: int, stream: bool) -> None:
    members: Members = {
        f"{number:02d}/é{number}.jpg": random.Random(number).randbytes(700 * number) for number in range(9)
    }
    data = zipped(dict(reversed(members.items())), stream=stream, method=method)
    assert contents(data) == members
    assert list(contents(data)) == sorted(members)  # type: ignore[type-var]
    assert contents(b"#!/bin/sh self-extracting\n" + data) == members
    assert contents(zipped({})) == {}


def test_zip64(monkeypatch: pytest.MonkeyPatch) -> None:
    many = zipped({f"{number:06d}.txt": b"" for number in range(65_600)}, method=zipfile.ZIP_STORED)
    assert len(entries(many)) == 65_600
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    members: Members = {"a.jpg": bytes(range(200)), "b.jpg": bytes(300)}
    for data in (zipped(members), zipped(members, stream=True), b"x" * 50 + zipped(members)):
        assert b"PK\x06\x06" in data
        assert contents(data) == members


def test_labels_and_side_files_are_those_of_tars() -> None:
    data = zipped({"train/dog/1.jpg": b"1", "train/dog/2.jpg": b"2", "x/3.json": b'{"label": "cat"}', "x/3.png": b"3",
                   "__MACOSX/train/dog/._1.jpg": b"fork", "train/dog/._2.jpg": b"fork", "train/": b""})  # fmt: skip
    found = [(item.source, item.columns, item.named) for item in items(data)]
    assert found == [
        ("train/dog/._2.jpg", {"label": "dog"}, False),
        ("train/dog/1.jpg", {"label": "dog"}, True),
        ("train/dog/2.jpg", {"label": "dog"}, True),
        ("x/3.png", {"label": "cat"}, True),
    ]


def test_odd_names_stay_text() -> None:
    data = zipped({"../../etc/passwd.jpg": b"1", "/root/2.jpg": b"2", "a\\b\\3.jpg": b"3", "new\nline.jpg": b"4"})
    assert [item.source for item in items(data)] == [
        "../../etc/passwd.jpg",
        "root/2.jpg",
        "a/b/3.jpg",
        "new%0Aline.jpg",
    ]
    twice = bytearray(zipped({"a.jpg": b"1", "b.jpg": b"2"}))
    assert sorted(entry.load() for entry in entries(bytes(twice.replace(b"b.jpg", b"a.jpg")))) == [b"1", b"2"]


def test_names_that_are_no_utf8() -> None:
    plain = zipped({"xxxx.jpg": b"1"})
    assert list(contents(plain.replace(b"xxxx", b"caf\x82"))) == ["café.jpg"]  # code page 437, as of old
    assert list(contents(plain.replace(b"xxxx", "né_".encode()))) == ["né_.jpg"]  # UTF-8 without saying so
    said = zipped({"éé.jpg": b"1"}).replace("éé".encode(), b"\xff\xfe\xfd\xfc")  # zipfile refuses the archive
    assert [item.source for item in items(said)] == ["%FF%FE%FD%FC.jpg"]


def test_what_cannot_be_read_is_a_verdict() -> None:
    link = info("link.jpg", external_attr=(stat.S_IFLNK | 0o777) << 16, create_system=3)
    members: Members = {"a.jpg": b"abc", link: b"/etc/passwd", info("b.jpg", compress_type=zipfile.ZIP_BZIP2): b"b",
                        "bomb.jpg": bytes(30_000_000), "large.jpg": random.Random(0).randbytes(5000)}  # fmt: skip
    data = bytearray(zipped(members))
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1  # the first of the directory, a.jpg, says that it is encrypted
    verdicts = {item.source: item.verdict for item in items(bytes(data), max_bytes=4000)}
    assert verdicts["a.jpg"] == (Reason.UNREADABLE, "encrypted")
    assert verdicts["link.jpg"] == (Reason.UNREADABLE, "a link or device inside an archive")
    assert verdicts["b.jpg"] == (Reason.UNREADABLE, "compressed by bzip2")
    assert verdicts["large.jpg"] == (Reason.TOO_LARGE, "5000 bytes, more than 4000")
    assert verdicts["bomb.jpg"] and verdicts["bomb.jpg"][0] == Reason.BOMB  # noqa: PT018


def test_damage_costs_its_member_alone() -> None:
    data = bytearray(zipped({"a.jpg": b"a" * 50, "b.jpg": bytes(range(256)) * 2}))
    data[data.index(b"b.jpg") + 20] ^= 0x55
    one, two = items(bytes(data))
    assert (one.data, one.verdict) == (b"a" * 50, None)
    assert two.verdict and two.verdict[0] == Reason.DAMAGED  # noqa: PT018


def test_a_size_that_lies_does_not_inflate() -> None:
    data = bytearray(zipped({"a.jpg": bytes(1 << 20)}))
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<L", data, at + 24, 100)
    (entry,) = entries(bytes(data))
    with pytest.raises(RejectedError, match="CRC"):
        entry.load()


def test_bombs_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO(zipped({"a.jpg": b"aaaa", "b.jpg": b"bbbb"}, method=zipfile.ZIP_STORED))
    data = bytearray(file.getvalue())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    struct.pack_into("<L", data, second + 42, 0)  # both entries are the same bytes
    with pytest.raises(DamagedZipError, match="overlap"):
        entries(bytes(data))
    many = zipped({f"{number}.jpg": bytes(1 << 20) for number in range(20)})
    monkeypatch.setattr("seerctl.sources.zip.FREE_TOTAL", 1 << 20)
    with pytest.raises(InputError, match="a bomb"):
        [entry.load() for entry in entries(many)]


def test_a_cut_or_broken_archive_is_one_error() -> None:
    data = zipped({f"{number}.jpg": random.Random(number).randbytes(300) for number in range(10)})
    for cut in [0, 1, len(data) - 1, len(data) - 22, *random.Random(1).sample(range(len(data)), 60)]:
        with pytest.raises(DamagedZipError):
            entries(data[:cut])
    start = data.index(b"PK\x01\x02")
    for seed in range(200):  # any byte of the directory: an answer of some kind, never another exception
        broken = bytearray(data)
        broken[random.Random(seed).randrange(start, len(data))] ^= 1 << seed % 8
        try:
            for entry in entries(bytes(broken)):
                entry.load()
        except (InputError, RejectedError):
            pass


def test_a_pipe_is_copied_within_bounds() -> None:
    with spooled(io.BytesIO(b"x" * 1000), "stdin") as copy:
        assert copy.read() == b"x" * 1000
    with pytest.raises(InputError, match="more than 999 bytes"):
        spooled(io.BytesIO(b"x" * 1000), "stdin", 999)


@pytest.mark.data
def test_a_real_zip(shared_data: Path) -> None:
    files = sorted((shared_data / "clothing" / "validation").rglob("*.jpg"))[:50]
    members: Members = {str(path.relative_to(shared_data)): path.read_bytes() for path in files}
    assert contents(zipped(members)) == members
