"""What the training tests share: a shard set of generated pictures and a recipe that takes a second."""

from __future__ import annotations

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
