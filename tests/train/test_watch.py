"""Speed and TensorBoard: counts that other sources confirm, and event files that say what metrics.jsonl says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seerctl.errors import Saved, UsageError
from seerctl.recipe import load_recipe
from seerctl.train.metrics import Metrics
from seerctl.train.speed import Speed, flops_per_image
from seerctl.train.start import train
from seerctl.train.world import World
from tests.distributed.ranks import StopAfter
from tests.training import make_shards, small_recipe


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


def test_operations_of_an_image_are_the_published_ones() -> None:
    # 15.9 billion multiplications at 224 pixels; the head adds 96 million a crop, the backward pass twice as much.
    one = load_recipe("16gf", ["augment.crops=[{size = 224, count = 2, scale = [0.14, 1.0]}]"])
    assert flops_per_image(one) == pytest.approx(2 * 3 * 2 * 16.0e9, rel=0.01)
    # Padded small crops take the operations of big ones: 1.743 times, says VISSL's own code on these sizes.
    own, padded = (flops_per_image(load_recipe("10b", [f"loss.small_crops={how}"])) for how in ("own", "pad"))
    assert padded / own == pytest.approx(1.743, rel=0.01)
    labelled = load_recipe("supervised", ["loss.classes=10"])
    assert flops_per_image(labelled, 10) > 0


def test_utilisation_is_images_times_operations_over_the_peak() -> None:
    facts = Speed(flops=2e9, peak=1e12, devices=4).facts(images_per_second=1000.0)
    assert facts == {"images_per_second_per_device": 250.0, "mfu": pytest.approx(0.5)}
    assert Speed(0.0, 0.0, 2).facts(10.0) == {"images_per_second_per_device": 5.0}


def test_the_peak_is_the_devices_at_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(device=torch.device("cuda", 0), size=4)
    for name, gib, precision, peak in (
        ("NVIDIA A100-SXM4-40GB", 40, "bf16", 312e12),
        ("Tesla V100-SXM2-32GB", 32, "fp16", 125e12),
        ("NVIDIA A100-SXM4-40GB", 40, "fp32", 0.0),
        ("Some other device", 40, "bf16", 0.0),
    ):
        properties = SimpleNamespace(name=name, total_memory=gib << 30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=properties: found)
        speed = Speed.of(small_recipe(f"parallel.precision={precision}"), world)
        assert (speed.peak, speed.devices) == (peak, 4)
        assert (speed.flops > 0) == (peak > 0)
    assert Speed.of(small_recipe(), World()).peak == 0  # of a CPU nobody knows


def test_event_files_say_what_the_metrics_say(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = small_recipe("watch.tensorboard=true", "checkpoint.every=2")
    with pytest.raises(Saved):
        train(recipe, shards, tmp_path / "run", progress=StopAfter(3))
    train(recipe, shards, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = Metrics(tmp_path / "run" / "metrics.jsonl").rows()
    for name in ("loss", "lr", "images_per_second_per_device"):
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == list(range(1, 9))
        assert [scalar.value for scalar in scalars] == pytest.approx([row[name] for row in rows], rel=1e-6)


def test_without_the_package_it_is_said_before_anything_is_written(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="needs the package tensorboard"):
        train(small_recipe("watch.tensorboard=true"), shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()
