"""`seerctl probe compare` and `seerctl report PROBE.json`: what a shell sees of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.feature_files import picture_shards
from tests.probes.test_compare import probe

Run = Callable[..., Any]


def test_scaling_of_scores_and_gaps(cli: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = {"small": (3.0, 26_000), "middle": (1.5, 550_000), "large": (0.3, 1_350_000)}
    reports = [probe(tmp_path, name, noise=noise, parameters=size) for name, (noise, size) in names.items()]
    audits = []
    for path in reports[::-1]:  # in another order than the probes
        done = cli("-q", "audit", "--fairness", "--predictions", path.with_suffix(".csv"), "--groups", "group",
                   "-o", tmp_path / path.stem)  # fmt: skip
        assert done.exit_code in (0, 3, 6), done.stderr
        audits.append(tmp_path / path.stem / "report.json")
    done = cli(
        "probe", "compare", *reports, *audits, "--x", "params", "-o", tmp_path / "out", "--output-format", "json"
    )
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [model["parameters"] for model in found["models"]] == [26_000, 550_000, 1_350_000]
    assert json.loads((tmp_path / "out/compare.json").read_text()) == found
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"scaling-top1.svg", "scaling-top1.png", "scaling-mean_per_class.svg", "gap-accuracy.svg"} <= files
    texts = ["".join(e.itertext()) for e in ET.parse(tmp_path / "out/gap-accuracy.svg").iter()]
    assert {"26 k", "550 k", "1.35 M", "old", "young"} <= set(texts)
    done = cli("probe", "compare", *reports, "--x", "images", "-o", tmp_path / "images")
    assert done.exit_code == 0, done.stderr
    for more, code, message in (
        (["--x", "params"], 2, "Name a directory with -o"),
        ([audits[0]], 2, "Pass --x params"),
        (["-o", tmp_path / "out"], 2, "exists already"),
        (["--max-worse", "0.01"], 0, ""),
        (["--metric", "nothing"], 2, "not in every report"),
    ):
        done = cli("probe", "compare", *reports, *more)
        assert (done.exit_code, message in done.stderr) == (code, True), done.stderr
    assert cli("probe", "compare", *reports[::-1], "--max-worse", "0.01").exit_code == 3


def test_reports_that_do_not_say_how_large_their_model_is(cli: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    reports = [probe(tmp_path, name, noise=1.0) for name in "ab"]
    done = cli("probe", "compare", *reports, "--x", "images", "-o", tmp_path / "out")
    assert (done.exit_code, "does not say the pictures seen in training" in done.stderr) == (2, True)


def test_a_page_of_a_probe(cli: Run, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    path = probe(tmp_path, "a", noise=1.0)
    done = cli("report", path, "-o", tmp_path / "a.html", "--map", "pca", "--figures", tmp_path / "figures")
    assert done.exit_code == 0, done.stderr
    page = (tmp_path / "a.html").read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=.?https?:", page)
    assert json.loads(path.read_text())["test"]["sha256"] in page
    expected = {f"{name}.{form}" for name in ("scores", "classes", "confusion", "map") for form in ("svg", "png")}
    assert {file.name for file in (tmp_path / "figures").iterdir()} == expected
    (tmp_path / "a.csv").unlink()
    (tmp_path / "a-test.h5").write_bytes(b"other")
    done = cli("report", path, "-o", tmp_path / "b.html")
    assert done.exit_code == 0
    page = (tmp_path / "b.html").read_text()
    assert page.count("<svg") == 2
    assert "Left out: confusion matrix" in page
    assert "a-test.h5 has changed since" in page
    for arguments, message in (
        ([path, path], "a page is of one probe"),
        ([tmp_path, "--map", "pca", "--data", tmp_path], "are for the report of a probe"),
    ):
        done = cli("report", *arguments, "-o", tmp_path / "c.html")
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr


def test_nearest_pictures(cli: Run, tmp_path: Path) -> None:
    from seerctl.features.store import FeatureFile

    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    shards = picture_shards(tmp_path / "shards", 12)
    done = cli("-q", "extract", "--model", "torchvision:regnet_y_400mf", "--data", shards, "--size", 32,
               "-o", tmp_path / "f.h5", "--workers", 0)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    with FeatureFile.open(tmp_path / "f.h5") as file:
        assert file.header.lineage["parameters"] > 3_000_000
    done = cli("-q", "probe", "knn", "--train", tmp_path / "f.h5", "--test", tmp_path / "f.h5", "--target", "label",
               "--k", 3, "-o", tmp_path / "r.json", "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["test"]["parameters"] > 3_000_000
    done = cli("report", tmp_path / "r.json", "-o", tmp_path / "r.html", "--map", "none", "--data", shards)
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "r.html").read_text().count("data:image/png;base64,") == 1
