"""What the training tests share: a shard set of generated pictures and a recipe that takes a second."""

from __future__ import annotations

import csv
from pathlib import Path

from seerctl.recipe import Recipe, load_recipe
from tests.pictures import draw

SMALL = Path(__file__).with_name("small.toml")


def small_recipe(*overrides: str) -> Recipe:
    """tests/small.toml: 26 k parameters, 8 steps of 16 pictures, every step logged."""
    return load_recipe(SMALL, overrides)


def make_shards(folder: Path, pictures: int = 40) -> Path:
    """A shard set of `pictures` generated PNGs under `folder`, through the same commands that users run."""
    from seerctl.cli import run

    images = folder / "images"
    images.mkdir(parents=True)
    for number in range(pictures):
        draw(number, 48, 40).save(images / f"{number:03d}.png")
    assert run(["-q", "ingest", str(images), "-o", str(folder / "stream.tar")]) == 0
    assert run(["-q", "shard", str(folder / "stream.tar"), "-o", str(folder / "shards"), "--maxcount", "16"]) == 0
    return folder / "shards"


def make_labelled(folder: Path, pictures: int = 40, classes: int = 4, unlabelled: int = 0) -> Path:
    """A shard set of pictures with the columns `label` ("0", "1", ...: how bright; first ones without) and `group`."""
    from seerctl.cli import run

    images = folder / "images"
    images.mkdir(parents=True)
    rows = []
    for number in range(pictures):
        label = number % classes
        path = images / f"{number:03d}.png"
        draw(number, 48, 40).point(lambda value, label=label: value // 4 + label * 180 // classes).save(path)
        rows.append([path, "" if number < unlabelled else f"{label}", "fm"[number // classes % 2]])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "group"], *rows])
    assert run(["-q", "ingest", str(folder / "table.csv"), "-o", str(folder / "stream.tar")]) == 0
    assert run(["-q", "shard", str(folder / "stream.tar"), "-o", str(folder / "shards"), "--maxcount", "16"]) == 0
    return folder / "shards"


def supervised_recipe(*overrides: str) -> Recipe:
    """tests/small.toml, learning the labels of `make_labelled`."""
    return small_recipe("loss.objective=supervised", *overrides)
