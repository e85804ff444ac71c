"""Dropping samples on request: gone for good, the rest untouched, whole whenever the process dies."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import EnvironmentFault, InputError
from seerctl.shards import leftovers
from seerctl.shards.drop import DropReport, Entry, drop_samples, next_revision, read_entries
from seerctl.shards.index import ShardSet
from seerctl.shards.lock import write_lock
from seerctl.shards.split import Split
from seerctl.shards.verify import describe, verify
from tests.feature_files import picture_shards
from tests.streams import listing, meta_of, numbered, shards_of, stream_of


def index_of(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "index.json").read_text()))


def sources_of(directory: Path) -> list[str]:
    with ShardSet.open(directory) as shards:
        assert verify(shards) == []
        return [sample.meta["source"] for sample in shards]


def source(number: int) -> str:
    return f"pictures/{number}.jpg"


def drop(where: Path, *entries: tuple[str, str]) -> DropReport:
    return drop_samples(where, [Entry(*entry) for entry in entries])


def make(where: Path, count: int = 20, **options: Any) -> Path:
    shards_of(where, stream_of(numbered(range(count))), maxcount=options.pop("maxcount", 5), **options)
    return where


def test_samples_go_by_source_key_and_hash_and_only_their_shards_change(tmp_path: Path) -> None:
    where = make(tmp_path / "set")
    before, old = listing(where), index_of(where)
    with ShardSet.open(where) as shards:
        by_key, by_hash = shards.read(7), shards.read(6)
        sha256 = shards.sha256
    report = drop(where, ("source", source(16)), ("key", by_key.key), ("sha256", by_hash.meta["sha256"]))
    assert (report.samples, report.rewritten, report.removed, report.unknown) == (3, 2, 0, ())
    assert sources_of(where) == [source(number) for number in range(20) if number not in (6, 7, 16)]
    after, index = listing(where), index_of(where)
    kept = [name for name in after if name.startswith(("shard-000000", "shard-000002")) and "-r" not in name]
    assert len(kept) == 4
    assert all(after[name] == before[name] for name in kept)
    assert sorted(after) == sorted(
        ["index.json", *(f"{name}{end}" for name in [s["url"] for s in index["shardlist"]] for end in ("", ".idx"))]
    )
    assert [shard["url"] for shard in index["shardlist"]] == [
        "shard-000000.tar", "shard-000001-r1.tar", "shard-000002.tar", "shard-000003-r1.tar",
    ]  # fmt: skip
    assert {record["key"] for record in index["dropped"]} >= {by_key.key, by_hash.key}
    assert {record["index_sha256"] for record in index["dropped"]} == {sha256}
    assert index["lineage"]["history"] == [{"index_sha256": sha256, "by": "drop"}]
    assert index["lineage"]["streams"] == old["lineage"]["streams"]
    for data in after.values():
        assert source(16).encode() not in data
        assert by_key.image not in data
    assert describe(ShardSet.open(where))["dropped"] == 3


def test_what_is_left_is_what_writing_without_them_would_have_given(tmp_path: Path) -> None:
    where = make(tmp_path / "set", 12)
    drop(where, ("source", source(3)), ("source", source(8)))
    shards_of(tmp_path / "other", stream_of(numbered(n for n in range(12) if n not in (3, 8))))
    index, other = index_of(where), index_of(tmp_path / "other")
    assert all(index[name] == other[name] for name in ("total", "columns", "formats", "sides"))


def test_a_second_drop_finds_nothing_new_and_says_what_is_unknown(tmp_path: Path) -> None:
    where = make(tmp_path / "set")
    entries = [("source", source(3)), ("source", "who/knows.jpg"), ("sha256", "0" * 64)]
    with ShardSet.open(where) as shards:
        entries.append(("sha256", shards.read(4).meta["sha256"]))
    first = drop(where, *entries)
    assert (first.samples, first.before, first.unknown) == (2, 0, ("0" * 64, "who/knows.jpg"))
    before = listing(where)
    second = drop(where, *entries)
    assert (second.samples, second.before, second.unknown) == (0, 2, ("0" * 64, "who/knows.jpg"))
    assert listing(where) == before
    again = drop(where / "index.json", ("source", source(5)))
    assert again.samples == 1
    assert "shard-000001-r1.tar" in listing(where)
    assert len(index_of(where)["lineage"]["history"]) == 2


def test_a_shard_that_becomes_empty_goes_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    where = make(tmp_path / "set")
    report = drop(where, *(("source", source(number)) for number in range(5, 10)))
    assert (report.rewritten, report.removed) == (0, 1)
    assert [s["url"] for s in index_of(where)["shardlist"]] == [f"shard-00000{n}.tar" for n in (0, 2, 3)]
    grown = shards_of(where, stream_of(numbered(range(30, 36))), maxcount=5, append=True)
    assert grown.shards == 5
    assert sources_of(where) == [source(n) for n in [*range(5), *range(10, 20), *range(30, 36)]]
    drop(where, *(("source", source(number)) for number in range(36)))
    assert index_of(where)["shardlist"] == []
    assert index_of(where)["total"] == 0
    assert sources_of(where) == []


def test_what_was_dropped_does_not_come_back_by_append(tmp_path: Path) -> None:
    where = make(tmp_path / "set", 10)
    drop(where, ("source", source(3)))
    history = [index_of(where)["lineage"]["history"][0], {"index_sha256": ShardSet.open(where).sha256, "by": "append"}]
    report = shards_of(where, stream_of(numbered(range(12))), append=True)
    assert (report.samples, report.duplicates, report.refused, report.sets[""]) == (12, 9, 1, 11)
    assert source(3) not in sources_of(where)
    assert [record["key"] for record in index_of(where)["dropped"]]
    assert index_of(where)["lineage"]["history"] == history


def test_splits_are_searched_together(tmp_path: Path) -> None:
    where = tmp_path / "set"
    shards_of(where, stream_of(numbered(range(30))), split=Split.parse("train=0.5,val=0.5"), maxcount=5)
    train, val = sources_of(where / "train"), sources_of(where / "val")
    report = drop(where, ("source", train[3]), ("source", val[0]), ("source", val[1]), ("source", "nobody"))
    assert report.sets == {"train": 1, "val": 2}
    assert report.unknown == ("nobody",)
    assert train[3] not in sources_of(where / "train")
    assert sources_of(where / "val") == val[2:]
    assert index_of(where / "val")["split"]["name"] == "val"
    assert drop(where / "train", ("source", train[0])).samples == 1
    with write_lock(where), pytest.raises(EnvironmentFault, match="another seerctl"):
        drop(where / "train", ("source", train[1]))


def test_twins_and_reencoded_originals(tmp_path: Path) -> None:
    data, original = b"the same bytes", hashlib.sha256(b"as it was").hexdigest()
    samples = [
        (data, meta_of(data, "a.jpg")),
        (data, meta_of(data, "b.jpg")),
        (b"smaller", {**meta_of(b"smaller", "c.jpg"), "orig_sha256": original}),
        (b"other", meta_of(b"other", "d.jpg")),
    ]
    shards_of(tmp_path / "set", stream_of(samples))
    assert drop(tmp_path / "set", ("source", "a.jpg")).twins == 1
    assert drop(tmp_path / "set", ("sha256", original), ("sha256", meta_of(data, "")["sha256"])).samples == 2
    assert sources_of(tmp_path / "set") == ["d.jpg"]
    assert index_of(tmp_path / "set")["dropped"][-1].keys() >= {"key", "sha256", "index_sha256"}
    assert any(record.get("orig_sha256") == original for record in index_of(tmp_path / "set")["dropped"])


def test_the_list_of_near_duplicates_forgets_too(tmp_path: Path) -> None:
    picture_shards(tmp_path / "once", 4)
    with ShardSet.open(tmp_path / "once") as shards:
        first, second = shards.read(0), shards.read(1)
    copies = [(s.image, {**s.meta, "source": f"copy/{s.meta['source']}"}) for s in (first, second)]
    everything = [(s.image, s.meta) for s in (first, second)] + copies
    shards_of(tmp_path / "set", stream_of(everything), near=4, jobs=1)
    rows = [json.loads(line) for line in (tmp_path / "set" / "duplicates.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == ["copy/0.jpg", "copy/1.jpg"]
    report = drop(tmp_path / "set", ("source", "copy/0.jpg"))
    assert report.samples == 0
    assert b"copy/0.jpg" not in (tmp_path / "set" / "duplicates.jsonl").read_bytes()
    assert b"copy/1.jpg" in (tmp_path / "set" / "duplicates.jsonl").read_bytes()


def test_damage_is_not_made_to_look_whole(tmp_path: Path) -> None:
    where = make(tmp_path / "set")
    path = where / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    before = listing(where)
    with pytest.raises(InputError, match="damaged"):
        drop(where, ("source", source(6)))
    assert {name: data for name, data in listing(where).items() if not name.endswith(".tmp")} == before
    assert drop(where, ("source", source(1))).samples == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a shard set"):
        drop(tmp_path / "empty", ("source", "x"))
    (where / "shard-000002.tar").unlink()
    with pytest.raises(InputError, match="missing"):
        drop(where, ("source", source(1)))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a/b.jpg\r\n\n# a note\n" + "A" * 64 + "\n", [("source", "a/b.jpg"), ("sha256", "a" * 64)]),
        ("0123456789abcdef-01234567\n", [("key", "0123456789abcdef-01234567")]),
        (f"source:{'a' * 64}\nkey: ABC \n", [("source", "a" * 64), ("key", "abc")]),
        ("https://x.org/a:b\nsource:# odd\nx\nx", [("source", name) for name in ("https://x.org/a:b", "# odd", "x")]),
    ],
)  # fmt: skip
def test_lists_are_read_as_people_write_them(tmp_path: Path, text: str, wanted: list[tuple[str, str]]) -> None:
    (tmp_path / "list.txt").write_text(text, encoding="utf-8-sig", newline="")
    assert read_entries(tmp_path / "list.txt") == tuple(Entry(*entry) for entry in wanted)


@pytest.mark.parametrize(
    ("data", "words"), [(None, "no such file"), (b"\n# only\n", "no sample"), (b"\xff\xfe", "UTF-8")]
)
def test_lists_that_are_none(tmp_path: Path, data: bytes | None, words: str) -> None:
    if data is not None:
        (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(InputError, match=words):
        read_entries(tmp_path / "list.txt")


def test_names_of_rewritten_shards() -> None:
    names = ["a-000001.tar"]
    for _ in range(2):
        names.append(next_revision(Path(names[-1])).name)
    assert names == ["a-000001.tar", "a-000001-r1.tar", "a-000001-r2.tar"]


# ------------------------------------------------------------------------------------------------------------- kills

# Runs a drop and kills itself with SIGKILL before the n-th change to the file system.
KILLED = """
import builtins, os, pathlib, signal, sys
from seerctl.shards.drop import Entry, drop_samples
left = int(sys.argv[2])
def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
os.fsync = counted(os.fsync)
for name in ("replace", "unlink", "open"):
    setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
