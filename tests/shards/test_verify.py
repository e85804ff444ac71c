"""`verify` finds every damage and says where it is."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from seerctl.shards.index import ShardSet
from seerctl.shards.verify import describe, verify
from seerctl.stream import ustar
from seerctl.stream.records import compact, encode_sample
from tests.streams import meta_of, numbered, set_of


def faults(directory: Path) -> list[str]:
    with ShardSet.open(directory) as shards:
        return [str(damage) for damage in verify(shards)]


def test_a_sound_set_has_no_faults(tmp_path: Path) -> None:
    seen: list[int] = []
    with set_of(tmp_path, 20, maxcount=7) as shards:
        assert verify(shards, seen.append) == []
    assert sum(seen) == 20


def test_every_changed_bit_is_found_and_placed(tmp_path: Path) -> None:
    set_of(tmp_path, 12, maxcount=4).close()
    generator = random.Random(5)
    paths = sorted(tmp_path.glob("*.tar"))
    for _ in range(400):
        path = generator.choice(paths)
        whole = path.read_bytes()
        bit = generator.randrange(8 * len(whole))
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        found = faults(tmp_path)
        assert found
        assert all(fault.startswith(path.name) for fault in found)
        path.write_bytes(whole)
    assert faults(tmp_path) == []


def test_a_cut_at_any_block_is_found(tmp_path: Path) -> None:
    set_of(tmp_path, 6).close()
    path = tmp_path / "shard-000000.tar"
    whole = path.read_bytes()
    for cut in range(0, len(whole), ustar.BLOCK):
        path.write_bytes(whole[:cut])
        assert any("bytes, not" in fault for fault in faults(tmp_path))
    path.unlink()
    assert faults(tmp_path) == ["shard-000000.tar: it is missing"]


def test_wrong_offsets_are_found(tmp_path: Path) -> None:
    set_of(tmp_path, 6).close()
    path = tmp_path / "shard-000000.tar.idx"
    whole = path.read_bytes()
    for broken in (b"", whole[:-8], whole[:-1], whole[8:16] + whole[8:], whole[:8] + whole[16:24] + whole[16:]):
        path.write_bytes(broken)
        assert any(fault.startswith("shard-000000.tar.idx: ") for fault in faults(tmp_path))
    path.unlink()
    assert "No such file" in faults(tmp_path)[0]


def test_damage_names_its_sample(tmp_path: Path) -> None:
    with set_of(tmp_path, 6) as shards:
        raw = (tmp_path / "shard-000000.tar").read_bytes()
        key = shards.read(3).key
    at = raw.index(shards.read(3).image)
    start = at - ustar.BLOCK
    (tmp_path / "shard-000000.tar").write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    assert faults(tmp_path) == [
        f"shard-000000.tar sample 3 at byte {start}: the bytes of {key}.jpg are not those of its sha256",
        "shard-000000.tar: its SHA-256 is not the one in the index",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": {"label": {"type": "string", "count": 6, "values": {"a": 6}}}}, "columns, formats or sides"),
        ({"formats": {"PNG": 6}}, "columns, formats or sides"),
        ({"sides": {"short": {"9": 6}, "long": {"10": 6}}}, "columns, formats or sides"),
    ],
)
def test_an_index_that_lies_is_found(tmp_path: Path, change: dict[str, object], words: str) -> None:
    set_of(tmp_path, 6).close()
    path = tmp_path / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert len(faults(tmp_path)) == 1
    assert words in faults(tmp_path)[0]


def test_a_key_of_another_source_is_found(tmp_path: Path) -> None:
    with set_of(tmp_path, 1) as shards:
        old = shards.read(0)
    path = tmp_path / "shard-000000.tar"
    meta = meta_of(old.image, "elsewhere.jpg")
    other = compact({**meta, "columns": old.meta["columns"]})
    raw = encode_sample(old.image, "jpg", old.meta)[0][: ustar.BLOCK + ustar.padded(len(old.image))]
    path.write_bytes(raw + ustar.member(f"{old.key}.json", other) + ustar.END)
    assert any(f"the key {old.key} is not that of its sha256 and source" in fault for fault in faults(tmp_path))


def test_describe_counts_what_is_there(tmp_path: Path) -> None:
    with set_of(tmp_path, 10, maxcount=4) as shards:
        found = describe(shards)
        assert found["index_sha256"] == shards.sha256
    assert (found["samples"], found["shards"], found["formats"]) == (10, 3, {"JPEG": 10})
    assert {name: (of["min"], of["median"], of["max"]) for name, of in found["sides"].items()} == {
        "width": (8, 8, 8), "height": (10, 10, 10), "short": (8, 8, 8), "long": (10, 10, 10),
    }  # fmt: skip
    assert found["modes"] == {"RGB": 10}
    assert found["columns"]["label"]["values"] == {"a": 4, "b": 3, "c": 3}
    assert found["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert numbered([0])[0][1]["columns"]["even"] is None
    assert "even" not in found["columns"]
