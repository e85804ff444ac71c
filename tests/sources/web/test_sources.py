"""URLs wherever a source may name them: arguments, lists, tables, archives; and what a second run fetches."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from seerctl.errors import ExitCode
from seerctl.stream.reader import read_streams
from seerctl.stream.records import Record
from tests.pictures import draw
from tests.webserver import Exchange, WebServer, serving

Run = Callable[..., Result]


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    draw(seed).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture
def server() -> Iterator[WebServer]:
    with serving() as running:
        running.answers = {f"/pictures/{number}.jpg": jpeg(number) for number in range(6)}
        yield running


def samples(result: Result) -> dict[str, dict[str, object]]:
    found = [item for item in read_streams(io.BytesIO(result.stdout_bytes), "stdout") if isinstance(item, Record)]
    return {record.meta["source"]: record.meta["columns"] for record in found}


def test_lists_mix_paths_and_urls(seerctl: Run, server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.jpg").write_bytes(jpeg(9))
    names = [server.url("/pictures/0.jpg"), str(tmp_path / "here" / "a.jpg"), server.url("/gone.jpg")]
    (tmp_path / "l.txt").write_text("\n".join(names))
    result = seerctl("ingest", tmp_path / "l.txt", "--allow-private", "--rejects", "-", "--max-reject-rate", 1)
    assert samples(result) == {names[0]: {}, names[1]: {"label": "here"}}
    assert json.dumps({"source": names[2], "reason": "http-404", "detail": "404 Not Found"}) in result.stderr
    assert samples(seerctl("ingest", "-", "--allow-private", stdin=names[0])) == {names[0]: {}}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("column", ["URL", "link"])
def test_tables_of_urls_keep_their_columns(
    seerctl: Run, server: WebServer, tmp_path: Path, kind: str, column: str
) -> None:
    rows = [
        {column: server.url(f"/pictures/{number}.jpg"), "caption": f"no. {number}", "n": number} for number in range(6)
    ]
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    elif kind.startswith("jsonl"):
        text = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    else:
        mark = {"csv": ",", "tsv": "\t"}[kind]
        path.write_text("\n".join([mark.join(rows[0]), *(mark.join(map(str, row.values())) for row in rows)]))
    options = ["--url-column", "link"] if column == "link" else []
    expected = {row[column]: {"caption": row["caption"], "n": row["n"]} for row in rows}
    assert samples(seerctl("ingest", path, "--allow-private", *options)) == expected
    server.answers[f"/t.{kind}"] = path.read_bytes()
    assert samples(seerctl("ingest", server.url(f"/t.{kind}"), "--allow-private", *options)) == expected


def test_a_table_on_the_web_names_what_lies_beside_it(seerctl: Run, server: WebServer) -> None:
    server.answers["/pictures/t.csv"] = b"file,label\n0.jpg,a\n./1.jpg,b\n"
    server.answers["/l.txt"] = b"pictures/2.jpg\n"
    result = seerctl("ingest", server.url("/pictures/t.csv"), server.url("/l.txt"), "--allow-private")
    assert samples(result) == {
        server.url("/pictures/0.jpg"): {"label": "a"},
        server.url("/pictures/1.jpg"): {"label": "b"},
        server.url("/pictures/2.jpg"): {"label": "pictures"},  # as a list of files would
    }


def test_pictures_and_archives_are_arguments(seerctl: Run, server: WebServer) -> None:
    tar, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive, zipfile.ZipFile(packed, "w") as other:
        for number in range(3):
            info = tarfile.TarInfo(f"dogs/{number}.jpg")
            info.size = len(jpeg(number))
            archive.addfile(info, io.BytesIO(jpeg(number)))
            other.writestr(f"cats/{number}.jpg", jpeg(number))
    server.answers |= {
        "/a-0.tar": tar.getvalue(),
        "/a-1.tar": gzip.compress(tar.getvalue()),
        "/z.zip": packed.getvalue(),
    }
    result = seerctl("ingest", server.url("/a-{0..1}.tar"), "--allow-private")
    assert samples(result) == {f"dogs/{number}.jpg": {"label": "dogs"} for number in range(3)}
    found = samples(seerctl("ingest", server.url("/z.zip"), server.url("/pictures/5.jpg"), "--allow-private"))
    assert found == {**{f"cats/{n}.jpg": {"label": "cats"} for n in range(3)}, server.url("/pictures/5.jpg"): {}}


def test_an_archive_that_cannot_be_had_is_one_error(seerctl: Run, server: WebServer) -> None:
    def cut(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + tarfile.TarInfo("a.jpg").tobuf())
        exchange.close = True

    server.answers |= {"/cut.tar": cut, "/html.tar": b"<!doctype html>" * 99}
    for path, code, words in (
        ("/gone.tar", ExitCode.INPUT, "http-404: 404 Not Found"),
        ("/html.tar", ExitCode.INPUT, "not an archive"),
        ("/cut.tar", ExitCode.ENVIRONMENT, "it ended after 512 of 99999 bytes"),
    ):
        result = seerctl("ingest", server.url(path), "--allow-private")
        assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
    refused = seerctl("ingest", server.url("/gone.tar"))
    assert "private-address" in refused.stderr


def test_a_second_run_fetches_only_what_failed(seerctl: Run, server: WebServer, tmp_path: Path) -> None:
    urls = [server.url(f"/pictures/{number}.jpg") for number in range(6)]
    good = server.answers["/pictures/2.jpg"]
    server.answers["/pictures/2.jpg"] = lambda exchange: exchange.reply(b"", "503 Busy")
    server.answers["/pictures/3.jpg"] = b"<html>" * 50
    (tmp_path / "u.csv").write_text("url\n" + "\n".join(urls))
    ledger = tmp_path / "r.jsonl"
    arguments = ["ingest", tmp_path / "u.csv", "--allow-private", "--fetch-retries", 0, "--max-reject-rate", 1]
    assert len(samples(seerctl(*arguments, "--rejects", ledger))) == 4
    server.asked.clear()
    server.answers["/pictures/2.jpg"] = good
    assert list(samples(seerctl(*arguments, "--retry", ledger, "--rejects", tmp_path / "again.jsonl"))) == [urls[2]]
    assert server.paths == ["/pictures/2.jpg"]
    same = seerctl(*arguments, "--retry", ledger, "--rejects", ledger)
    assert same.exit_code == ExitCode.USAGE
    assert ledger.read_text()
    ledger.write_text("nonsense\n")
    assert "r.jsonl:1: not a line of a ledger" in seerctl(*arguments, "--retry", ledger).stderr


def test_opting_out_is_no_fault_and_is_recorded(seerctl: Run, server: WebServer, tmp_path: Path) -> None:
    out = lambda exchange: exchange.reply(jpeg(1), X_Robots_Tag="noai")  # noqa: E731
    server.answers |= {"/out.jpg": out}
    (tmp_path / "l.txt").write_text(f"{server.url('/out.jpg')}\n{server.url('/pictures/0.jpg')}\n")
    result = seerctl("ingest", tmp_path / "l.txt", "--allow-private")
    assert (result.exit_code, len(samples(result))) == (0, 1)
    assert "1 left out (1 opt-out)" in result.stderr
    assert len(samples(seerctl("ingest", tmp_path / "l.txt", "--allow-private", "--no-opt-outs"))) == 2
    agent = seerctl("ingest", tmp_path / "l.txt", "--user-agent", "x\r\nHost: evil")
    assert agent.exit_code == ExitCode.USAGE


def test_parquet_with_the_pictures_inside(seerctl: Run, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"image": {"bytes": jpeg(number), "path": f"{number}.jpg"}, "label": number, "raw": b"x",
             "when": datetime.date(2020, 1, 2)} for number in range(3)]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    found = samples(seerctl("ingest", tmp_path / "t.parquet"))
    assert found == {f"{number}.jpg": {"label": number, "when": "2020-01-02"} for number in range(3)}
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-9])
    broken = seerctl("ingest", tmp_path / "t.parquet")
    assert (broken.exit_code, "not a parquet table" in broken.stderr) == (ExitCode.INPUT, True)
