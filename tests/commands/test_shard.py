"""`seerctl shard`: options, exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from seerctl.errors import ExitCode, InputError
from seerctl.shards.index import ShardSet
from tests.streams import listing, numbered, stream_of

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
        ((".",), b"", ExitCode.INPUT, "no such file"),
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


@pytest.mark.parametrize("arguments", [("--maxsize", "0"), ("--maxsize", "5X"), ("--maxcount", "0")])
def test_wrong_options_are_usage(seerctl: Run, tmp_path: Path, arguments: tuple[str, str]) -> None:
    assert seerctl("shard", "-o", tmp_path / "set", *arguments).exit_code == ExitCode.USAGE


def test_existing_output_is_kept(seerctl: Run, streams: list[Path], tmp_path: Path) -> None:
    assert seerctl("shard", streams[0], "-o", tmp_path / "set").exit_code == 0
    before = listing(tmp_path / "set")
    result = seerctl("shard", streams[1], "-o", tmp_path / "set")
    assert result.exit_code == ExitCode.USAGE
    assert "--append or --overwrite" in result.stderr
    assert listing(tmp_path / "set") == before
