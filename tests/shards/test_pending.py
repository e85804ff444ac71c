"""A run that broke off: its whole shards join the set of the stream that says it goes on from them, and no other's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import InputError, SeerctlError, UsageError
from seerctl.shards.index import ShardSet
from seerctl.shards.pending import PENDING, load_pending
from seerctl.shards.setwriter import ShardOptions
from seerctl.shards.split import Split
from seerctl.shards.verify import verify
from seerctl.shards.writer import ShardReport, write_shards
from seerctl.stream.records import encode_sample
from seerctl.stream.writer import StreamWriter
from tests.streams import listing, numbered, set_of, shards_of, stream_of

MAXCOUNT = 4


def keys(directory: Path) -> set[str]:
    with ShardSet.open(directory) as shards:
        return {sample.key for sample in shards}


def continuing(numbers: range, *places: Path) -> bytes:
    """A whole stream of `numbers` that says it goes on from what lies in `places`."""
    tokens = [pending.token for place in places if (pending := load_pending(place)) is not None]
    file = io.BytesIO()
    writer = StreamWriter(file, {"check": "decode"}, tokens)
    for data, meta in numbered(numbers):
        writer.write(*encode_sample(data, "jpg", meta))
    writer.finish({})
    return file.getvalue()


def break_off(directory: Path, count: int, **options: Any) -> None:
    """A stream of `count` samples whose end never came."""
    stream = stream_of(numbered(range(count)))
    with pytest.raises(InputError, match="without its end marker"):
        shards_of(directory, stream[: stream.index(b"__seer__/end.json")], maxcount=MAXCOUNT, **options)


def go_on(directory: Path, stream: bytes, **options: Any) -> ShardReport:
    files = [("stream", io.BytesIO(stream))]
    return write_shards(files, directory, ShardOptions(maxcount=MAXCOUNT, append=True, **options))


def test_whole_shards_are_noted_and_nothing_else(tmp_path: Path) -> None:
    break_off(tmp_path, 11)
    pending = load_pending(tmp_path)
    assert pending is not None
    assert (pending.samples, pending.options, len(pending.entries)) == (8, [{"check": "decode"}], 2)
    assert not (tmp_path / "index.json").exists()
    assert {name.rpartition(".")[2] for name in listing(tmp_path)} == {"partial"}


@pytest.mark.parametrize("split", [None, "train=0.5,val=0.5"])
def test_a_stream_that_goes_on_makes_the_same_set(tmp_path: Path, split: str | None) -> None:
    options = {"split": Split.parse(split) if split else None}
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    shards_of(whole, stream_of(numbered(range(40))), maxcount=MAXCOUNT, **options)
    break_off(broken, 23, **options)
    places = [broken / name for name in ("train", "val")] if split else [broken]
    known = sum(pending.samples for place in places if (pending := load_pending(place)))
    assert 12 <= known <= 20
    # What came twice, as from a list that names a picture twice, is noticed.
    report = go_on(broken, continuing(range(40), *places), **options)
    assert (report.recovered, report.duplicates) == (known // MAXCOUNT, known)
    for place in places:
        name = place.name if split else ""
        assert keys(place) == keys(whole / name)
        assert verify(ShardSet.open(place)) == []
        with ShardSet.open(place) as ours, ShardSet.open(whole / name) as theirs:
            assert ours.index["columns"] == theirs.index["columns"]
        assert not (place / PENDING).exists()


def test_several_breaks_one_after_the_other(tmp_path: Path) -> None:
    break_off(tmp_path, 9)
    stream = continuing(range(8, 20), tmp_path)
    with pytest.raises(InputError, match="without its end marker"):
        go_on(tmp_path, stream[: stream.index(b"__seer__/end.json")])
    pending = load_pending(tmp_path)
    assert pending is not None
    assert pending.samples == 16  # a shard is finished by the sample that follows it
    assert go_on(tmp_path, continuing(range(16, 22), tmp_path)).recovered == 4
    assert keys(tmp_path) == keys_of_numbers(22)
    assert verify(ShardSet.open(tmp_path)) == []


def keys_of_numbers(count: int) -> set[str]:
    return {encode_sample(data, "jpg", meta)[0][:25].decode() for data, meta in numbered(range(count))}


def test_another_stream_never_takes_them(tmp_path: Path) -> None:
    """The guarantee: what an incomplete stream brought is in no set unless a whole stream accounts for it."""
    break_off(tmp_path, 11)
    shards_of(tmp_path, stream_of(numbered(range(100, 103))))
    assert keys(tmp_path).isdisjoint(keys_of_numbers(11))
    assert set(listing(tmp_path)) == {"index.json", "shard-000000.tar", "shard-000000.tar.idx"}


def test_appending_something_else_removes_them_too(tmp_path: Path) -> None:
    set_of(tmp_path, 3)
    stream = stream_of(numbered(range(100, 111)))
    with pytest.raises(InputError):
        go_on(tmp_path, stream[: stream.index(b"__seer__/end.json")])
    assert load_pending(tmp_path) is not None
    assert go_on(tmp_path, stream_of(numbered(range(200, 202)))).recovered == 0
    assert len(keys(tmp_path)) == 5
    assert not list(tmp_path.glob("*.partial"))
    assert not (tmp_path / PENDING).exists()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda place: next(iter(sorted(place.glob("*.tar.partial")))).unlink(), InputError, "other ones lie here"),
        (lambda place: (place / PENDING).unlink(), InputError, "other ones lie here"),
        (
            lambda place: (path := place / "shard-000001.tar.partial").write_bytes(
                path.read_bytes().replace(b'"label":"a"', b'"label":"b"', 1)
            ),
            InputError,
            "damaged since it was written",
        ),
    ],
)
def test_what_changed_since_is_noticed(tmp_path: Path, change: Any, error: type[SeerctlError], words: str) -> None:
    break_off(tmp_path, 11)
    stream = continuing(range(8, 20), tmp_path)
    change(tmp_path)
    with pytest.raises(error, match=words):
        go_on(tmp_path, stream)
    assert not (tmp_path / "index.json").exists()


def test_it_takes_append_and_the_same_recipe(tmp_path: Path) -> None:
    break_off(tmp_path, 11)
    stream = continuing(range(8, 20), tmp_path)
    with pytest.raises(UsageError, match="--append"):
        shards_of(tmp_path, stream)
    with pytest.raises(UsageError, match="another --dedup or --weights"):
        go_on(tmp_path, stream, near=4)
    assert go_on(tmp_path, stream).recovered == 2


def test_half_a_line_and_renamed_shards(tmp_path: Path) -> None:
    """Killed while noting a shard, or while renaming: the rest is still there."""
    break_off(tmp_path, 11)
    with (tmp_path / PENDING).open("ab") as file:
        file.write(b'{"shard":{"url":"sha')
    (tmp_path / "shard-000000.tar.partial").rename(tmp_path / "shard-000000.tar")
    (tmp_path / "shard-000000.tar.idx.partial").rename(tmp_path / "shard-000000.tar.idx")
    assert go_on(tmp_path, continuing(range(8, 20), tmp_path)).recovered == 2
    assert keys(tmp_path) == keys_of_numbers(20)


def test_with_near_duplicates(tmp_path: Path) -> None:
    """What was taken up counts as kept, so that its copies are still left out."""
    break_off(tmp_path, 200, near=4)
    pending = load_pending(tmp_path)
    assert pending is not None
    report = go_on(tmp_path, continuing(range(210), tmp_path), near=4)
    assert (report.recovered, report.duplicates) == (len(pending.entries), pending.samples)
    assert keys(tmp_path) == keys_of_numbers(210)
