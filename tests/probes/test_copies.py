"""Copies: Copydays' rule of file numbers, splits by directory, a ranking by hand, several files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seerctl.errors import InputError, UsageError
from seerctl.probes.copies import copies, load_copies
from tests.feature_files import write_features


def file(where: Path, angles: list[float], names: list[str], start: int, **columns: list[str]) -> Path:
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return write_features(where, points, {"name": names, **columns}, start=start)


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    return file(tmp_path / "o.h5", [0.0, 1.0, 2.0], ["original/200000.jpg", "original/200100.jpg", "o/200200.jpg"], 0)


def test_file_numbers_splits_and_marks_by_hand(originals: Path, tmp_path: Path) -> None:
    names = ["jpegqual/3/200001.jpg", "jpegqual/3/200101.jpg", "strong/200002.jpg", "strong/200201.jpg"]
    # The third is of the first original (0.0) but lies closest to the second (1.0).
    altered = file(tmp_path / "c.h5", [0.1, 1.1, 0.7, 2.0], names, 10)
    result = copies(load_copies([altered], originals, names="name"), full=True)
    metrics = result.report["metrics"]
    assert metrics["map_jpegqual_3"]["value"] == 1.0
    assert metrics["map_strong"]["value"] == pytest.approx((0.25 + 1) / 2)  # place 1: (0/1 + 1/2) / 2
    assert metrics["mp1_strong"]["value"] == pytest.approx(0.5)
    assert metrics["map"]["value"] == pytest.approx((1 + 1 + 0.25 + 1) / 4)
    assert metrics["map"]["low"] < metrics["map"]["value"]
    assert [(row["split"], row["queries"]) for row in result.report["splits"]] == [("jpegqual_3", 2), ("strong", 2)]
    assert result.rankings[2]["found"][0]["relevant"] is False
    assert result.report["settings"]["matched_by"] == "file number // 100"


def test_columns_distractors_and_several_files(originals: Path, tmp_path: Path) -> None:
    one = file(tmp_path / "crops.h5", [0.1, 1.2], ["x", "y"], 10, photo=["original/200000.jpg", "original/200100.jpg"])
    two = file(tmp_path / "blur.h5", [2.1], ["z"], 20, photo=["o/200200.jpg"])
    base = file(tmp_path / "b.h5", [0.0, 1.0, 2.0], ["x", "y", "z"], 0,
                photo=["original/200000.jpg", "original/200100.jpg", "o/200200.jpg"])  # fmt: skip
    crowd = file(tmp_path / "d.h5", [1.15, 1.25], ["d", "e"], 30)
    result = copies(load_copies([one, two], base, target="photo", names="photo", distractors=[crowd]))
    metrics = result.report["metrics"]
    assert metrics["map"]["value"] == pytest.approx((1 + (0 + 1 / 3) / 2 + 1) / 3)
    assert result.report["index_rows"] == 5
    assert set(result.report) >= {"test", "test1", "train", "distractors"}
    by_file = copies(load_copies([one, two], base, target="photo"))
    assert {row["split"] for row in by_file.report["splits"]} == {"crops", "blur"}


def test_originals_find_themselves_and_orphans_are_counted(originals: Path, tmp_path: Path) -> None:
    same = copies(load_copies([originals], originals, names="name"))
    assert same.report["metrics"]["map"]["value"] == 1.0
    strange = file(tmp_path / "s.h5", [0.1, 0.2], ["200001.jpg", "999901.jpg"], 10)
    result = copies(load_copies([strange], originals, names="name"))
    assert result.report["metrics"]["map"]["n"] == 1
    assert "1 of 2 queries are of no original" in result.report["warnings"][0]


def test_bad_input(originals: Path, tmp_path: Path) -> None:
    nameless = file(tmp_path / "n.h5", [0.1], ["holiday.jpg"], 10)
    with pytest.raises(InputError, match=r"no query is of an original in .*--target"):
        load_copies([nameless], originals)
    with pytest.raises(InputError, match=r"'holiday.jpg' has no number"):
        load_copies([nameless], originals, names="name")
    stranger = file(tmp_path / "x.h5", [0.1], ["900000.jpg"], 10)
    with pytest.raises(InputError, match="no query is of an original"):
        load_copies([stranger], originals, names="name")
    with pytest.raises(UsageError, match="no column 'attack'"):
        load_copies([stranger], originals, names="name", split="attack")


def test_views_of_the_same_keys_are_copies(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    clean = file(tmp_path / "clean.h5", [0.0, 1.0, 2.0], names, 0)
    points = np.stack([np.cos([0.1, 1.9, 2.1]), np.sin([0.1, 1.9, 2.1])], axis=1).astype(np.float32)
    foggy = write_features(tmp_path / "foggy.h5", points, {"corruption": ["fog:3"] * 3}, corruption="fog:3")
    result = copies(load_copies([foggy], clean, split="corruption"))
    assert result.report["metrics"]["mp1"]["value"] == pytest.approx(2 / 3)
    assert result.report["splits"][0]["split"] == "fog:3"
    assert result.report["settings"]["matched_by"] == "key"
