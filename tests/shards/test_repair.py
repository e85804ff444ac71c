"""Repairing a set: what is whole stays, what is not goes and is named, nothing is made up."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import EnvironmentFault, InputError
from seerctl.shards import leftovers
from seerctl.shards.drop import Entry, drop_samples
from seerctl.shards.index import ShardSet
from seerctl.shards.lock import write_lock
from seerctl.shards.repair import SetRepair, repair_sets
from seerctl.shards.split import Split
from seerctl.shards.verify import verify
from seerctl.stream import ustar
from tests.streams import listing, numbered, set_of, shards_of, stream_of

ONE, IDX = "shard-000001.tar", "shard-000001.tar.idx"


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """Four shards of five samples."""
    set_of(tmp_path / "set", 20, maxcount=5).close()
    return tmp_path / "set"


def repair(where: Path, **options: Any) -> SetRepair:
    (found,) = repair_sets(where, dry_run=options.get("dry_run", False))
    return found


def keys_of(where: Path) -> list[str]:
    with ShardSet.open(where) as shards:
        assert verify(shards) == []
        return [sample.key for sample in shards]


def index_of(where: Path) -> dict[str, Any]:
    return dict(json.loads((where / "index.json").read_text()))


def change(path: Path, at: int, bits: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    path.write_bytes(data)


def test_a_sound_set_is_left_alone(where: Path) -> None:
    before = listing(where)
    found = repair(where)
    assert (found.changes, found.left) == (False, 20)
    assert listing(where) == before


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"__kind__": "x"}', b"[1]"])
def test_a_lost_index_is_rebuilt_from_the_shards(where: Path, content: bytes | None) -> None:
    before, index = listing(where), index_of(where)
    path = where / "index.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert repair(where, dry_run=True).rebuilt == ["index.json"]
    assert (path.read_bytes() if path.is_file() else None) == content
    assert repair(where).rebuilt == ["index.json"]
    after, rebuilt = listing(where), index_of(where)
    assert {name: after[name] for name in before if name != "index.json"} == {
        name: data for name, data in before.items() if name != "index.json"
    }
    same = ("shardlist", "total", "bytes", "columns", "formats", "modes", "sides", "sizes")
    assert all(rebuilt[name] == index[name] for name in same)
    assert not rebuilt.keys() & {"rejects", "duplicates", "over_limit"}  # nobody knows them any more
    assert rebuilt["repairs"][0]["rebuilt"] == ["index.json"]
    assert len(keys_of(where)) == 20


def test_what_a_damaged_index_still_says_is_kept(where: Path) -> None:
    with ShardSet.open(where) as shards:
        drop_samples(where, [Entry("key", shards.read(0).key)])
    index = index_of(where)
    (where / "index.json").write_text(json.dumps(index | {"total": 3}))
    repair(where)
    assert index_of(where)["dropped"] == index["dropped"]
    assert index_of(where)["lineage"]["streams"] == index["lineage"]["streams"]
    assert len(keys_of(where)) == 19


@pytest.mark.parametrize("content", [None, b"", b"\0" * 48, "shifted"])
def test_lost_offsets_are_rebuilt(where: Path, content: bytes | str | None) -> None:
    before = listing(where)
    path = where / IDX
    whole = path.read_bytes()
    path.unlink()
    if content == "shifted":  # in order, but not where samples begin
        content = whole[:8] + (int.from_bytes(whole[8:16], "little") + 512).to_bytes(8, "little") + whole[16:]
    if isinstance(content, bytes):
        path.write_bytes(content)
    assert repair(where, dry_run=True).rebuilt == [IDX]
    assert repair(where).rebuilt == [IDX]
    assert listing(where) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1024]),
        lambda path: path.write_bytes(path.read_bytes() + bytes(512)),
        lambda path: change(path, path.stat().st_size - 1),
    ],
    ids=["end", "more", "tail"],
)
def test_damage_outside_of_samples_is_undone(where: Path, damage: Callable[[Path], None]) -> None:
    before = listing(where)
    damage(where / ONE)
    found = repair(where)
    assert (found.rebuilt, found.lost) == ([ONE], [])
    assert listing(where) == before


def test_a_damaged_picture_goes_and_is_named(where: Path) -> None:
    with ShardSet.open(where) as shards:
        before, old = [sample.key for sample in shards], shards.sha256
        image = shards.read(7).image
    others = {name: data for name, data in listing(where).items() if not name.startswith((ONE, "index"))}
    at = (where / ONE).read_bytes().index(image)
    change(where / ONE, at)
    assert [fault.key for fault in repair(where, dry_run=True).lost] == [before[7]]
    found = repair(where)
    assert [(fault.file, fault.sample, fault.offset, fault.key) for fault in found.lost] == [
        (ONE, 2, at - ustar.BLOCK, before[7])
    ]
    assert keys_of(where) == before[:7] + before[8:]
    index = index_of(where)
    assert index["shardlist"][1]["url"] == "shard-000001-r1.tar"
    assert index["lineage"]["history"][-1] == {"index_sha256": old, "by": "repair"}
    assert index["repairs"][0]["lost"][0]["key"] == before[7]
    after = listing(where)
    assert {name: after[name] for name in others} == others
    assert not (where / ONE).exists()
    assert not repair(where).changes


def test_damaged_headers_and_cuts_cost_only_what_they_hit(where: Path) -> None:
    before = keys_of(where)
    whole = (where / ONE).read_bytes()
    offsets = [int.from_bytes((where / IDX).read_bytes()[8 * n : 8 * n + 8], "little") for n in range(6)]
    (where / ONE).write_bytes(whole[: offsets[3] + 600])
    (where / IDX).write_bytes(b"")  # then the scan has to do without
    found = repair(where)
    assert [fault.key for fault in found.lost][:1] == [before[8]]
    assert "1 more samples are gone" in found.lost[-1].fault
    assert keys_of(where) == before[:8] + before[10:]


@pytest.mark.parametrize("offsets", [True, False])
def test_any_flipped_bit_costs_at_most_one_sample(where: Path, offsets: bool) -> None:
    before = set(keys_of(where))
    original = listing(where)
    whole = original[ONE]
    randomness = random.Random(1)
    for _ in range(60):
        for name, data in original.items():
            (where / name).write_bytes(data)
        change(where / ONE, randomness.randrange(len(whole)), 1 << randomness.randrange(8))
        if not offsets:
            (where / IDX).unlink()
        found = repair(where)
        assert found.changes or found.hopeless
        left = set(keys_of(where)) if not found.hopeless else set()
        assert not left or (left <= before and len(left) >= 19)
        for path in where.iterdir():
            path.unlink()


def test_a_missing_shard_is_taken_out_of_the_index(where: Path) -> None:
    before = keys_of(where)
    (where / ONE).unlink()
    assert repair(where).missing == {ONE: 5}
    assert keys_of(where) == before[:5] + before[10:]
    assert sorted(listing(where)) == sorted(
        ["index.json", *(f"shard-00000{n}.tar{end}" for n in (0, 2, 3) for end in ("", ".idx"))]
    )


def test_changed_columns_cannot_be_located_and_stay(where: Path) -> None:
    path = where / ONE
    before = listing(where)
    at = path.read_bytes().index(b'"label":"') + len(b'"label":"')
    change(path, at, ord("a") ^ ord("q") if path.read_bytes()[at : at + 1] == b"a" else 1)
    spoilt = path.read_bytes()
    found = repair(where)
    assert list(found.hopeless) == [ONE]
    assert not found.changes
    assert {**before, ONE: spoilt} == listing(where)


def test_a_sample_that_comes_twice_is_kept_once(where: Path) -> None:
    before = keys_of(where)
    index = index_of(where)
    double = where / "shard-000009.tar"
    for end in ("", ".idx"):
        Path(f"{double}{end}").write_bytes((where / f"{ONE}{end}").read_bytes())
    index["shardlist"].append({**index["shardlist"][1], "url": double.name})
    index["total"] += 5
    (where / "index.json").write_text(json.dumps(index))
    found = repair(where)
    assert [fault.fault.endswith("comes twice") for fault in found.lost] == [True] * 5
    assert keys_of(where) == before


def test_an_index_whose_counts_are_wrong_is_counted_anew(where: Path) -> None:
    index = index_of(where)
    (where / "index.json").write_text(json.dumps(index | {"formats": {"PNG": 20}}))
    assert repair(where).rebuilt == ["index.json"]
    assert index_of(where)["formats"] == {"JPEG": 20}
    assert index_of(where)["rejects"] == index["rejects"]
    assert len(keys_of(where)) == 20


def test_what_a_broken_write_left_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        shards_of(tmp_path / "set", stream_of(numbered(range(20)))[:-600], maxcount=5)
    with pytest.raises(InputError, match="holds no shards"):
        repair(tmp_path / "set")
    partial = next((tmp_path / "set").glob("*.tar.partial"))
    partial.rename(partial.with_suffix(""))  # as a kill between two renames leaves it
    with pytest.raises(InputError, match="writing it broke off"):
        repair(tmp_path / "set")
    with pytest.raises(InputError, match="no such shard set"):
        repair(tmp_path / "nowhere")


def test_nothing_left_is_said_and_nothing_touched(where: Path) -> None:
    for path in where.glob("*.tar"):
        path.write_bytes(bytes(2048))
    before = listing(where)
    with pytest.raises(InputError, match="no whole sample is left"):
        repair(where)
    assert listing(where) == before


def test_splits_are_repaired_together(tmp_path: Path) -> None:
    shards_of(tmp_path, stream_of(numbered(range(60))), split=Split.parse("train=0.5,val=0.5"), energon=True)
    (tmp_path / "val" / "index.json").unlink()
    (tmp_path / "train" / "shard-000000.tar.idx").unlink()
    repairs = repair_sets(tmp_path, dry_run=False)
    assert [(one.directory.name, one.rebuilt) for one in repairs] == [
        ("train", ["shard-000000.tar.idx"]), ("val", ["index.json"]),
    ]  # fmt: skip
    assert len(keys_of(tmp_path / "train")) + len(keys_of(tmp_path / "val")) == 60


def test_another_writer_is_waited_for(where: Path) -> None:
    with write_lock(where), pytest.raises(EnvironmentFault, match="another seerctl is writing here"):
        repair(where)


class Dead(BaseException):
    """What ends a process at this point."""


@pytest.mark.parametrize("index", [True, False])
def test_a_death_at_any_step_leaves_what_the_next_repair_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: bool
) -> None:
    from seerctl.shards import repair as module

    for step in range(12):
        where = tmp_path / str(step)
        with set_of(where, 20, maxcount=5) as shards:
            before = [sample.key for sample in shards]
            at = (where / ONE).read_bytes().index(shards.read(7).image)
        change(where / ONE, at)
        (where / "shard-000002.tar.idx").unlink()
        if not index:
            (where / "index.json").unlink()
        left = [step]

        def tick(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Dead

        with monkeypatch.context() as patch:
            for owner, name in ((module, "commit"), (module, "write_index"), (module, "begin"), (module, "settle"),
                                (module, "write_offsets"), (leftovers, "fsync_path"),
                                (module, "_discard")):  # fmt: skip
                real = getattr(owner, name)
                patch.setattr(owner, name, lambda *given, real=real: (tick(), real(*given))[1])
            try:
                repair(where)
                survived = True
            except Dead:
                survived = False
        repair(where)
        assert keys_of(where) == before[:7] + before[8:]
        assert not [name for name in listing(where) if name.endswith((".tmp", ".partial")) or name.startswith(".")]
        if survived:
            break
    else:
        pytest.fail("it never came to its end")
