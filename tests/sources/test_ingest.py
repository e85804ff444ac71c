"""The whole of `ingest` as a function: every kind of source, the same bytes at any number of jobs, honest counts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import InputError
from seerctl.sources.check import CheckOptions
from seerctl.sources.ingest import IngestOptions, IngestReport, ingest
from seerctl.sources.options import SourceOptions
from seerctl.sources.reasons import Reason
from seerctl.stream.reader import IncompleteStreamError, read_streams
from seerctl.stream.records import Record, StreamEnd, content_key
from tests.pictures import draw


def run(
    *arguments: object, stdin: bytes | None = None, **options: Any
) -> tuple[bytes, IngestReport, list[dict[str, str]]]:
    """(stream, report, rejects) of one run."""
    output, ledger = io.BytesIO(), io.StringIO()
    chosen = IngestOptions(**{"jobs": 2, **options})
    report = ingest(
        [str(argument) for argument in arguments], output, chosen, stdin=stdin and io.BytesIO(stdin), rejects=ledger
    )  # fmt: skip
    return output.getvalue(), report, [json.loads(line) for line in ledger.getvalue().splitlines()]


def records(stream: bytes) -> list[Record]:
    return [item for item in read_streams(io.BytesIO(stream), "stream") if isinstance(item, Record)]


def facts(stream: bytes) -> dict[str, dict[str, Any]]:
    return {record.meta["source"]: record.meta["columns"] for record in records(stream)}


def test_a_sample_is_its_file_and_what_is_known_of_it(folder: Path) -> None:
    stream, report, rejects = run(folder)
    assert (report.samples, report.rejected, rejects) == (24, 0, [])
    found = records(stream)
    assert [record.meta["source"] for record in found] == sorted(record.meta["source"] for record in found)
    for record in found:
        data = (folder / record.meta["source"]).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        suffix = record.meta["source"].rpartition(".")[2]
        assert record.image == data
        assert record.ext == suffix
        assert record.key == content_key(sha256, record.meta["source"])
        assert record.meta == {
            "sha256": sha256, "width": 48, "height": 40, "format": {"jpg": "JPEG"}.get(suffix, suffix.upper()),
            "mode": "RGB", "orientation": 1, "source": record.meta["source"],
            "columns": {"label": record.meta["source"][0]},
        }  # fmt: skip


def test_bytes_do_not_depend_on_jobs_or_place(folder: Path, tmp_path: Path) -> None:
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    first = run(folder, jobs=1)
    for jobs in (2, 3):
        assert run(folder, jobs=jobs)[0] == first[0]
        assert run(folder, jobs=jobs)[2] == first[2]
    elsewhere = folder.rename(tmp_path / "elsewhere")
    assert run(elsewhere)[0] == first[0]


def test_rejects_are_named_and_counted(folder: Path) -> None:
    for name, data in {
        "empty.jpg": b"", "text.jpg": b"no picture", "cut.png": (folder / "a" / "003.jpg").read_bytes()[:300],
        "notes.txt": b"ignored", "drawing.eps": b"%!PS-Adobe-3.0",
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    (folder / "pipe.jpg").unlink(missing_ok=True)
    os.mkfifo(folder / "pipe.jpg")
    stream, report, rejects = run(folder)
    expected = {
        "empty.jpg": Reason.EMPTY, "text.jpg": Reason.NOT_IMAGE, "cut.png": Reason.DAMAGED,
        "notes.txt": Reason.IGNORED, "drawing.eps": Reason.FORMAT, "pipe.jpg": Reason.UNREADABLE,
    }  # fmt: skip
    assert {reject["source"]: reject["reason"] for reject in rejects} == expected
    assert report.rejects == dict(sorted(Counter(map(str, expected.values())).items()))
    assert (report.samples, report.rejected, report.candidates, report.over_limit) == (24, 5, 29, True)
    (end,) = [item for item in read_streams(io.BytesIO(stream), "s") if isinstance(item, StreamEnd)]
    assert (end.rejects, end.rejected, end.over_limit) == (report.rejects, 5, True)
    assert not run(folder, max_reject_rate=0.18)[1].over_limit


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_a_reject(folder: Path) -> None:
    (folder / "a" / "000.jpg").chmod(0)
    assert run(folder)[2][0]["reason"] == Reason.UNREADABLE


def test_labels_are_a_choice(folder: Path) -> None:
    assert set(map(tuple, facts(run(folder, sources=SourceOptions(labels=False))[0]).values())) == {()}


def test_files_lists_and_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("table.csv").write_text("file,age,sex\na/000.jpg,31,f\nb/001.png,,m\nnone.jpg,1,m\n")
    Path("list.txt").write_text("b/001.png\nc/002.webp\n")
    stream, report, rejects = run("a/000.jpg", "table.csv", "list.txt", "-", stdin=b"c/002.webp\ngone.jpg\n")
    assert [(record.meta["source"], record.meta["columns"]) for record in records(stream)] == [
        ("000.jpg", {}),
        ("a/000.jpg", {"age": 31, "sex": "f"}),
        ("b/001.png", {"sex": "m"}),
        ("b/001.png", {"label": "b"}),
        ("c/002.webp", {"label": "c"}),
        ("c/002.webp", {"label": "c"}),
    ]
    assert report.rejects == {"missing": 2}
    assert [reject["source"] for reject in rejects] == ["none.jpg", "gone.jpg"]


def tarred(folder: Path, mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, arcname="train")
    return file.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_tars_compressed_or_not_from_files_and_pipes(folder: Path, tmp_path: Path, mode: str) -> None:
    data = tarred(folder, mode)
    (tmp_path / "odd-name").write_bytes(data)
    stream, report, _ = run(tmp_path / "odd-name")
    assert report.samples == 24
    assert {label["label"] for label in facts(stream).values()} == {"a", "b", "c"}
    assert all(source.startswith("train/") for source in facts(stream))
    assert run("-", stdin=data)[0] == stream


def test_a_stream_checked_again_is_the_same(folder: Path, tmp_path: Path) -> None:
    stream = run(folder)[0]
    assert run("-", stdin=stream)[0] == stream
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(stream))
    assert run(tmp_path / "s.tar.gz")[0] == stream


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_a_damaged_archive_stops_it(folder: Path, tmp_path: Path, pack: Any) -> None:
    data = pack(tarred(folder, "w"))
    path = tmp_path / "t.tar"
    path.write_bytes(data[: len(data) * 2 // 3])
    output = io.BytesIO()
    with pytest.raises(InputError, match=r"t\.tar: (damaged|cut)"):
        ingest([str(path)], output, IngestOptions(jobs=2))
    with pytest.raises(IncompleteStreamError):
        list(read_streams(io.BytesIO(output.getvalue()), "stream"))


def test_nothing_to_read_is_an_error(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jpg").write_bytes(b"text")
    for arguments, words in (
        ([tmp_path / "empty"], "there is no file in it"),
        ([tmp_path / "bad"], r"no image came through \(1 not-image\)"),
        ([folder, tmp_path / "nowhere"], "nowhere: no such file"),
        (["-"], "there is no file in it"),
    ):
        output = io.BytesIO()
        with pytest.raises(InputError, match=words):
            ingest([str(argument) for argument in arguments], output, IngestOptions(jobs=1), stdin=io.BytesIO())
        with pytest.raises(IncompleteStreamError):
            list(read_streams(io.BytesIO(output.getvalue()), "stream"))


def test_a_file_that_is_no_tar_but_called_one(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(b"<html>" * 100)
    with pytest.raises(InputError, match="not an archive"):
        run(tmp_path / "t.tar")


def test_too_large_files_and_pictures(folder: Path) -> None:
    largest = max(path.stat().st_size for path in folder.rglob("*.*"))
    _, report, rejects = run(folder, check=CheckOptions(max_bytes=largest - 1), max_reject_rate=1.0)
    assert set(report.rejects) == {"too-large"}
    assert "more than" in rejects[0]["detail"]
    draw(0, 300, 300).save(folder / "large.png")
    assert run(folder, check=CheckOptions(max_pixels=80_000))[1].rejects == {"bomb": 1}


def test_small_and_long_pictures_are_left_out_but_no_fault(folder: Path) -> None:
    draw(0, 30, 100).save(folder / "long.png")
    draw(0, 20, 20).save(folder / "small.png")
    stream, report, rejects = run(folder, check=CheckOptions(min_side=30, max_aspect=3.0), max_reject_rate=0.0)
    assert {reject["source"]: reject["reason"] for reject in rejects} == {
        "long.png": "aspect",
        "small.png": "too-small",
    }
    assert "30x100" in rejects[0]["detail"]
    assert (report.rejects, report.rejected, report.over_limit) == ({"aspect": 1, "too-small": 1}, 0, False)
    (end,) = [item for item in read_streams(io.BytesIO(stream), "s") if isinstance(item, StreamEnd)]
    assert (end.rejected, end.start["options"]["min_side"], end.start["options"]["max_aspect"]) == (0, 30, 3.0)
    assert run(folder, check=CheckOptions(min_side=20, max_aspect=4.0))[1].samples == 26
    assert "min_side" not in IngestOptions().recorded()


@pytest.mark.data
def test_every_hostile_file_is_a_sample_or_a_named_reject(shared_data: Path) -> None:
    files = shared_data / "hostile" / "files"
    for level in ("header", "decode", "strict"):
        stream, report, rejects = run(files, check=CheckOptions(level))
        names = [record.meta["source"] for record in records(stream)] + [reject["source"] for reject in rejects]
        assert sorted(names) == sorted(path.name for path in files.iterdir())
        assert {reject["reason"] for reject in rejects} <= set(Reason)
        assert report.samples > 100
        assert not {"timeout", "crashed"} & set(report.rejects)


@pytest.mark.data
def test_real_collections(shared_data: Path) -> None:
    _, report, _ = run(shared_data / "clothing")
    assert (report.samples, report.rejects) == (941, {})
    stream, report, _ = run(shared_data / "emoji" / "metadata.csv")
    assert (report.samples, report.rejects) == (3394, {})
    columns = next(iter(facts(stream).values()))
    assert columns["emoji_version"] == 1.0
    assert columns["codepoints"] == "1F600"
