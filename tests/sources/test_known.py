"""What was ingested before is passed over once for every time that it stands there, and nothing else is."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from seerctl.errors import ExitCode, InputError, UsageError
from seerctl.shards.index import ShardSet
from seerctl.shards.setwriter import ShardOptions
from seerctl.shards.split import Split
from seerctl.shards.writer import write_shards
from seerctl.sources.check import CheckOptions
from seerctl.sources.ingest import IngestReport
from seerctl.sources.selection import SelectionOptions
from seerctl.sources.transform import Resize, Treatment
from seerctl.stream.reader import read_streams
from seerctl.stream.records import StreamEnd
from tests.sources.test_ingest import records, run

Run = Callable[..., Result]


def shard(stream: bytes, place: Path, **options: Any) -> None:
    write_shards([("stream", io.BytesIO(stream))], place, ShardOptions(maxcount=3, **options))


def keys(*places: Path) -> list[str]:
    found = []
    for place in places:
        with ShardSet.open(place) as shards:
            found += [sample.key for sample in shards]
    return sorted(found)


def again(source: Path, *known: Path, **options: Any) -> tuple[bytes, IngestReport]:
    chosen = SelectionOptions(known=tuple(map(str, known)))
    return run(source, selection=chosen, **options)[:2]


def test_what_a_set_holds_is_not_read_again(folder: Path, tmp_path: Path) -> None:
    shard(run(folder)[0], tmp_path / "set")
    stream, report = again(folder, tmp_path / "set")
    assert (report.samples, report.skipped, report.over_limit) == (0, 24, False)
    shard(stream, tmp_path / "set", append=True)
    assert len(keys(tmp_path / "set")) == 24
    shutil.copy(folder / "a" / "000.jpg", folder / "b" / "new.jpg")
    assert [record.meta["source"] for record in records(again(folder, tmp_path / "set")[0])] == ["b/new.jpg"]
    assert again(folder, tmp_path / "nowhere")[1].samples == 25


@pytest.mark.parametrize("split", [None, "train=0.5,val=0.5"])
@pytest.mark.parametrize("dedup", [False, True])
def test_a_run_that_broke_off_goes_on(folder: Path, tmp_path: Path, split: str | None, dedup: bool) -> None:
    """From unfinished shards and from committed ones, and the set is that of a run that never broke."""
    options = {"split": Split.parse(split) if split else None}
    for number in (0, 5, 9):
        shutil.copy(next(folder.rglob(f"{number:03d}.*")), folder / "c" / f"zz{number}{'.jpg' if number else '.png'}")
    stream = run(folder, dedup=dedup)[0]
    shard(stream, tmp_path / "whole", **options)
    broken = stream[: stream.index(records(stream)[17].key.encode())]
    with pytest.raises(InputError, match="without its end marker"):
        shard(broken, tmp_path / "set", **options)
    more, report = again(folder, tmp_path / "set", dedup=dedup)
    assert 9 <= report.skipped < 17
    assert b'"continues":["' in more[512:2048]
    shard(more, tmp_path / "set", append=True, **options)
    names = ("train", "val") if split else ("",)
    for name in names:
        assert keys(tmp_path / "set" / name) == keys(tmp_path / "whole" / name)


def test_names_that_come_twice_do_not_hide_each_other(folder: Path, tmp_path: Path) -> None:
    """`ingest a b`: both have a 000.jpg, and one alone is in the set."""
    shutil.copy(folder / "b" / "001.png", folder / "a" / "twin.png")
    shutil.copy(folder / "a" / "003.jpg", folder / "b" / "twin.png")
    shutil.copy(folder / "b" / "004.jpg", folder / "a" / "same.jpg")
    shutil.copy(folder / "b" / "004.jpg", folder / "b" / "same.jpg")
    shard(run(folder / "a")[0], tmp_path / "set")
    chosen = SelectionOptions(known=(str(tmp_path / "set"),))
    stream, report, _ = run(folder / "a", folder / "b", selection=chosen)
    assert report.skipped == 10
    assert {"twin.png", "same.jpg"} <= {record.meta["source"] for record in records(stream)}


def test_a_ledger_is_known_but_for_what_may_pass(folder: Path, tmp_path: Path) -> None:
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (folder / "list.txt").write_text("a/broken.jpg\na/gone.jpg\n")
    ledger = tmp_path / "r.jsonl"
    lines = [{"source": "a/broken.jpg", "reason": "damaged", "detail": ""},
             {"source": "a/gone.jpg", "reason": "missing", "detail": ""}]  # fmt: skip
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"source": "half a li')
    report = again(folder, ledger, max_reject_rate=1.0)[1]
    assert (report.skipped, report.rejects) == (1, {"ignored": 1})
    ledger.write_text("no ledger\n")
    with pytest.raises(InputError, match=r"r\.jsonl:1: not a line of a ledger"):
        again(folder, ledger)


def test_other_options_are_refused(folder: Path, tmp_path: Path) -> None:
    shard(run(folder)[0], tmp_path / "set")
    for options, words in (
        ({"check": CheckOptions("strict")}, 'check = "decode", not "strict"'),
        ({"treatment": Treatment(resize=Resize("short", 20))}, "resize = null"),
        ({"dedup": True}, 'dedup = null, not "exact"'),
    ):
        with pytest.raises(UsageError, match=words):
            again(folder, tmp_path / "set", **options)
    stream = run(folder)[0]
    with pytest.raises(InputError):
        shard(stream[: stream.index(b"__seer__/end.json")], tmp_path / "unfinished")
    with pytest.raises(UsageError, match="was made with"):
        again(folder, tmp_path / "unfinished", check=CheckOptions("strict"))


def test_resized_pictures_are_known_by_their_original(folder: Path, tmp_path: Path) -> None:
    options = {"treatment": Treatment(resize=Resize("short", 20))}
    shard(run(folder, **options)[0], tmp_path / "set")
    assert again(folder, tmp_path / "set", **options)[1].skipped == 24


def test_duplicates_of_what_a_set_holds(folder: Path, tmp_path: Path) -> None:
    shard(run(folder, dedup=True)[0], tmp_path / "set")
    shutil.copy(folder / "a" / "000.jpg", folder / "b" / "new.jpg")
    report = again(folder, tmp_path / "set", dedup=True)[1]
    assert (report.samples, report.skipped, report.rejects) == (0, 24, {"duplicate": 1})


def test_the_commands_go_on_with_their_ledger(seerctl: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    place, ledger = tmp_path / "set", tmp_path / "set" / "rejects.jsonl"
    first = seerctl("ingest", folder, "--rejects", ledger)
    assert seerctl("shard", "-o", place, stdin=first.stdout_bytes).exit_code == 0
    (folder / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    draw_more = folder / "b" / "more.jpg"
    shutil.copy(folder / "a" / "000.jpg", draw_more)
    second = seerctl("ingest", folder, "--skip-known", place, "--rejects", ledger, "--max-reject-rate", 1)
    assert "1 rejected (1 damaged), 25 known" in second.stderr
    assert seerctl("shard", "--append", "-o", place, stdin=second.stdout_bytes).exit_code == 0
    assert [json.loads(line)["source"] for line in ledger.read_text().splitlines()] == ["a/broken.jpg", "b/broken.jpg"]
    third = seerctl("ingest", folder, "--skip-known", place, "--rejects", ledger)
    assert third.exit_code == 0
    assert "0 in, 0 out, none rejected, 27 known" in third.stderr
    (end,) = read_streams(io.BytesIO(third.stdout_bytes), "s")
    assert isinstance(end, StreamEnd)
    refused = seerctl("ingest", folder, "--skip-known", place, "--resize", "short=20")
    assert refused.exit_code == ExitCode.USAGE
