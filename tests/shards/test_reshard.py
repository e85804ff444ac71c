"""Shard sets as the input of `shard`: merged, cut and ordered anew, with what they know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import InputError, UsageError
from seerctl.shards.drop import Entry, drop_samples
from seerctl.shards.index import ShardSet
from seerctl.shards.setwriter import ShardOptions
from seerctl.shards.shuffle import Shuffle
from seerctl.shards.split import Split
from seerctl.shards.verify import verify
from seerctl.shards.writer import ShardReport, write_shards
from tests.feature_files import picture_shards
from tests.streams import listing, numbered, set_of, shards_of, stream_of

SPLIT = Split.parse("train=0.7,val=0.3")


def reshard(output: Path, *sets: Path, **options: Any) -> ShardReport:
    return write_shards((), output, ShardOptions(**options), None, sets)


def index_of(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "index.json").read_text()))


def samples_of(directory: Path) -> list[tuple[str, bytes, dict[str, Any]]]:
    with ShardSet.open(directory) as shards:
        assert verify(shards) == []
        return [(sample.key, sample.image, sample.meta) for sample in shards]


def test_a_set_is_cut_anew_and_names_what_it_was_made_of(tmp_path: Path) -> None:
    set_of(tmp_path / "old", 30, maxcount=20).close()
    before = listing(tmp_path / "old")
    report = reshard(tmp_path / "new", tmp_path / "old", maxcount=7)
    assert (report.samples, report.shards, report.duplicates) == (30, 5, 0)
    assert samples_of(tmp_path / "new") == samples_of(tmp_path / "old")
    old, new = index_of(tmp_path / "old"), index_of(tmp_path / "new")
    with ShardSet.open(tmp_path / "old") as shards:
        assert new["lineage"]["resharded"] == [{"index_sha256": shards.sha256, "samples": 30}]
        assert new["lineage"]["history"] == [{"index_sha256": shards.sha256, "by": "reshard"}]
    assert new["lineage"]["streams"] == old["lineage"]["streams"]
    assert all(new[name] == old[name] for name in ("total", "columns", "formats", "sides", "sizes", "modes"))
    assert listing(tmp_path / "old") == before


def test_shuffling_a_set_gives_what_shuffling_its_stream_gives(tmp_path: Path) -> None:
    shards_of(tmp_path / "old", stream_of(numbered(range(60))))
    shards_of(tmp_path / "direct", stream_of(numbered(range(60))), maxcount=25, shuffle=Shuffle(5))
    reshard(tmp_path / "new", tmp_path / "old", maxcount=25, shuffle=Shuffle(5))
    direct, new = listing(tmp_path / "direct"), listing(tmp_path / "new")
    del direct["index.json"], new["index.json"]
    assert direct == new


def test_several_sets_and_a_stream_become_one(tmp_path: Path) -> None:
    shards_of(tmp_path / "a", stream_of(numbered(range(20)), rejects={"damaged": 2}))
    shards_of(tmp_path / "b", stream_of(numbered(range(10, 30)), rejects={"damaged": 1, "empty": 4}))
    (tmp_path / "c.tar").write_bytes(stream_of(numbered(range(25, 40))))
    with (tmp_path / "c.tar").open("rb") as file:
        report = write_shards([("c", file)], tmp_path / "new", ShardOptions(), None, [tmp_path / "a", tmp_path / "b"])
    assert (report.samples, report.duplicates, report.sets) == (55, 15, {"": 40})
    index = index_of(tmp_path / "new")
    assert index["rejects"] == {"damaged": 3, "empty": 4}
    assert [stream["samples"] for stream in index["lineage"]["streams"]] == [20, 20, 15]
    assert [one["samples"] for one in index["lineage"]["resharded"]] == [20, 20]


def test_splits_stay_as_they_are_or_are_dealt_anew(tmp_path: Path) -> None:
    shards_of(tmp_path / "old", stream_of(numbered(range(60))), split=SPLIT)
    reshard(tmp_path / "new", tmp_path / "old", maxcount=5, shuffle=Shuffle())
    for name in SPLIT.names:
        one, two = samples_of(tmp_path / "old" / name), samples_of(tmp_path / "new" / name)
        assert sorted(key for key, _, _ in one) == sorted(key for key, _, _ in two)
        assert index_of(tmp_path / "new" / name)["split"] == index_of(tmp_path / "old" / name)["split"]
    assert sum(reshard(tmp_path / "dealt", tmp_path / "old", split=Split.parse("a=0.5,b=0.5")).sets.values()) == 60
    shards_of(tmp_path / "new", stream_of(numbered(range(60, 70))), split=SPLIT, append=True)
    reshard(tmp_path / "one", tmp_path / "old" / "train")
    assert "split" not in index_of(tmp_path / "one")


def test_splits_by_hand_keep_their_names(tmp_path: Path) -> None:
    for name, numbers in (("train", range(20)), ("test", range(20, 25))):
        shards_of(tmp_path / "old" / name, stream_of(numbered(numbers)))
    assert reshard(tmp_path / "new", tmp_path / "old").sets == {"test": 5, "train": 20}
    assert reshard(tmp_path / "new", tmp_path / "old", append=True).duplicates == 25


def test_what_was_split_otherwise_is_not_mixed(tmp_path: Path) -> None:
    shards_of(tmp_path / "a", stream_of(numbered(range(20))), split=SPLIT)
    shards_of(tmp_path / "b", stream_of(numbered(range(20))), split=Split.parse("train=0.6,val=0.4"))
    shards_of(tmp_path / "c", stream_of(numbered(range(20))))
    for sets in (("a", "b"), ("a", "c")):
        with pytest.raises(UsageError, match="not split in the same way"):
            reshard(tmp_path / "new", *(tmp_path / name for name in sets))
    assert sum(reshard(tmp_path / "new", tmp_path / "a", tmp_path / "b", split=SPLIT).sets.values()) == 20


def test_a_set_is_never_written_over_itself(tmp_path: Path) -> None:
    shards_of(tmp_path / "old", stream_of(numbered(range(20))), split=SPLIT)
    before = listing(tmp_path)
    for output in (tmp_path / "old", tmp_path / "old" / "train", tmp_path / "old" / "train" / "new", tmp_path):
        with pytest.raises(UsageError, match="is what would be written over"):
            reshard(output, tmp_path / "old", overwrite=True)
    assert listing(tmp_path) == before


def test_what_was_dropped_stays_out_of_all(tmp_path: Path) -> None:
    set_of(tmp_path / "a", 20).close()
    set_of(tmp_path / "b", 20).close()
    gone = samples_of(tmp_path / "a")[3]
    drop_samples(tmp_path / "b", [Entry("sha256", gone[2]["sha256"])])
    report = reshard(tmp_path / "new", tmp_path / "a", tmp_path / "b")
    assert (report.refused, report.sets[""]) == (1, 19)
    assert gone[0] not in [key for key, _, _ in samples_of(tmp_path / "new")]
    assert [row["key"] for row in index_of(tmp_path / "new")["dropped"]] == [gone[0]]
    shards_of(tmp_path / "new", stream_of(numbered(range(20))), append=True)
    assert len(samples_of(tmp_path / "new")) == 19


def test_the_list_of_near_duplicates_goes_along(tmp_path: Path) -> None:
    picture_shards(tmp_path / "pictures", 6)
    reshard(tmp_path / "a", tmp_path / "pictures", near=14, jobs=1)
    told = index_of(tmp_path / "a")["near_duplicates"]
    lines = (tmp_path / "a" / "duplicates.jsonl").read_bytes() if told["left_out"] else b""
    reshard(tmp_path / "b", tmp_path / "a")
    assert index_of(tmp_path / "b")["near_duplicates"] == told
    assert not lines or (tmp_path / "b" / "duplicates.jsonl").read_bytes() == lines


def test_damage_is_noticed_on_the_way(tmp_path: Path) -> None:
    set_of(tmp_path / "old", 12, maxcount=5).close()
    path = tmp_path / "old" / "shard-000001.tar"
    whole = path.read_bytes()
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 97)]
    for broken in (whole[:-512], whole + bytes(512), b"", *changed):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"shard-000001\.tar"):
            reshard(tmp_path / "new", tmp_path / "old", overwrite=True)
        assert not (tmp_path / "new" / "index.json").exists()
    path.unlink()
    with pytest.raises(InputError, match="the shard is missing"):
        reshard(tmp_path / "new", tmp_path / "old", overwrite=True)
    path.write_bytes(whole)
    assert reshard(tmp_path / "new", tmp_path / "old").sets == {"": 12}
