"""examples/quickstart.sh as it stands, but for a few steps of training, on its own digits and on a folder of images."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    Path(sys.prefix) != REPOSITORY / ".venv", reason="these tests do not run in the .venv that quickstart.sh uses"
)


def quickstart(out: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "QUICKSTART_OUT": str(out), "SEERCTL_PRETRAIN_SET": "schedule.steps=6"}
    command = ["bash", str(REPOSITORY / "examples/quickstart.sh"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def check_reports(out: Path, said: str) -> None:
    report = json.loads((out / "knn.json").read_text())
    top1 = report["metrics"]["top1"]
    assert 0 <= top1["low"] <= top1["value"] <= top1["high"] <= 1
    assert f"kNN top-1: {top1['value']:.1%}" in said
    assert "fairness audit: " in said
    assert json.loads((out / "audit" / "report.json").read_text())["schema"]
    assert xml.etree.ElementTree.parse(out / "audit" / "junit.xml").getroot().tag in ("testsuites", "testsuite")
    with (out / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == top1["n"]


def test_quickstart_on_digits(tmp_path: Path) -> None:
    done = quickstart(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    check_reports(tmp_path / "out", done.stdout)
    assert len(list((tmp_path / "out" / "digits").rglob("*.png"))) == 1797
    again = quickstart(tmp_path / "nothing", tmp_path / "missing")
    assert again.returncode != 0
    assert not (tmp_path / "nothing").exists()


def test_quickstart_on_a_folder(folder: Path, picture, tmp_path: Path) -> None:
    for number in range(24, 120):
        picture(number).save(folder / "abc"[number % 3] / f"{number}.png")
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    done = quickstart(tmp_path / "out", folder)
    assert done.returncode == 0, done.stderr
    check_reports(tmp_path / "out", done.stdout)
    assert "broken.jpg" in (tmp_path / "out" / "rejects.jsonl").read_text()
