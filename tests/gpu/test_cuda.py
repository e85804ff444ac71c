"""The same commands on a CUDA device: training follows the CPU's losses, checkpoints change nothing, features agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seerctl.augment.config import AugmentConfig
from seerctl.augment.device import finish
from seerctl.augment.multicrop import MultiCrop
from seerctl.cli import run
from seerctl.features.store import FeatureFile
from tests.training import SMALL, make_shards

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


def losses(shards: Path, where: Path, *settings: str) -> list[float]:
    overrides = [part for setting in settings for part in ("--set", setting)]
    assert run(["pretrain", "--recipe", str(SMALL), "--data", str(shards), "-o", str(where), *overrides]) == 0
    return [json.loads(line)["loss"] for line in (where / "metrics.jsonl").read_text().splitlines()]


def test_a_cuda_run_follows_the_cpu_run(shards: Path, tmp_path: Path) -> None:
    cpu = losses(shards, tmp_path / "cpu")
    cuda = losses(shards, tmp_path / "cuda", "run.device=cuda")
    assert cuda == pytest.approx(cpu, rel=2e-3)


def test_bf16_and_activation_checkpoints_train(shards: Path, tmp_path: Path) -> None:
    plain = losses(shards, tmp_path / "plain", "run.device=cuda", "parallel.precision=bf16")
    saved = losses(
        shards, tmp_path / "saved", "run.device=cuda", "parallel.precision=bf16",
        "parallel.activation_checkpointing=block",
    )  # fmt: skip
    assert saved == pytest.approx(plain, rel=1e-2)


def test_fp16_with_its_scale_trains(shards: Path, tmp_path: Path) -> None:
    plain = losses(shards, tmp_path / "plain", "run.device=cuda")
    half = losses(
        shards, tmp_path / "half", "run.device=cuda", "parallel.precision=fp16", "parallel.reduce_dtype=fp16",
        "parallel.activation_checkpointing=block",
    )  # fmt: skip
    assert half == pytest.approx(plain, rel=1e-2)


def test_views_finished_on_the_device_are_the_cpus(picture: Callable[..., Image.Image]) -> None:
    sources = [np.array(picture(number, 60, 48)) for number in range(12)]
    multicrop = MultiCrop(AugmentConfig(mode="device"), seed=1)
    for views, draws in zip(*multicrop.halves(sources, np.arange(12), np.zeros(12, int)), strict=True):
        ours, expected = finish(views.cuda(), draws).cpu(), finish(views, draws)
        # A rounding that falls the other way is one level of 255, 0.02 here.
        assert ((ours - expected).abs() < 1e-3).float().mean() > 0.99
        assert (ours - expected).abs().mean() < 1e-3


def test_augmentation_on_the_device_trains(shards: Path, tmp_path: Path) -> None:
    cpu = losses(shards, tmp_path / "cpu", "augment.mode=device")
    cuda = losses(shards, tmp_path / "cuda", "augment.mode=device", "run.device=cuda")
    assert cuda == pytest.approx(cpu, rel=2e-3)


def test_features_agree_with_the_cpus(shards: Path, tmp_path: Path) -> None:
    losses(shards, tmp_path / "run", "run.device=cuda")
    rows = {}
    for device in ("cpu", "cuda"):
        output = tmp_path / f"{device}.h5"
        arguments = ["extract", "--model", tmp_path / "run", "--data", shards, "-o", output, "--device", device]
        assert run([str(part) for part in arguments]) == 0
        rows[device] = FeatureFile.open(output).features()
    np.testing.assert_allclose(rows["cuda"], rows["cpu"], rtol=1e-2, atol=1e-3)
