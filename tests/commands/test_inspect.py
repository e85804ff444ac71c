"""`seerctl inspect`: what people and scripts are shown."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from seerctl.errors import ExitCode
from seerctl.shards.split import Split
from tests.feature_files import key, picture_shards, write_features
from tests.pictures import draw
from tests.streams import meta_of, numbered, set_of, shards_of, stream_of

Run = Callable[..., Result]


def test_a_set_is_described_for_people(seerctl: Run, tmp_path: Path) -> None:
    set_of(tmp_path / "set", 12, maxcount=5).close()
    result = seerctl("inspect", tmp_path / "set")
    assert result.exit_code == 0
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert lines["samples"].strip() == "12"
    assert lines["short side"].strip() == "median 8, half in 8 to 8, 90 % in 8 to 8, all in 8 to 8 px"
    assert lines["column label"].strip() == "string, 12 of them set, 3 values: a 4, b 4, c 4"
    assert "verified" not in lines


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_set_is_described_for_scripts(seerctl: Run, tmp_path: Path, kind: str) -> None:
    set_of(tmp_path / "set", 12, maxcount=5).close()
    result = seerctl("inspect", tmp_path / "set" / "index.json", "--verify", "--output-format", kind)
    found = json.loads(result.stdout)
    assert (found["kind"], found["samples"], found["shards"]) == ("shards", 12, 3)
    assert (found["verified"], found["damage"]) == (True, [])
    assert (result.stdout.count("\n") == 1) == (kind == "jsonl")


def test_damage_is_named_and_ends_with_its_code(seerctl: Run, tmp_path: Path) -> None:
    set_of(tmp_path / "set", 12, maxcount=5).close()
    path = tmp_path / "set" / "shard-000001.tar"
    path.write_bytes(path.read_bytes().replace(b"0000444", b"0000777", 1))
    result = seerctl("inspect", tmp_path / "set", "--verify", "--output-format", "json")
    assert result.exit_code == ExitCode.INPUT
    assert "set/shard-000001.tar sample 0 at byte 0 (" in result.stderr
    found = json.loads(result.stdout)
    assert not found["verified"]
    assert "damaged at byte 0: checksum" in result.stderr
    assert {fault["file"] for fault in found["damage"]} == {"shard-000001.tar"}
    assert seerctl("inspect", tmp_path / "set").exit_code == 0  # without --verify only the index is read


def test_splits_are_described_together(seerctl: Run, tmp_path: Path) -> None:
    shards_of(tmp_path / "set", stream_of(numbered(range(30))), split=Split.parse("train=0.5,val=0.5"))
    found = json.loads(seerctl("inspect", tmp_path / "set", "--verify", "--output-format", "json").stdout)
    assert found["kind"] == "splits"
    assert sum(entry["samples"] for entry in found["splits"].values()) == 30
    assert all(entry["verified"] for entry in found["splits"].values())


def test_a_feature_file_is_told_by_its_first_bytes(seerctl: Run, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    result = seerctl("inspect", tmp_path / "other.h5")
    assert result.exit_code == ExitCode.INPUT
    assert "other.h5" in result.stderr


def test_a_feature_file_is_verified(seerctl: Run, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = write_features(tmp_path / "f.h5", np.ones((300, 4), np.float32), {"label": ["a"] * 300})
    good = seerctl("inspect", path, "--verify", "--output-format", "json")
    assert good.exit_code == 0
    assert json.loads(good.stdout)["verified"]
    with h5py.File(path, "r+") as file:
        file["keys"][7] = file["keys"][3]
        file["keys"][9] = b""
        file["features"][5, 1] = np.nan
    result = seerctl("inspect", path, "--verify")
    assert result.exit_code == ExitCode.INPUT
    for said in ("1 rows are not finite", "1 rows have no key", f"1 keys come more than once, first {key(3)}"):
        assert said in result.stderr
        assert said in result.stdout
    assert seerctl("inspect", path).exit_code == 0
    assert "--sheet is for shard sets" in seerctl("inspect", path, "--sheet", tmp_path / "s.png").stderr


def test_what_is_nothing_is_said(seerctl: Run, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "note.txt"):
        assert seerctl("inspect", path).exit_code == ExitCode.INPUT


def test_every_damaged_sample_is_named_by_key_and_offset(seerctl: Run, tmp_path: Path) -> None:
    with set_of(tmp_path / "set", 40, maxcount=20) as shards:
        samples = [shards.read(position) for position in range(20)]
    path = tmp_path / "set" / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    for sample in samples[2:18]:
        data[data.index(sample.image)] ^= 1
    path.write_bytes(data)
    for without in (False, True):
        if without:
            path.with_name("shard-000000.tar.idx").unlink()
        text = seerctl("inspect", tmp_path / "set", "--verify").stdout
        found = json.loads(seerctl("inspect", tmp_path / "set", "--verify", "--output-format", "json").stdout)["damage"]
        named = {fault["key"]: fault["offset"] for fault in found if fault["key"]}
        assert named == {sample.key: data.index(f"{sample.key}.jpg".encode()) for sample in samples[2:18]}
        assert all(f"at byte {offset} ({key})" in text for key, offset in named.items())


def test_a_split_that_lost_its_index_is_named(seerctl: Run, tmp_path: Path) -> None:
    shards_of(tmp_path / "set", stream_of(numbered(range(30))), split=Split.parse("train=0.5,val=0.5"))
    (tmp_path / "set" / "val" / "index.json").unlink()
    result = seerctl("inspect", tmp_path / "set", "--verify")
    assert result.exit_code == ExitCode.INPUT
    assert "val: holds shards, but no index.json" in result.stderr
    result = seerctl("inspect", tmp_path / "set" / "val")
    assert "shard --repair" in result.stderr
    assert seerctl("shard", "--repair", tmp_path / "set").exit_code == 0
    assert seerctl("inspect", tmp_path / "set", "--verify").exit_code == 0


def test_repairs_are_said(seerctl: Run, tmp_path: Path) -> None:
    with set_of(tmp_path / "set", 12, maxcount=5) as shards:
        sample = shards.read(1)
    path = tmp_path / "set" / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[data.index(sample.image)] ^= 1
    path.write_bytes(data)
    dry = seerctl("shard", "--repair", tmp_path / "set", "--dry-run")
    assert "1 samples would be left out; nothing was changed" in dry.stderr
    assert path.read_bytes() == data
    done = seerctl("shard", "--repair", "-o", tmp_path / "set")
    assert (done.exit_code, done.stdout) == (0, dry.stdout)
    assert sample.key in done.stdout
    assert "repaired" in seerctl("inspect", tmp_path / "set").stdout
    assert "nothing to repair" in seerctl("shard", "--repair", tmp_path / "set").stderr


def test_a_stream_is_described_and_proved(seerctl: Run, tmp_path: Path) -> None:
    path = tmp_path / "stream.tar"
    whole = stream_of(numbered(range(12)), rejects={"damaged": 3})
    path.write_bytes(whole + stream_of(numbered([20])))
    found = json.loads(seerctl("inspect", path, "--output-format", "json").stdout)
    assert (found["kind"], found["whole"], found["streams"], found["samples"]) == ("stream", True, 2, 13)
    assert (found["formats"], found["rejects"]) == ({"JPEG": 13}, {"damaged": 3})
    assert found["columns"]["label"]["values"] == {"a": 4, "b": 4, "c": 5}
    for broken in (whole[:-600], whole[:3000], whole[:4000] + b"x" + whole[4001:]):
        path.write_bytes(broken)
        result = seerctl("inspect", path, "--output-format", "json")
        assert result.exit_code == ExitCode.INPUT
        assert not json.loads(result.stdout)["whole"]
        assert len(result.stderr.splitlines()) == 1
    shard = set_of(tmp_path / "set", 3).path.with_name("shard-000000.tar")
    assert "one shard of a set" in seerctl("inspect", shard).stderr


def test_a_contact_sheet_shows_what_is_there(seerctl: Run, tmp_path: Path) -> None:
    shards = picture_shards(tmp_path / "set", 30)
    for number, more in enumerate((("--sheet-count", 5), ("--sheet-by", "label", "--sheet-count", 2), ("--seed", 7))):
        path = tmp_path / f"{number}.png"
        result = seerctl("inspect", shards, "--sheet", path, *more)
        assert result.exit_code == 0, result.stderr
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width > 160
    assert "5 pictures" in seerctl("inspect", shards, "--sheet", tmp_path / "x.png", "--sheet-count", 5).stderr
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "0.png").read_bytes()
    again = seerctl("inspect", shards, "--sheet", tmp_path / "x.png")
    assert (again.exit_code, "exists already" in again.stderr) == (ExitCode.USAGE, True)
    assert "no column" in seerctl("inspect", shards, "--sheet", tmp_path / "y.png", "--sheet-by", "labl").stderr
    assert seerctl("inspect", shards, "--sheet-by", "label").exit_code == ExitCode.USAGE


def test_pictures_on_a_sheet_are_upright_and_what_cannot_be_decoded_has_a_place(seerctl: Run, tmp_path: Path) -> None:
    tall = Image.new("RGB", (100, 50), (255, 0, 0))
    tall.paste((0, 0, 255), (0, 0, 50, 50))
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise: the left half comes to the top
    tall.save(file, "JPEG", quality=95, exif=exif)
    samples = [(data, meta_of(data, f"{name}.jpg")) for name, data in (("a", file.getvalue()), ("b", b"no picture"))]
    shards_of(tmp_path / "set", stream_of(samples))
    result = seerctl("inspect", tmp_path / "set", "--sheet", tmp_path / "sheet.png", "--sheet-count", 2)
    assert "1 of them cannot be decoded" in result.stderr
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red = np.argwhere((pixels[:, :, 0] > 200) & (pixels[:, :, 2] < 60))
    blue = np.argwhere((pixels[:, :, 2] > 200) & (pixels[:, :, 0] < 60))
    assert len(red) > 1000
    assert blue[:, 0].max() < red[:, 0].min() + 4


def test_pairs_between_two_sets_are_listed(seerctl: Run, tmp_path: Path) -> None:
    def encoded(number: int, quality: int) -> bytes:
        file = io.BytesIO()
        draw(number, 96, 80).save(file, "JPEG", quality=quality)
        return file.getvalue()

    for name, numbers, quality in (("train", range(8), 90), ("test", range(5, 12), 60)):
        samples = [(data, meta_of(data, f"{name}/{number}.jpg")) for number in numbers
                   for data in (encoded(number, quality),)]  # fmt: skip
        samples += [(data, meta_of(data, f"{name}/blank.png")) for data in (b"no picture at all",)]
        shards_of(tmp_path / name, stream_of(samples))
    result = seerctl("inspect", tmp_path / "train", "--duplicates", tmp_path / "test", "-o", tmp_path / "pairs.jsonl",
                     "--output-format", "json", "-j", 1)  # fmt: skip
    found = json.loads(result.stdout)
    assert (found["pairs"], found["other_pictures_in_pairs"], found["other_pictures"]) == (4, 4, 8)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert rows == found["listed"]
    assert {(row["source"], row["other_source"]) for row in rows} == {
        *((f"train/{number}.jpg", f"test/{number}.jpg") for number in (5, 6, 7)), ("train/blank.png", "test/blank.png"),
    }  # fmt: skip
    assert [row["same_bytes"] for row in rows] == [False, False, False, True]
    text = seerctl("inspect", tmp_path / "train", "--duplicates", tmp_path / "train", "-j", 1).stdout
    assert text.startswith(f"0 pairs within {tmp_path / 'train'}")
    assert seerctl("inspect", tmp_path / "train", "-o", tmp_path / "x").exit_code == ExitCode.USAGE
