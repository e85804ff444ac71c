"""examples/copy_detection.py: numbered copies of pictures, and (slow) the whole chain on drawings."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from seerctl.errors import InputError
from tests.pictures import draw

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "copy_detection.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("copy_detection", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(9):
        path = tmp_path / "photos" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        draw(number, 96, 72).save(path, quality=92)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return tmp_path / "photos"


def test_copies_are_numbered_as_copydays_are(example: ModuleType, photos: Path, tmp_path: Path) -> None:
    example.deal(photos, tmp_path / "out", 2)
    assert sorted(p.name for p in (tmp_path / "out" / "original").iterdir()) == ["200000.jpg", "200100.jpg"]
    copies = list((tmp_path / "out" / "copies").rglob("*.jpg"))
    assert len(copies) == 2 * 19
    assert {int(path.stem) // 100 for path in copies} == {2000, 2001}
    assert {path.parent.name for path in copies} >= {"strong", "jpegqual_3", "crops_80"}
    kept = [Image.open(tmp_path / "out" / "copies" / f"crops_{share}" / name) for share, name in (
        (80, "200018.jpg"), (10, "200010.jpg"))]  # fmt: skip
    for share, picture in zip((80, 10), kept, strict=True):
        assert picture.width * picture.height == pytest.approx((1 - share / 100) * 96 * 72, rel=0.05)
    assert len(list((tmp_path / "out" / "learn").iterdir())) == 2
    assert len(list((tmp_path / "out" / "distractors").iterdir())) == 5
    with pytest.raises(InputError, match="9 photographs, 11 are needed"):
        example.deal(photos, tmp_path / "more", 5)


@pytest.mark.slow
def test_the_whole_chain(photos: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE, photos, "--out", tmp_path / "out", "--originals", "2", "--size", "64"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "copies.json").read_text())
    assert report["metrics"]["map"]["n"] == 38
    assert report["metrics"]["map_jpegqual_75"]["value"] > report["metrics"]["map_strong"]["value"]
