"""What the training tests share: a shard set of generated pictures and a recipe that takes a second."""

from __future__ import annotations

from pathlib import Path

from seerctl.recipe import Recipe, load_recipe
from tests.pictures import draw

CROPS = "augment.crops=[{size=32, count=2, scale=[0.3, 1.0]}, {size=16, count=2, scale=[0.1, 0.3]}]"
SMALL = (
    "model.size=micro",
    "model.head=[32, 16]",
    "model.head_batchnorm=false",
    "model.prototypes=24",
    "data.batch=16",
    "data.workers=0",
    CROPS,
    "augment.mode=fused",
    "schedule.steps=8",
    "loss.freeze_prototypes=2",
    "optim.name=sgd",
    "optim.larc=true",
    "optim.lr=0.2",
    "optim.lr_scaling=none",
    "optim.weight_decay=1e-5",
    "parallel.precision=fp32",
    "checkpoint.every=4",
    "run.log_every=1",
    "run.device=cpu",
)


def small_recipe(*overrides: str) -> Recipe:
    """A recipe for tests: 26 k parameters, 8 steps of 16 pictures, every step logged."""
    return load_recipe("nano", [*SMALL, *overrides])


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
