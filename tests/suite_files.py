"""A small suite over feature files: two entries that run, one that is run elsewhere, one published value."""

from __future__ import annotations

from pathlib import Path

from tests.feature_files import pair

SUITE = """
description = "Clouds."
[[entry]]
name = "neighbours"
task = "clouds"
protocol = "knn"
target = "label"
options = { k = [5] }
features = { train = "train.h5", test = "test.h5" }
[[entry.published]]
model = "SwAV"
value = 71.5
metric = "top1"
protocol = "knn"
source = "a paper"
differs = "k was 20"
[[entry]]
name = "ridge"
task = "clouds"
protocol = "linear"
target = "label"
options = { l2 = [0.1] }
features = { train = "train.h5", test = "test.h5" }
[[entry]]
name = "boxes"
task = "detection"
elsewhere = "needs boxes"
"""


def clouds_suite(where: Path) -> Path:
    """`SUITE` as clouds.toml in the directory `where`, with the features that it names; returns the directory."""
    pair(where, classes=6)
    (where / "clouds.toml").write_text(SUITE)
    return where