drop_samples(pathlib.Path(sys.argv[1]), [Entry("source", f"pictures/{n}.jpg") for n in (1, 6, 10, 11, 12, 13, 14)])
"""


def settled(where: Path, wanted: dict[str, bytes]) -> None:
    """What a kill left: the old set or the new one; run again, the new one and nothing else."""
    assert sources_of(where) in (
        [source(n) for n in range(20)], [source(n) for n in range(20) if n not in (1, 6, *range(10, 15))],
    )  # fmt: skip
    report = drop(where, *(("source", source(n)) for n in (1, 6, 10, 11, 12, 13, 14)))
    assert report.samples in (0, 7)
    assert listing(where) == wanted


def test_killed_before_any_change_to_the_file_system(tmp_path: Path) -> None:
    wanted = listing(make(tmp_path / "wanted"))
    drop(tmp_path / "wanted", *(("source", source(n)) for n in (1, 6, 10, 11, 12, 13, 14)))
    wanted = listing(tmp_path / "wanted")
    running: list[tuple[Path, subprocess.Popen[bytes]]] = []
    codes: list[int] = []

    def finish() -> None:
        for where, process in running:
            codes.append(process.wait())
            settled(where, wanted)
        running.clear()

    for number in range(0, 60):
        where = make(tmp_path / f"set{number}")
        running.append((where, subprocess.Popen([sys.executable, "-c", KILLED, str(where), str(number)])))
        if len(running) == 4:
            finish()
            if codes[-1] == 0:
                break
    assert codes.count(-signal.SIGKILL) >= 30
    assert codes[-1] == 0


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments(tmp_path: Path) -> None:
    drop(make(tmp_path / "wanted"), *(("source", source(n)) for n in (1, 6, 10, 11, 12, 13, 14)))
    wanted = listing(tmp_path / "wanted")
    command = [sys.executable, "-c", KILLED, "", "100000"]
    make(tmp_path / "timed")
    command[3] = str(tmp_path / "timed")
    started = time.monotonic()
    subprocess.run(command, check=True)
    whole = time.monotonic() - started
    for number in range(200):
        where = command[3] = str(make(tmp_path / f"set{number}"))  # type: ignore[assignment]
        process = subprocess.Popen([str(word) for word in command])
        time.sleep(whole * (0.5 + number / 300))
        process.kill()
        process.wait()
        settled(Path(where), wanted)


def test_a_note_that_cannot_be_read_stops_everything(tmp_path: Path) -> None:
    where = make(tmp_path / "set")
    (where / leftovers.JOURNAL).write_text("{")
    before = listing(where)
    with pytest.raises(InputError, match=r"drop\.json"):
        drop(where, ("source", source(1)))
    assert listing(where) == before


def test_a_note_removes_nothing_outside_nor_what_is_listed(tmp_path: Path) -> None:
    where = make(tmp_path / "set")
    (tmp_path / "outside.tar").write_bytes(b"mine")
    (where / "other.txt").write_bytes(b"mine")
    (where / leftovers.JOURNAL).write_text(json.dumps({"files": ["../outside.tar", "shard-000000.tar", "other.txt"]}))
    before = listing(where)
    leftovers.settle(where)
    assert listing(where) == {name: data for name, data in before.items() if name != leftovers.JOURNAL}
    assert (tmp_path / "outside.tar").exists()
