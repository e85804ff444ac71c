"""Tars of others: every dialect that is about, no damage passed over, columns from WebDataset shards."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
import webdataset

from seerctl.sources.check import CheckOptions
from seerctl.sources.item import Item
from seerctl.sources.members import tar_items
from seerctl.sources.reasons import Reason
from seerctl.sources.tar import DamagedTarError, TarReader, looks_like_tar
from tests.streams import numbered, stream_of

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar_of(members: dict[str, bytes], dialect: int = tarfile.GNU_FORMAT, **fields: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=dialect) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def contents(data: bytes, *, seekable: bool = False) -> dict[str, bytes]:
    reader = TarReader(io.BytesIO(data), "t.tar", seekable=seekable)
    return {member.name: reader.read(member) for member in reader}


@pytest.mark.parametrize("dialect", FORMATS)
def test_every_dialect_and_long_names(dialect: str) -> None:
    names = ["a.jpg", "d/" * 40 + "b.jpg"] + ["é" * 120 + ".jpg", "x" * 300, "d/" * 200 + "c"] * (dialect != "ustar")
    members = {name: bytes([number]) * (500 + number * 300) for number, name in enumerate(names)}
    data = tar_of(members, FORMATS[dialect], mtime=1.5 if dialect == "pax" else 1, uname="somebody")
    assert contents(data) == contents(data, seekable=True) == members
    assert looks_like_tar(data[:512])


def test_contents_may_be_passed_over() -> None:
    members = {f"{number}.jpg": bytes(number * 400) for number in range(20)}
    data = tar_of(members)
    for seekable in (False, True):
        reader = TarReader(io.BytesIO(data), "t.tar", seekable=seekable)
        offsets = {member.name: member.offset for member in reader}
        assert list(offsets) == list(members)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert {info.name: info.offset_data for info in tar} == offsets


def test_what_is_no_file_is_told_apart() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        kinds = {"d": tarfile.DIRTYPE, "l.jpg": tarfile.SYMTYPE, "h.jpg": tarfile.LNKTYPE, "f": tarfile.FIFOTYPE}
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../../etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    found = [(member.name, member.is_file) for member in TarReader(io.BytesIO(file.getvalue()), "t.tar")]
    assert found == [("l.jpg", False), ("h.jpg", False), ("f", False), ("a.jpg", True)]
    items = {item.source: item.verdict for item in items_of(file.getvalue())}
    assert items["h.jpg"] == (Reason.UNREADABLE, "a link or device inside an archive")
    assert items["a.jpg"] is None


def test_a_cut_anywhere_is_noticed() -> None:
    data = tar_of({"a.jpg": bytes(700), "b" * 150: bytes(100), "c.jpg": bytes(512)})
    end = len(data.rstrip(b"\0"))
    end += -end % 512 + 512  # the last header and its data, all zeros
    for cut in [*range(512, end, 512), *random.Random(0).sample(range(1, end), 100)]:
        for seekable in (False, True):
            with pytest.raises(DamagedTarError):
                contents_without_reading(data[:cut], seekable)
            with pytest.raises(DamagedTarError):
                contents(data[:cut], seekable=seekable)


def contents_without_reading(data: bytes, seekable: bool) -> list[str]:
    return [member.name for member in TarReader(io.BytesIO(data), "t.tar", seekable=seekable)]


def test_a_broken_header_in_the_middle_is_noticed() -> None:
    data = bytearray(tar_of({"a.jpg": bytes(700), "b.jpg": bytes(100), "c.jpg": bytes(512)}))
    data[512 + 1024 + 3] ^= 1
    with pytest.raises(DamagedTarError, match="does not match its sum"):
        contents(bytes(data))


def test_hostile_sizes_and_records() -> None:
    huge = bytearray(tar_of({"a.jpg": b""}))
    huge[124:136] = b"\x80" + b"\xff" * 11
    total = sum(huge[:148]) + 8 * 32 + sum(huge[156:512])
    huge[148:156] = b"%06o\0 " % total
    with pytest.raises(DamagedTarError):
        contents(bytes(huge))
    for record in (b"999 path=x\n", b"5 path=x\n", b"nonsense", b"0 =\n", b"12 path=abcd"):
        header = tar_of({"pax": record}, type=b"x")[: 512 + 512]
        with pytest.raises(DamagedTarError, match="PAX"):
            contents(header + tar_of({"a.jpg": b"x"}))


def test_archives_may_follow_each_other() -> None:
    assert contents(tar_of({"a": b"1"}) + tar_of({"b": b"2"})) == {"a": b"1", "b": b"2"}


def test_noise_is_no_archive() -> None:
    generator = random.Random(2)
    for size in (1, 511, 512, 5000):
        with pytest.raises(DamagedTarError):
            contents(generator.randbytes(size))
    assert not looks_like_tar(b"hello")
    assert not looks_like_tar(bytes(512))


def items_of(data: bytes, labels: bool = True) -> list[Item]:
    return list(tar_items(io.BytesIO(data), "t.tar", CheckOptions(), labels))


def test_directories_are_labels_and_nothing_escapes() -> None:
    items = items_of(tar_of({"train/cat/1.jpg": b"1", "/abs/2.jpg": b"2", "../../3.jpg": b"3", "4.jpg": b"4"}))
    assert [(item.source, item.columns, item.data) for item in items] == [
        ("train/cat/1.jpg", {"label": "cat"}, b"1"),
        ("abs/2.jpg", {"label": "abs"}, b"2"),
        ("../../3.jpg", {}, b"3"),
        ("4.jpg", {}, b"4"),
    ]
    assert not any(item.columns for item in items_of(tar_of({"train/cat/1.jpg": b"1"}), labels=False))


def test_a_file_is_read_by_reference(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(tar_of({"a/1.jpg": b"one", "a/2.jpg": b"two!"}))
    with path.open("rb") as file:
        items = list(tar_items(file, str(path), CheckOptions(), True, path))
    data = path.read_bytes()
    assert [data[item.offset : item.offset + item.size] for item in items] == [b"one", b"two!"]
    assert [item.data for item in items] == [None, None]


def test_side_files_become_columns(tmp_path: Path) -> None:
    path = tmp_path / "w.tar"
    with webdataset.TarWriter(str(path)) as writer:
        writer.write({"__key__": "x/one", "jpg": b"1", "cls": 7, "json": {"a": 1, "b/c": [2], "n": None}})
        writer.write({"__key__": "x/two", "png": b"2", "txt": "a caption", "json": {"label": "dog", "text": "mine"}})
        writer.write({"__key__": "x/three", "jpg": b"3", "cls": "dog\n"})
        writer.write({"__key__": "x/four", "jpg": b"4"})
    assert [(item.source, item.columns) for item in items_of(path.read_bytes())] == [
        ("x/one.jpg", {"label": 7, "a": 1, "b_c": [2]}),
        ("x/two.png", {"label": "dog", "text": "mine"}),
        ("x/three.jpg", {"label": "dog"}),
        ("x/four.jpg", {"label": "x"}),
    ]


def test_side_files_of_one_picture_do_not_reach_the_next() -> None:
    items = items_of(tar_of({"1.json": b'{"a": 1}', "1.jpg": b"1", "2.jpg": b"2", "3.txt": b"alone", "4.jpg": b"4"}))
    assert [(item.source, item.columns) for item in items] == [("1.jpg", {"a": 1}), ("2.jpg", {}), ("4.jpg", {})]


def test_our_own_streams_keep_sources_and_columns() -> None:
    items = items_of(stream_of(numbered(range(5))))
    assert [(item.source, item.columns, item.data) for item in items] == [
        (meta["source"], meta["columns"], data) for data, meta in numbered(range(5))
    ]


def test_one_key_for_everything_does_not_pile_up() -> None:
    """A hostile tar whose members all share a key is handed on in small groups."""
    file = io.BytesIO(tar_of({f"k.{number}.jpg": bytes(600) for number in range(200)}))
    items = tar_items(file, "t.tar", CheckOptions(), True)
    next(items)
    assert file.tell() < 20 * 1536
    assert len(list(items)) == 199
