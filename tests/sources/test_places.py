"""Arguments that stand for several places, folders of shards, shard sets."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import InputError, UsageError
from seerctl.sources.check import CheckOptions
from seerctl.sources.expand import expand
from seerctl.sources.item import Item
from seerctl.sources.options import SourceOptions
from seerctl.sources.places import is_url, places
from seerctl.sources.web.client import Web
from seerctl.sources.web.options import WebOptions
from tests.streams import numbered, shards_of, stream_of


def sources(*arguments: object, stdin: bytes = b"") -> list[str]:
    return [item.source for item in items(*arguments, stdin=stdin)]


def items(*arguments: object, stdin: bytes = b"") -> list[Item]:
    found = places([str(argument) for argument in arguments])
    return list(expand(found, io.BytesIO(stdin), SourceOptions(), CheckOptions(), Web(WebOptions())))


def tar_at(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_braces_and_wildcards_that_the_shell_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        (tmp_path / f"s-{number:03d}.tar").touch()
    monkeypatch.chdir(tmp_path)
    assert places(["s-{003..005}.tar"]) == ["s-003.tar", "s-004.tar", "s-005.tar"]
    assert places(["s-*.tar", "-"]) == [f"s-{number:03d}.tar" for number in range(12)] + ["-"]
    assert places(["s-{001,0*1}.tar"]) == ["s-001.tar", "s-001.tar", "s-011.tar"]
    Path("{a,b}*.jpg").touch()
    assert places(["{a,b}*.jpg"]) == ["{a,b}*.jpg"]  # a file of that name goes first
    with pytest.raises(InputError, match=r"s-012\.tar: no such file"):
        places(["s-{011..012}.tar"])
    with pytest.raises(InputError, match=r"t-\*\.tar: no such file"):
        places(["t-*.tar"])
    monkeypatch.setattr("seerctl.sources.places._MAX_PLACES", 50)
    with pytest.raises(UsageError, match="more than 50 names"):
        places(["{0..99}.jpg"])
    assert [is_url(text) for text in ("https://a/b", "s3://b", "a/b://c", "a.jpg")] == [True, True, False, False]


def test_a_folder_of_the_shards_of_img2dataset(tmp_path: Path) -> None:
    for number in range(2):
        key = f"{number:05d}0000"
        meta = {"caption": "a dog", "url": "http://h/d.jpg", "key": key, "status": "success", "error_message": None,
                "width": 48, "sha256": "0" * 64, "exif": "{}"}  # fmt: skip
        tar_at(
            tmp_path / f"{number:05d}.tar",
            {f"{key}.jpg": b"1", f"{key}.json": json.dumps(meta).encode(), f"{key}.txt": b"a dog"},
        )
        (tmp_path / f"{number:05d}.parquet").write_bytes(b"PAR1")
        (tmp_path / f"{number:05d}_stats.json").write_text("{}")
    found = [item for item in items(tmp_path) if item.named]
    assert [item.source for item in found] == ["00000.tar/000000000.jpg", "00001.tar/000010000.jpg"]
    assert found[0].columns == {
        "caption": "a dog", "url": "http://h/d.jpg", "key": "000000000", "status": "success", "width": 48,
        "sha256": "0" * 64, "exif": "{}",
    }  # fmt: skip


def test_energons_folder_and_zips_in_folders(tmp_path: Path) -> None:
    (tmp_path / ".nv-meta").mkdir()
    (tmp_path / ".nv-meta" / "split.yaml").touch()
    tar_at(tmp_path / "a.tar", {"dogs/1.jpg": b"1"}, format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"})
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("cats/2.jpg", b"2")
    (tmp_path / "c.zip").write_bytes(b"not one")
    os.mkfifo(tmp_path / "d.tar")
    assert [(item.source, item.columns) for item in items(tmp_path)] == [
        ("a.tar/dogs/1.jpg", {"label": "dogs"}),
        ("b.zip/cats/2.jpg", {"label": "cats"}),
        ("c.zip", {}),
        ("d.tar", {}),
    ]


def test_several_pictures_and_fields_of_one_sample(tmp_path: Path) -> None:
    path = tar_at(
        tmp_path / "s.tar",
        {"k.jpg": b"1", "k.depth.png": b"2", "k.caption.txt": b"a cat", "k.cls": b"3", "k.fine.cls": b"7",
         "k.boxes.json": b"[[1, 2]]", "k.json": b'{"split": "train"}', "k.npy": b"x",
         "l.jpg": b"4", "l.json": b"[1]", "m.jpg": b"5", "m.json": b"{broken"},
    )  # fmt: skip
    columns = {"caption": "a cat", "label": 3, "fine": 7, "boxes": [[1, 2]], "split": "train"}
    found = items(path)
    assert [(item.source, item.columns, item.named) for item in found[:3]] == [
        ("k.jpg", columns, True),
        ("k.depth.png", columns, True),
        ("k.npy", columns, False),
    ]
    assert (found[3].columns, found[3].verdict) == ({"json": [1]}, None)
    assert found[4].verdict == ("bad-row", "the .json beside it is no JSON")


def test_a_shard_set_is_read_in_the_order_of_its_index(tmp_path: Path) -> None:
    shards_of(tmp_path / "set", stream_of(numbered(range(9))), maxcount=4)
    wanted = [meta["source"] for _, meta in numbered(range(9))]
    (tmp_path / "set" / "stray.jpg").touch()
    assert sources(tmp_path / "set") == wanted
    index = json.loads((tmp_path / "set" / "index.json").read_text())
    index["shardlist"].reverse()
    (tmp_path / "set" / "index.json").write_text(json.dumps(index))
    assert sources(tmp_path / "set") == [*wanted[8:], *wanted[4:8], *wanted[:4]]
    shard = tmp_path / "set" / index["shardlist"][1]["url"]
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(InputError, match="bytes, not"):
        sources(tmp_path / "set")
    shard.unlink()
    with pytest.raises(InputError, match="the shard is missing"):
        sources(tmp_path / "set")


def test_an_index_of_something_else_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"images": []}')
    (tmp_path / "a.jpg").touch()
    assert sources(tmp_path) == ["a.jpg", "index.json"]


def test_zips_on_a_pipe_and_lists_that_are_compressed(tmp_path: Path) -> None:
    import gzip

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/1.jpg", b"1")
    (tmp_path / "z").write_bytes(file.getvalue())
    assert sources(tmp_path / "z") == ["a/1.jpg"]
    read, write = os.pipe()
    os.write(write, file.getvalue())
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert [item.source for item in expand(["-"], pipe, SourceOptions(), CheckOptions(), Web(WebOptions()))] == [
            "a/1.jpg"
        ]
    (tmp_path / "l.txt.gz").write_bytes(gzip.compress(b"x.jpg\n"))
    assert sources(tmp_path / "l.txt.gz") == ["x.jpg"]
