"""Tables: a path a row, every other column kept with its type."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from seerctl.errors import InputError, UsageError
from seerctl.sources.item import Item
from seerctl.sources.reasons import Reason
from seerctl.sources.table import table_items


def items_of(path: Path, text: str | bytes, column: str | None = None) -> list[Item]:
    data = text.encode() if isinstance(text, str) else text
    opener: Callable[[], BinaryIO] = lambda: io.BytesIO(data)  # noqa: E731
    return list(table_items(path, opener, column))


def columns_of(path: Path, text: str | bytes, column: str | None = None) -> list[dict[str, Any]]:
    return [item.columns for item in items_of(path, text, column)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "007"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path / "t.csv"


def test_types_are_those_of_whole_columns(table: Path) -> None:
    text = "path,n,x,code,mixed,empty,word\na.jpg,1,1,007,12,,yes\nb.jpg,-20,2.5e3,10,n/a,,\n"
    assert columns_of(table, text) == [
        {"n": 1, "x": 1.0, "code": "007", "mixed": "12", "word": "yes"},
        {"n": -20, "x": 2500.0, "code": "10", "mixed": "n/a"},
    ]
    assert [type(row["x"]) for row in columns_of(table, text)] == [float, float]


@pytest.mark.parametrize("text", ["1,5", "1_000", "0x10", "1e999", "+1", "inf", "nan", " 1", "12345678901234567890"])
def test_what_is_not_written_as_a_number_is_text(table: Path, text: str) -> None:
    (row,) = columns_of(table, f'path,x\na.jpg,"{text}"\n')
    assert row == {"x": text}


def test_paths_are_relative_to_the_table(table: Path) -> None:
    (table.parent / "sub").mkdir()
    (table.parent / "sub" / "c.jpg").touch()
    items = items_of(table, f"file,label\n./sub//c.jpg,1\n{table.parent}/a.jpg,2\nmissing.jpg,3\n,4\n")
    assert [item.source for item in items] == ["sub/c.jpg", f"{table.parent}/a.jpg", "missing.jpg", "t.csv:5"]
    assert [item.verdict and item.verdict[0] for item in items] == [None, None, Reason.MISSING, Reason.BAD_ROW]
    assert Path(items[0].path).samefile(table.parent / "sub" / "c.jpg")


def test_the_column_of_paths_is_found_or_named(table: Path) -> None:
    assert items_of(table, "id,image\n1,a.jpg\n")[0].source == "a.jpg"
    assert items_of(table, "id,picture\n1,a.jpg\n", "picture")[0].columns == {"id": 1}
    assert items_of(table, "file,path\n007,a.jpg\n")[0].source == "a.jpg"
    assert items_of(table, "file,path\n007,a.jpg\n", "file")[0].source == "007"
    with pytest.raises(UsageError, match="--path-column"):
        items_of(table, "id,picture\n1,a.jpg\n")
    with pytest.raises(UsageError, match=r"no column 'pictur'\. Did you mean 'picture'"):
        items_of(table, "id,picture\n1,a.jpg\n", "pictur")


def test_quotes_marks_and_odd_bytes(table: Path) -> None:
    text = b'\xef\xbb\xbfpath,note,a/b\r\na.jpg,"two\nlines, ""quoted""",1\r\n\r\nb.jpg,\xff\xe4,2\r\n'
    assert columns_of(table, text) == [
        {"note": 'two\nlines, "quoted"', "a_b": 1},
        {"note": "\ufffd\ufffd", "a_b": 2},
    ]


def test_tabs(table: Path) -> None:
    assert columns_of(table.with_suffix(".tsv"), "path\tx y\na.jpg\t1,5\n") == [{"x y": "1,5"}]


@pytest.mark.parametrize("text", ["", "\n", "path,path\na.jpg,b.jpg\n", ",\n1,2\n"])
def test_no_header_is_no_table(table: Path, text: str) -> None:
    with pytest.raises(InputError, match="first line"):
        items_of(table, text)


def test_json_lines_keep_their_types(table: Path) -> None:
    path = table.with_suffix(".jsonl")
    lines = [
        '{"path": "a.jpg", "n": 1, "x": 1.5, "yes": true, "none": null, "list": ["a", "b"], "text": "\\u00e4"}',
        "",
        '{"path": "b.jpg", "n": NaN, "big": 1' + "0" * 40 + ', "broken": "\\ud800"}',
        "[1]",
        "{",
        '{"n": 5}',
        '{"path": 5}',
    ]
    items = items_of(path, "\n".join(lines))
    assert [item.columns for item in items[:2]] == [
        {"n": 1, "x": 1.5, "yes": True, "list": ["a", "b"], "text": "ä"},
        {"big": "1" + "0" * 40, "broken": "?"},
    ]
    assert [(item.source, item.verdict and item.verdict[0]) for item in items[2:]] == [
        (f"t.jsonl:{line}", Reason.BAD_ROW) for line in (4, 5, 6, 7)
    ]


def test_a_compressed_table_is_read_twice_too(table: Path) -> None:
    data = gzip.compress(b"path,n\na.jpg,1\nb.jpg,x\n")
    items = list(table_items(Path(f"{table}.gz"), lambda: gzip.open(io.BytesIO(data)), None))  # noqa: SIM115
    assert [item.columns for item in items] == [{"n": "1"}, {"n": "x"}]
