"""`seerctl shard`: options, exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from seerctl.errors import ExitCode, InputError
from seerctl.shards.index import ShardSet
from seerctl.shards.verify import verify
from tests.pictures import draw
from tests.streams import listing, meta_of, numbered, stream_of

Run = Callable[..., Result]


@pytest.fixture
def streams(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for number, path in enumerate(paths):
        path.write_bytes(stream_of(numbered(range(10 * number, 10 * number + 10))))
    return paths


def test_streams_from_stdin_or_files(seerctl: Run, streams: list[Path], tmp_path: Path) -> None:
    assert seerctl("shard", "-o", tmp_path / "a", stdin=streams[0].read_bytes()).exit_code == 0
    assert seerctl("shard", streams[0], "-o", tmp_path / "b").exit_code == 0
    assert listing(tmp_path / "a") == listing(tmp_path / "b")
    assert seerctl("shard", streams[0], "-", "-o", tmp_path / "c", stdin=streams[1].read_bytes()).exit_code == 0
    assert seerctl("shard", *streams, "-o", tmp_path / "d", "--streams", 2).exit_code == 0
    assert listing(tmp_path / "c") == listing(tmp_path / "d")
    assert len(ShardSet.open(tmp_path / "d")) == 20


def test_options_reach_the_work(seerctl: Run, streams: list[Path], tmp_path: Path) -> None:
    options = ("--prefix", "cifar", "--maxcount", 3, "--split", "train=0.5,val=0.5")
    assert seerctl("shard", *streams, "-o", tmp_path / "set", *options).exit_code == 0
    sets = {name: ShardSet.open(tmp_path / "set" / name) for name in ("train", "val")}
    assert sum(map(len, sets.values())) == 20
    assert {shard["nsamples"] <= 3 for opened in sets.values() for shard in opened.index["shardlist"]} == {True}
    assert (tmp_path / "set" / "train" / "cifar-000000.tar").exists()
    assert seerctl("shard", streams[0], "-o", tmp_path / "small", "--maxsize", "8K").exit_code == 0
    assert max(path.stat().st_size for path in (tmp_path / "small").glob("*.tar")) <= 8000
    assert seerctl("shard", streams[0], "-o", tmp_path / "more").exit_code == 0
    assert seerctl("shard", streams[1], "-o", tmp_path / "more", "--append").exit_code == 0
    assert len(ShardSet.open(tmp_path / "more")) == 20
    assert seerctl("shard", streams[1], "-o", tmp_path / "more", "--overwrite").exit_code == 0
    assert len(ShardSet.open(tmp_path / "more")) == 10


@pytest.mark.parametrize(
    ("text", "size"),
    [("5000", 5000), ("4k", 4000), ("1.5M", 1_500_000), ("1GiB", 1 << 30), ("2 KB", 2000), ("1G", 10**9)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    from seerctl.commands.shard import ByteSize

    assert ByteSize().convert(text, None, None) == size


def test_the_verdict_of_ingest_is_repeated(seerctl: Run, tmp_path: Path) -> None:
    stream = stream_of(numbered(range(5)), rejects={"damaged": 3, "ignored": 9}, over_limit=True)
    result = seerctl("shard", "-o", tmp_path / "set", stdin=stream)
    assert result.exit_code == ExitCode.REJECTS
    assert "ingest rejected 3 images" in result.stderr
    assert len(ShardSet.open(tmp_path / "set")) == 5


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "words"),
    [
        ((), b"", ExitCode.INPUT, "empty"),
        ((), stream_of(numbered(range(9)))[:-1024], ExitCode.INPUT, "cut after its end marker"),
        ((), stream_of([]), ExitCode.INPUT, "no sample came"),
        (("nowhere.tar",), b"", ExitCode.INPUT, "nowhere.tar: no such file"),
        ((".",), b"", ExitCode.INPUT, "not a shard set"),
        (("--streams", "2"), stream_of(numbered(range(9))), ExitCode.INPUT, "--streams says 2"),
        (("--split", "a=0.5"), b"", ExitCode.USAGE, "sum to 0.5"),
        (("--append", "--overwrite"), b"", ExitCode.USAGE, "exclude each other"),
        (("--prefix", "../x"), b"", ExitCode.USAGE, "prefix"),
    ],
)
def test_what_goes_wrong_is_said(
    seerctl: Run, tmp_path: Path, arguments: tuple[str, ...], stdin: bytes, code: ExitCode, words: str
) -> None:
    result = seerctl("shard", *arguments, "-o", tmp_path / "set", stdin=stdin)
    assert result.exit_code == code
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    with pytest.raises(InputError):
        ShardSet.open(tmp_path / "set")


@pytest.mark.parametrize(
    "arguments", [("--maxsize", "0"), ("--maxsize", "5X"), ("--maxcount", "0"), ("--jobs", "2"), ("--dedup", "far")]
)
def test_wrong_options_are_usage(seerctl: Run, tmp_path: Path, arguments: tuple[str, str]) -> None:
    assert seerctl("shard", "-o", tmp_path / "set", *arguments).exit_code == ExitCode.USAGE


def test_existing_output_is_kept(seerctl: Run, streams: list[Path], tmp_path: Path) -> None:
    assert seerctl("shard", streams[0], "-o", tmp_path / "set").exit_code == 0
    before = listing(tmp_path / "set")
    result = seerctl("shard", streams[1], "-o", tmp_path / "set")
    assert result.exit_code == ExitCode.USAGE
    assert "--append or --overwrite" in result.stderr
    assert listing(tmp_path / "set") == before


def copies(numbers: range, quality: int = 90, side: int = 64) -> list[tuple[bytes, dict[str, object]]]:
    """Drawn pictures; those of another quality or size look the same and have other bytes."""
    samples = []
    for number in numbers:
        file = io.BytesIO()
        draw(number, 128, 96).resize((side * 2, side * 3 // 2)).save(file, "JPEG", quality=quality)
        samples.append((file.getvalue(), meta_of(file.getvalue(), f"{quality}/{side}/{number}.jpg")))
    return samples


def left_out(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "duplicates.jsonl").read_text().splitlines()]


def test_near_duplicates_are_left_out_in_the_order_of_the_stream(seerctl: Run, tmp_path: Path) -> None:
    flat = [(b"no picture", meta_of(b"no picture", f"{name}.jpg")) for name in "ab"]
    samples = [*copies(range(6)), *copies(range(4), 60), *copies(range(3, 8), side=32), *flat, *copies(range(2))]
    stream = stream_of(samples)
    for jobs in (1, 3):
        done = seerctl("shard", "-o", tmp_path / f"set{jobs}", "--dedup", "near", "--jobs", jobs, stdin=stream)
        assert done.exit_code == 0
        assert "2 came twice, 8 look like another" in done.stderr
    assert listing(tmp_path / "set1") == listing(tmp_path / "set3")
    with ShardSet.open(tmp_path / "set1") as shards:
        assert verify(shards) == []
        kept = {sample.key: sample.meta["source"] for sample in shards}
        assert shards.index["near_duplicates"] == {"hash": "dct64-1", "distance": 4, "left_out": 8}
    assert list(kept.values()) == [*(f"90/64/{n}.jpg" for n in range(6)), "90/32/6.jpg", "90/32/7.jpg", "a.jpg"]
    rows = left_out(tmp_path / "set1")
    assert [row["source"] for row in rows] == [
        *(f"60/64/{n}.jpg" for n in range(4)), *(f"90/32/{n}.jpg" for n in range(3, 6)), "b.jpg",
    ]  # fmt: skip
    for row in rows[:-1]:
        assert str(row["source"]).rpartition("/")[2] == str(kept[str(row["of"])]).rpartition("/")[2]
        assert row["distance"] in range(5)


def test_near_duplicates_of_what_stands_there_and_of_other_splits(seerctl: Run, tmp_path: Path) -> None:
    first, second = stream_of(copies(range(12))), stream_of(copies(range(14), 60))
    options = ("-o", tmp_path / "set", "--dedup", "near", "--split", "train=0.5,test=0.5", "--jobs", 2)
    assert seerctl("shard", *options, stdin=first).exit_code == 0
    assert not list((tmp_path / "set").rglob("duplicates.jsonl"))
    done = seerctl("shard", *options, "--append", stdin=second)
    assert done.exit_code == 0
    assert "12 look like another" in done.stderr
    rows = [row for name in ("train", "test") for row in left_out(tmp_path / "set" / name)]
    assert len(rows) == 12
    assert sum(len(ShardSet.open(tmp_path / "set" / name)) for name in ("train", "test")) == 14
    before = listing(tmp_path / "set")
    done = seerctl("shard", *options, "--append", stdin=second)
    assert "2 came twice, 12 look like another" in done.stderr
    assert listing(tmp_path / "set") == before
    assert seerctl("shard", "-o", tmp_path / "set", "--overwrite", stdin=first).exit_code == 0
    assert not list((tmp_path / "set").rglob("duplicates.jsonl"))


def test_a_broken_stream_leaves_no_list(seerctl: Run, tmp_path: Path) -> None:
    stream = stream_of([*copies(range(80)), *copies(range(80), 60)])
    assert seerctl("shard", "-o", tmp_path / "set", "--dedup", "near", stdin=stream[:-2000]).exit_code == 4
    assert {path.suffix for path in (tmp_path / "set").iterdir()} <= {".partial"}


def test_samples_are_dropped_on_request(seerctl: Run, streams: list[Path], tmp_path: Path) -> None:
    assert seerctl("shard", streams[0], "-o", tmp_path / "set", "--maxcount", 4).exit_code == 0
    (tmp_path / "list.txt").write_text("pictures/3.jpg\npictures/99.jpg\n")
    done = seerctl("shard", "--drop", tmp_path / "list.txt", "-o", tmp_path / "set")
    assert done.exit_code == 0
    assert "1 samples dropped" in done.stderr
    assert "1 not in" in done.stderr
    assert "pictures/99.jpg" in done.stderr
    with ShardSet.open(tmp_path / "set") as shards:
        assert len(shards) == 9
        assert verify(shards) == []
    assert (
        "1 entries were dropped before"
        in seerctl("shard", "--drop", tmp_path / "list.txt", "-o", tmp_path / "set").stderr
    )
    done = seerctl("shard", streams[0], "--append", "-o", tmp_path / "set")
    assert "9 came twice, 1 dropped before" in done.stderr


@pytest.mark.parametrize(
    "more",
    [("--append",), ("--overwrite",), ("--dedup", "near"), ("--split", "a=1"), ("--streams", "2"), ("--shuffle",)],
)
@pytest.mark.parametrize("upkeep", [("--drop", "list.txt"), ("--repair",)])
def test_upkeep_goes_with_nothing_else(
    seerctl: Run, tmp_path: Path, upkeep: tuple[str, ...], more: tuple[str, ...]
) -> None:
    done = seerctl("shard", *upkeep, *more, "-o", tmp_path)
    assert done.exit_code == ExitCode.USAGE
    assert f"{upkeep[0]} takes no {more[0]}" in done.stderr
    for places in ((), ("a", "b"), ("a", "-o", "b")):
        done = seerctl("shard", *upkeep, *places)
        assert done.exit_code == ExitCode.USAGE
        assert f"{upkeep[0]} changes one set" in done.stderr


def test_what_drop_cannot_do_is_said(seerctl: Run, streams: list[Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("pictures/3.jpg\n")
    assert "no such shard set" in seerctl("shard", "--drop", tmp_path / "list.txt", "-o", tmp_path / "set").stderr
    assert seerctl("shard", streams[0], "-o", tmp_path / "set").exit_code == 0
    done = seerctl("shard", "--drop", tmp_path / "nothing.txt", "-o", tmp_path / "set")
    assert (done.exit_code, len(done.stderr.splitlines())) == (ExitCode.INPUT, 1)
    (tmp_path / "set" / "shard-000000.tar").write_bytes(b"cut")
    done = seerctl("shard", "--drop", tmp_path / "list.txt", "-o", tmp_path / "set")
    assert (done.exit_code, len(done.stderr.splitlines())) == (ExitCode.INPUT, 1)
    assert "shard-000000.tar" in done.stderr


def test_sharding_starts_without_numpy() -> None:
    code = "import seerctl.shards.writer, seerctl.shards.drop, sys; assert not {'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
