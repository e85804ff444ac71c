"""Random access to a shard set, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from seerctl.errors import InputError
from seerctl.shards.index import ShardSet
from seerctl.shards.split import Split
from tests.streams import numbered, set_of, shards_of, stream_of


def test_every_sample_is_read_by_position(tmp_path: Path) -> None:
    with set_of(tmp_path / "set", 25, maxcount=4) as shards:
        wanted = numbered(range(25))
        assert len(shards) == 25
        assert shards.columns == ("label", "size")
        for position in (24, 0, 3, 4, 13, *range(25)):
            sample = shards.read(position)
            assert (sample.image, sample.meta, sample.ext) == (*wanted[position], "jpg")
        assert [sample.image for sample in shards] == [data for data, _ in wanted]
        for position in (-1, 25):
            with pytest.raises(IndexError):
                shards.read(position)


def test_it_opens_by_directory_or_index_and_is_named_by_its_hash(tmp_path: Path) -> None:
    shards = set_of(tmp_path / "set", 3)
    other = ShardSet.open(str(tmp_path / "set" / "index.json"))
    assert other.sha256 == shards.sha256
    assert other.location == shards.location == str(tmp_path / "set")
    assert set_of(tmp_path / "again", 3).sha256 == shards.sha256
    assert set_of(tmp_path / "more", 4).sha256 != shards.sha256


def test_it_survives_pickling_and_forking(tmp_path: Path) -> None:
    shards = set_of(tmp_path / "set", 9, maxcount=2)
    before = shards.read(5)
    copy = pickle.loads(pickle.dumps(shards))
    assert copy.read(5) == before
    child = os.fork()
    if not child:
        os._exit(0 if [shards.read(place).key for place in range(9)] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert shards.read(5) == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_few_descriptors_are_held_for_many_shards(tmp_path: Path) -> None:
    shards = set_of(tmp_path / "set", 100, maxcount=1)
    before = descriptors()
    keys = {shards.read(place).key for place in range(100)}
    assert len(keys) == 100
    assert descriptors() - before <= 128
    shards.close()
    assert descriptors() == before
    assert shards.read(7).key in keys


def damage(path: Path, at: int, to: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(to)


def test_damage_names_the_shard(tmp_path: Path) -> None:
    shards = set_of(tmp_path / "set", 9, maxcount=3)
    second = tmp_path / "set" / "shard-000001.tar"
    damage(second, 3, b"?")
    assert shards.read(0).key
    with pytest.raises(InputError, match=r"shard-000001\.tar: damaged at byte 0: checksum"):
        shards.read(3)
    assert shards.read(4).key
    second.write_bytes(second.read_bytes()[:-512])
    with pytest.raises(InputError, match=r"shard-000001\.tar: \d+ bytes, not \d+"):
        ShardSet.open(tmp_path / "set").read(5)
    second.unlink()
    with pytest.raises(InputError, match=r"shard-000001\.tar: the shard is missing"):
        ShardSet.open(tmp_path / "set").read(5)


def test_wrong_offsets_are_noticed(tmp_path: Path) -> None:
    set_of(tmp_path / "set", 9, maxcount=3).close()
    offsets = tmp_path / "set" / "shard-000000.tar.idx"
    damage(offsets, 8, (10**9 * 512).to_bytes(8, "little"))
    for position in (0, 1):
        with pytest.raises(InputError, match="shard-000000"):
            ShardSet.open(tmp_path / "set").read(position)
    damage(offsets, 8, (512).to_bytes(8, "little"))
    with pytest.raises(InputError, match="shard-000000"):
        ShardSet.open(tmp_path / "set").read(0)
    offsets.unlink()
    with pytest.raises(InputError, match=r"shard-000000\.tar\.idx: the shard is missing"):
        ShardSet.open(tmp_path / "set").read(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"__kind__": "other"}, "not the index of a seerctl shard set"),
        ({"schema": "seer-shards-9"}, "not the index of a seerctl shard set"),
        ({"total": 10}, "contradict"),
        ({"shardlist": [{"url": "../../etc/passwd", "nsamples": 9, "filesize": 1, "sha256": "0" * 64}]}, "contradict"),
        ({"shardlist": [{"url": "a.tar", "nsamples": "9"}]}, "contradict"),
        ({"shardlist": 5}, "contradict"),
        ({"columns": []}, "contradict"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    set_of(tmp_path / "set", 9).close()
    path = tmp_path / "set" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=words):
        ShardSet.open(path)


def test_what_is_no_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such shard set"):
        ShardSet.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no index\.json"):
        ShardSet.open(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        ShardSet.open(tmp_path)
    shards_of(tmp_path / "split", stream_of(numbered(range(30))), split=Split.parse("train=0.5,val=0.5"))
    with pytest.raises(InputError, match=r"holds the splits train, val. Name one of them: .*train"):
        ShardSet.open(tmp_path / "split")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "shard-000000.tar.partial").touch()
    with pytest.raises(InputError, match="broke off"):
        ShardSet.open(tmp_path / "broken")
