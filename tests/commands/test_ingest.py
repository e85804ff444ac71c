"""`seerctl ingest`: options, exit codes, where output goes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from seerctl.errors import ExitCode
from seerctl.stream.reader import read_streams
from seerctl.stream.records import Record, StreamEnd

Run = Callable[..., Result]


def stream(data: bytes) -> tuple[list[Record], StreamEnd]:
    *records, end = read_streams(io.BytesIO(data), "stdout")
    assert isinstance(end, StreamEnd)
    return records, end  # type: ignore[return-value]


def test_a_folder_becomes_a_stream_on_stdout(seerctl: Run, folder: Path) -> None:
    result = seerctl("ingest", folder, "-j", 2)
    assert result.exit_code == 0
    records, end = stream(result.stdout_bytes)
    assert (len(records), end.samples, end.over_limit) == (24, 24, False)
    assert end.start["options"]["check"] == "decode"


def test_output_appears_whole_or_not_at_all(seerctl: Run, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "s.tar"
    assert seerctl("ingest", folder, "-o", target).exit_code == 0
    assert len(stream(target.read_bytes())[0]) == 24
    before = target.read_bytes()
    again = seerctl("ingest", folder, "-o", target)
    assert again.exit_code == ExitCode.USAGE
    assert "exists already" in again.stderr
    (tmp_path / "empty").mkdir()
    assert seerctl("ingest", tmp_path / "empty", "-o", target, "--overwrite").exit_code == ExitCode.INPUT
    assert target.read_bytes() == before
    assert seerctl("ingest", folder / "a", "-o", target, "--overwrite").exit_code == 0
    assert len(stream(target.read_bytes())[0]) == 8
    assert [path.name for path in target.parent.iterdir()] == ["s.tar"]


def test_too_many_rejects_end_with_their_own_code(seerctl: Run, folder: Path, tmp_path: Path) -> None:
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(b"text")
    ledger = tmp_path / "rejects.jsonl"
    result = seerctl("ingest", folder, "--rejects", ledger)
    assert result.exit_code == ExitCode.REJECTS
    assert "14.3% of the images were rejected, more than 10.0%" in result.stderr
    records, end = stream(result.stdout_bytes)
    assert (len(records), end.rejects, end.over_limit) == (24, {"not-image": 4}, True)
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert lines[0] == {"source": "0.jpg", "reason": "not-image", "detail": "begins with b'text'"}
    assert seerctl("ingest", folder, "--max-reject-rate", "0.2").exit_code == 0


def test_options_reach_the_work(seerctl: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"id,where\n1,{folder}/a/000.jpg\n")
    records, end = stream(
        seerctl(
            "ingest", tmp_path / "t.csv", "--path-column", "where", "--check", "strict", "--formats", "PSD",
            "--max-pixels", 5000, "--max-bytes", 100_000, "--timeout", 5, "--max-memory", 1 << 28,
        ).stdout_bytes
    )  # fmt: skip
    assert [record.meta["columns"] for record in records] == [{"id": 1}]
    assert "PSD" in end.start["options"]["formats"]
    assert (end.start["options"]["check"], end.start["options"]["max_pixels"]) == ("strict", 5000)
    records, _ = stream(seerctl("ingest", folder, "--no-labels").stdout_bytes)
    assert {tuple(record.meta["columns"]) for record in records} == {()}
    assert "24 bomb" in seerctl("ingest", folder, "--max-pixels", 10).stderr


def test_stdin_is_a_list_or_a_tar(seerctl: Run, folder: Path) -> None:
    names = [str(path) for path in sorted(folder.rglob("*.*"))]
    for arguments, text in (((), "\n".join(names)), (("-0",), "\0".join(names))):
        records, _ = stream(seerctl("ingest", "-", *arguments, stdin=text).stdout_bytes)
        assert [record.meta["source"] for record in records] == names
    whole = seerctl("ingest", folder).stdout_bytes
    assert seerctl("ingest", "-", stdin=whole).stdout_bytes == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no SOURCE"),
        (("-", "-"), "named twice"),
        (("x.jpg", "--formats", "EPS"), "no format 'EPS'"),
    ],
)
def test_wrong_arguments_are_usage(seerctl: Run, arguments: tuple[str, ...], words: str) -> None:
    result = seerctl("ingest", *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert words in result.stderr
