"""`seerctl inspect`: what people and scripts are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from seerctl.errors import ExitCode
from seerctl.shards.split import Split
from tests.streams import numbered, set_of, shards_of, stream_of

Run = Callable[..., Result]


def test_a_set_is_described_for_people(seerctl: Run, tmp_path: Path) -> None:
    set_of(tmp_path / "set", 12, maxcount=5).close()
    result = seerctl("inspect", tmp_path / "set")
    assert result.exit_code == 0
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert lines["samples"].strip() == "12"
    assert lines["short side"].strip() == "median 8, half in 8 to 8, 90 % in 8 to 8, all in 8 to 8 px"
    assert lines["column label"].strip() == "string, 12 of them set, 3 values: a 4, b 4, c 4"
    assert "verified" not in lines


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_set_is_described_for_scripts(seerctl: Run, tmp_path: Path, kind: str) -> None:
    set_of(tmp_path / "set", 12, maxcount=5).close()
    result = seerctl("inspect", tmp_path / "set" / "index.json", "--verify", "--output-format", kind)
    found = json.loads(result.stdout)
    assert (found["kind"], found["samples"], found["shards"]) == ("shards", 12, 3)
    assert (found["verified"], found["damage"]) == (True, [])
    assert (result.stdout.count("\n") == 1) == (kind == "jsonl")


def test_damage_is_named_and_ends_with_its_code(seerctl: Run, tmp_path: Path) -> None:
    set_of(tmp_path / "set", 12, maxcount=5).close()
    path = tmp_path / "set" / "shard-000001.tar"
    path.write_bytes(path.read_bytes().replace(b"0000444", b"0000777", 1))
    result = seerctl("inspect", tmp_path / "set", "--verify", "--output-format", "json")
    assert result.exit_code == ExitCode.INPUT
    assert "set/shard-000001.tar sample 0 at byte 0 (" in result.stderr
    found = json.loads(result.stdout)
    assert not found["verified"]
    assert "damaged at byte 0: checksum" in result.stderr
    assert {fault["file"] for fault in found["damage"]} == {"shard-000001.tar"}
    assert seerctl("inspect", tmp_path / "set").exit_code == 0  # without --verify only the index is read


def test_splits_are_described_together(seerctl: Run, tmp_path: Path) -> None:
    shards_of(tmp_path / "set", stream_of(numbered(range(30))), split=Split.parse("train=0.5,val=0.5"))
    found = json.loads(seerctl("inspect", tmp_path / "set", "--verify", "--output-format", "json").stdout)
    assert found["kind"] == "splits"
    assert sum(entry["samples"] for entry in found["splits"].values()) == 30
    assert all(entry["verified"] for entry in found["splits"].values())


def test_a_feature_file_is_told_by_its_first_bytes(seerctl: Run, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    result = seerctl("inspect", tmp_path / "other.h5")
    assert result.exit_code == ExitCode.INPUT
    assert "other.h5" in result.stderr


def test_what_is_nothing_is_said(seerctl: Run, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "note.txt"):
        assert seerctl("inspect", path).exit_code == ExitCode.INPUT
