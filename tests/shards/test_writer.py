"""Shard sets: cut where asked, whole or absent, the same bytes for the same streams."""

from __future__ import annotations

import array
import hashlib
import json
import os
import resource
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import EnvironmentFault, InputError, UsageError
from seerctl.shards.index import ShardSet
from seerctl.shards.lock import LOCK, write_lock
from seerctl.shards.split import Split
from seerctl.shards.verify import verify
from seerctl.stream import ustar
from seerctl.stream.reader import IncompleteStreamError
from tests.streams import listing, numbered, shards_of, stream_of


def index_of(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "index.json").read_text()))


def keys_of(directory: Path) -> list[str]:
    with ShardSet.open(directory) as shards:
        assert verify(shards) == []
        return [sample.key for sample in shards]


def test_a_set_is_plain_tars_with_an_index_and_offsets(tmp_path: Path) -> None:
    report = shards_of(tmp_path, stream_of(numbered(range(10)), rejects={"damaged": 1}), maxcount=4)
    assert sorted(listing(tmp_path)) == sorted(
        ["index.json", *(f"shard-00000{n}.tar{end}" for n in range(3) for end in ("", ".idx"))]
    )
    index = index_of(tmp_path)
    assert (index["__kind__"], index["wids_version"], index["total"]) == ("wids-shard-index-v1", 1, 10)
    assert [shard["nsamples"] for shard in index["shardlist"]] == [4, 4, 2]
    assert index["rejects"] == {"damaged": 1}
    assert index["columns"]["label"] == {"type": "string", "count": 10, "values": {"a": 4, "b": 3, "c": 3}}
    assert index["columns"]["size"]["min"] == 0
    assert index["columns"]["size"]["max"] == 9
    assert (report.samples, report.shards, report.sets) == (10, 3, {"": 10})
    for shard in index["shardlist"]:
        data = (tmp_path / shard["url"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["filesize"], shard["sha256"])
        assert data.endswith(ustar.END)
        offsets = array.array("Q", (tmp_path / f"{shard['url']}.idx").read_bytes())
        with tarfile.open(tmp_path / shard["url"]) as tar:
            starts = [member.offset for member in tar if not member.name.endswith(".json")]
        assert offsets.tolist() == [*starts, len(data) - len(ustar.END)]


def test_shards_stay_below_maxsize(tmp_path: Path) -> None:
    shards_of(tmp_path, stream_of(numbered(range(30))), maxsize=9000)
    sizes = [shard["filesize"] for shard in index_of(tmp_path)["shardlist"]]
    assert len(sizes) > 5
    assert max(sizes) <= 9000
    shards_of(tmp_path / "tiny", stream_of(numbered(range(3))), maxsize=1)
    assert [shard["nsamples"] for shard in index_of(tmp_path / "tiny")["shardlist"]] == [1, 1, 1]


def test_the_same_streams_give_the_same_bytes(tmp_path: Path) -> None:
    streams = [stream_of(numbered(range(9))), stream_of(numbered(range(9, 20)))]
    shards_of(tmp_path / "one", *streams, maxcount=6)
    shards_of(tmp_path / "two", b"".join(streams), maxcount=6)
    assert listing(tmp_path / "one") == listing(tmp_path / "two")


def test_a_key_that_comes_twice_is_kept_once_and_counted(tmp_path: Path) -> None:
    report = shards_of(tmp_path, stream_of(numbered([1, 2, 1])), stream_of(numbered([2, 3])))
    assert (report.samples, report.duplicates, report.sets[""]) == (5, 2, 3)
    assert index_of(tmp_path)["duplicates"] == 2
    assert len(keys_of(tmp_path)) == 3


def test_append_goes_on_where_the_set_ended(tmp_path: Path) -> None:
    shards_of(tmp_path / "set", stream_of(numbered(range(5)), rejects={"empty": 1}), maxcount=4)
    before = listing(tmp_path / "set")
    report = shards_of(
        tmp_path / "set", stream_of(numbered(range(3, 9)), rejects={"empty": 2}), maxcount=4, append=True
    )
    assert (report.samples, report.duplicates, report.sets[""], report.shards) == (6, 2, 9, 3)
    after = listing(tmp_path / "set")
    assert {name: after[name] for name in before if name != "index.json"} == {
        name: data for name, data in before.items() if name != "index.json"
    }
    index = index_of(tmp_path / "set")
    assert [shard["nsamples"] for shard in index["shardlist"]] == [4, 1, 4]
    assert index["rejects"] == {"empty": 3}
    assert [stream["samples"] for stream in index["lineage"]["streams"]] == [5, 6]
    shards_of(tmp_path / "once", stream_of(numbered(range(9))))
    once = index_of(tmp_path / "once")
    assert all(index[name] == once[name] for name in ("total", "columns", "formats", "sides"))
    assert len(keys_of(tmp_path / "set")) == 9


def test_appending_nothing_new_changes_nothing(tmp_path: Path) -> None:
    shards_of(tmp_path, stream_of(numbered(range(5))))
    before = listing(tmp_path)
    assert shards_of(tmp_path, stream_of(numbered(range(5))), append=True).duplicates == 5
    assert listing(tmp_path) == before


def test_append_begins_a_set_where_there_is_none(tmp_path: Path) -> None:
    shards_of(tmp_path / "set", stream_of(numbered(range(5))), append=True)
    assert len(keys_of(tmp_path / "set")) == 5


def test_what_exists_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    shards_of(tmp_path, stream_of(numbered(range(9))), maxcount=2)
    before = listing(tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        shards_of(tmp_path, stream_of(numbered(range(3))))
    assert listing(tmp_path) == before
    (tmp_path / "notes.txt").write_text("mine")
    shards_of(tmp_path, stream_of(numbered(range(3))), maxcount=2, overwrite=True)
    assert sorted(listing(tmp_path)) == sorted(
        ["index.json", "notes.txt", *(f"shard-00000{n}.tar{end}" for n in range(2) for end in ("", ".idx"))]
    )
    assert len(keys_of(tmp_path)) == 3
    with pytest.raises(UsageError, match="exclude each other"):
        shards_of(tmp_path, append=True, overwrite=True)


def test_a_failed_overwrite_leaves_the_old_set(tmp_path: Path) -> None:
    shards_of(tmp_path, stream_of(numbered(range(9))), maxcount=2)
    before = listing(tmp_path)
    with pytest.raises(InputError):
        shards_of(tmp_path, stream_of(numbered(range(20, 40)))[:-700], maxcount=2, overwrite=True)
    after = listing(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name.rpartition(".")[2] for name in set(after) - set(before)} == {"partial"}


@pytest.mark.parametrize("cut", [0, 600, 5000, -1, -513, -1024, -2000])
def test_an_incomplete_stream_leaves_only_partial_files(tmp_path: Path, cut: int) -> None:
    whole = stream_of(numbered(range(20)))
    with pytest.raises(IncompleteStreamError):
        shards_of(tmp_path / "set", whole[:cut], maxcount=3)
    assert all(name.endswith(".partial") for name in listing(tmp_path / "set"))
    with pytest.raises(InputError):
        ShardSet.open(tmp_path / "set")
    shards_of(tmp_path / "set", whole, maxcount=3)  # what was left is no obstacle, and goes
    assert not [name for name in listing(tmp_path / "set") if name.endswith((".partial", ".tmp"))]
    assert len(keys_of(tmp_path / "set")) == 20


def test_a_missing_stream_is_noticed(tmp_path: Path) -> None:
    streams = [stream_of(numbered([number])) for number in range(3)]
    with pytest.raises(IncompleteStreamError, match="2 whole streams came, --streams says 3"):
        shards_of(tmp_path / "set", *streams[:2], streams=3)
    assert shards_of(tmp_path / "set", *streams, streams=3).streams == 3


def test_no_sample_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sample came"):
        shards_of(tmp_path / "set", stream_of([]))
    assert listing(tmp_path / "set") == {}


def test_splits_are_whole_sets_cut_by_content(tmp_path: Path) -> None:
    split = Split.parse("train=0.6,val=0.3,test=0.1")
    report = shards_of(tmp_path / "one", stream_of(numbered(range(300))), split=split, maxcount=50)
    keys = {name: keys_of(tmp_path / "one" / name) for name in split.names}
    assert report.sets == {name: len(found) for name, found in keys.items()}
    assert sum(report.sets.values()) == 300
    assert [
        abs(report.sets[name] / 300 - share) < 0.1 for name, share in zip(split.names, (0.6, 0.3, 0.1), strict=True)
    ]
    for name, found in keys.items():
        assert {split.choose(key) for key in found} == {name}
    # Twins from other places stay with their original, and another run moves nothing.
    twins = [
        (data, {**meta, "source": f"copy/{number}.jpg"}) for number, (data, meta) in enumerate(numbered(range(300)))
    ]
    shards_of(tmp_path / "two", stream_of(numbered(range(300))), stream_of(twins), split=split)
    for name, found in keys.items():
        again = Counter(key[:16] for key in keys_of(tmp_path / "two" / name))
        assert again == {key[:16]: 2 for key in found}


def test_splits_are_appended_to_with_the_same_split(tmp_path: Path) -> None:
    split = Split.parse("a=0.5,b=0.5")
    shards_of(tmp_path, stream_of(numbered(range(20))), split=split)
    assert sum(shards_of(tmp_path, stream_of(numbered(range(10, 40))), split=split, append=True).sets.values()) == 40
    for options in ({}, {"split": Split.parse("a=0.4,b=0.6")}):
        with pytest.raises(UsageError, match="Append with the same --split"):
            shards_of(tmp_path, stream_of(numbered(range(9))), append=True, **options)
    shards_of(tmp_path, stream_of(numbered(range(9))), overwrite=True)
    assert sorted(listing(tmp_path)) == ["index.json", "shard-000000.tar", "shard-000000.tar.idx"]


def test_one_writer_to_a_directory(tmp_path: Path) -> None:
    with write_lock(tmp_path), pytest.raises(EnvironmentFault, match="another seerctl is writing here"):
        shards_of(tmp_path, stream_of(numbered(range(3))))
    shards_of(tmp_path, stream_of(numbered(range(3))))
    assert LOCK not in listing(tmp_path)


def test_a_full_disk_leaves_nothing_under_a_final_name(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, hard))
    try:
        with pytest.raises(EnvironmentFault, match=r"shard-00000\d\.tar"):
            shards_of(tmp_path / "set", stream_of(numbered(range(200))), maxcount=150)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(name.endswith(".partial") for name in listing(tmp_path / "set"))


def test_a_removal_of_stale_shards_that_was_broken_off_is_finished(tmp_path: Path) -> None:
    directory = tmp_path / "set"
    shards_of(directory, stream_of(numbered(range(30))), maxcount=1)
    old = (directory / "index.json").read_bytes()
    stale = (directory / "shard-000029.tar").read_bytes()
    shards_of(directory, stream_of(numbered(range(20))), maxcount=1, overwrite=True)
    (directory / "index.json.replaced").write_bytes(old)  # as a kill between the new index and the end leaves it
    (directory / "shard-000029.tar").write_bytes(stale)
    shards_of(directory, stream_of(numbered(range(5))), maxcount=1, overwrite=True)
    assert sorted(listing(directory)) == sorted(
        ["index.json", *(f"shard-00000{n}.tar{end}" for n in range(5) for end in ("", ".idx"))]
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_no_permission_is_the_environment(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentFault, match="permission denied"):
        shards_of(tmp_path / "set", stream_of(numbered(range(3))))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train=0.9", "sum to 0.9"),
        ("train=0.9,val", "'val' is no NAME=SHARE"),
        ("train=0.9,val=x", "'val=x' is no NAME=SHARE"),
        ("train=1.1,val=-0.1", "positive"),
        ("a=0.5,a=0.5", "differ"),
        ("../a=0.5,b=0.5", "differ"),
        ("a=1/0,b=1", "no NAME=SHARE"),
        ("", "no NAME=SHARE"),
    ],
)
def test_odd_splits_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Split.parse(text)


def test_splits_may_be_fractions() -> None:
    assert Split.parse("a=1/3,b=1/3,c=1/3").choose("ff" * 8) == "c"
    assert Split.parse("a=0.1,b=0.2,c=0.7").choose("00" * 8) == "a"
