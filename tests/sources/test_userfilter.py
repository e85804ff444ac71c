"""A user's own function: what it is given, what its answers do, and what becomes of its mistakes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from seerctl.cli import run as command_line
from seerctl.errors import ExitCode
from tests.commands.test_ingest import stream

Run = Callable[..., Result]
FILTERS = """
import ctypes, time
import numpy as np

def everything(candidate):
    return None

def by_column(candidate):
    return candidate.columns["label"] != "b"

def small(candidate):
    if candidate.width * candidate.height < 2000 or candidate.data[:1] == b"":
        return "too  small\\nto use"

def numpy_says(candidate):
    return np.asarray(candidate.image).shape == (40, 48, 3) and np.bool_(candidate.format != "WEBP")

def breaks(candidate):
    return {}["missing"]

def number(candidate):
    return 1

def crashes(candidate):
    if candidate.source.endswith("000.jpg"):
        ctypes.string_at(0)

def spins(candidate):
    while candidate.source.endswith("000.jpg"):
        pass

def writes(candidate):
    candidate.columns["label"] = "x"

constant = 3
"""


@pytest.fixture(autouse=True)
def _filters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder.parent)
    Path("ownfilters.py").write_text(FILTERS)
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.mark.parametrize(
    ("name", "left", "detail"),
    [
        ("everything", 24, ""), ("by_column", 16, "ownfilters:by_column"),
        ("small", 0, "ownfilters:small: too small to use"), ("numpy_says", 18, "ownfilters:numpy_says"),
    ],
)  # fmt: skip
def test_answers(seerctl: Run, name: str, left: int, detail: str) -> None:
    result = seerctl("ingest", "pictures", "--filter", f"ownfilters:{name}", "--rejects", "r.jsonl", "-j", 2)
    if not left:
        assert result.exit_code == ExitCode.INPUT
        assert "no image came through (24 filtered)" in result.stderr
    else:
        assert result.exit_code == 0
        records, end = stream(result.stdout_bytes)
        assert len(records) == left
        assert end.rejected == 0
        assert end.rejects.get("filtered", 0) == 24 - left
        assert end.start["options"]["filters"] == [f"ownfilters:{name}"]
    assert Path("r.jsonl").read_text().count(f'"detail": "{detail}"' if detail else "detail") == 24 - left


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ownfilters:breaks", "--filter ownfilters:breaks: KeyError: 'missing' at ownfilters.py:"),
        ("ownfilters:number", "returned int, on 'a/000.jpg'"),
        ("ownfilters:none", "AttributeError: module 'ownfilters' has no attribute 'none'"),
        ("ownfilters:constant", "is no function"),
        ("nowhere:f", "no module 'nowhere'"),
        ("ownfilters", "not module:function"),
        ("os.system('x'):f", "not module:function"),
        ("ownfilters:writes", "TypeError"),
    ],
)
def test_mistakes_name_the_function(seerctl: Run, name: str, words: str) -> None:
    result = seerctl("ingest", "pictures", "--filter", name, "-o", "s.tar")
    assert result.exit_code == ExitCode.USAGE
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("s.tar").exists()


@pytest.mark.parametrize(("name", "reason"), [("crashes", "crashed"), ("spins", "timeout")])
def test_it_runs_under_the_limits_of_a_picture(seerctl: Run, name: str, reason: str) -> None:
    result = seerctl("ingest", "pictures", "--filter", f"ownfilters:{name}", "--timeout", 0.5)
    assert result.exit_code == 0
    records, end = stream(result.stdout_bytes)
    assert (len(records), end.rejects) == (23, {reason: 1})


def test_only_a_flag_loads_code(seerctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEERCTL_INGEST_FILTER", "ownfilters:small")
    monkeypatch.setenv("SEERCTL_INGEST_FILTERS", "ownfilters:small")
    assert len(stream(seerctl("ingest", "pictures").stdout_bytes)[0]) == 24


def test_the_project_file_cannot_load_code(capfd: pytest.CaptureFixture[str]) -> None:
    Path("seerctl.toml").write_text('[ingest]\nfilters = ["ownfilters:small"]\n')
    assert command_line(["ingest", "pictures"]) == ExitCode.USAGE
    assert "loads code" in capfd.readouterr().err
