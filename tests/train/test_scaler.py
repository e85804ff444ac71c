"""The loss scale of float16: exact without overflows, halved and counted where there is one, kept over a stop."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from seerctl.errors import Diverged, Saved, UsageError
from seerctl.recipe import ParallelConfig
from seerctl.train.metrics import Metrics
from seerctl.train.scaler import LossScaler
from seerctl.train.start import train
from tests.distributed.ranks import StopAfter
from tests.training import make_shards, small_recipe

HALF = ("parallel.precision=fp16", "parallel.loss_scale_growth=3", "parallel.loss_scale=32768")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("half") / "run"
    train(small_recipe(*HALF), shards, run)
    return run


def _rows(run: Path) -> list[dict[str, Any]]:
    return Metrics(run / "metrics.jsonl").rows()


def _scaler(**changes: Any) -> LossScaler:
    return LossScaler(ParallelConfig(**({"precision": "fp16", "loss_scale": 8.0, "loss_scale_growth": 2} | changes)))


def test_gradients_are_divided_and_overflows_found() -> None:
    model = nn.Linear(3, 2)
    scaler = _scaler()
    (model(torch.ones(4, 3)).sum() * scaler.scale).backward()
    assert scaler.unscale(model) == 0
    assert torch.equal(model.weight.grad, torch.full((2, 3), 4.0))
    model.weight.grad[1, 2] = float("inf")
    assert scaler.unscale(model) == 1


def test_the_scale_halves_and_doubles() -> None:
    scaler = _scaler()
    scales = []
    for overflow in (True, False, False, False, True, False, False):
        assert scaler.adapt(overflow)
        scales.append(scaler.scale)
    assert scales == [4, 4, 8, 8, 4, 4, 8]
    assert scaler.facts() == {"loss_scale": 8.0, "skipped": 2}
    lowest = _scaler(loss_scale=2.0)
    assert lowest.adapt(True)
    assert not lowest.adapt(True)  # at 1, nothing is left to try


def test_other_precisions_have_none() -> None:
    scaler = _scaler(precision="fp32")
    assert (scaler.scale, scaler.facts(), scaler.state()) == (1.0, {}, {})
    model = nn.Linear(1, 1)
    model(torch.ones(1, 1)).backward()
    assert scaler.unscale(model) == 0
    assert scaler.adapt(False)


def test_a_run_leaves_out_what_overflows_and_learns_the_rest(finished: Path, shards: Path, tmp_path: Path) -> None:
    rows = _rows(finished)
    skipped = [row["skipped"] for row in rows]
    assert 0 < skipped[-1] < 8
    assert skipped == sorted(skipped)
    for before, row in itertools.pairwise(rows):
        left_out = row["skipped"] > before["skipped"]
        assert ("gradient_norm" not in row) == left_out
        assert row["loss_scale"] == before["loss_scale"] / 2 if left_out else row["loss_scale"] >= before["loss_scale"]
    train(small_recipe(), shards, tmp_path / "plain")
    assert rows[0]["loss"] == pytest.approx(_rows(tmp_path / "plain")[0]["loss"], rel=1e-2)
    assert all(value.isfinite().all() for value in load_file(finished / "weights.safetensors").values())


def test_stopping_and_going_on_is_bit_equal(finished: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(Saved):
        train(small_recipe(*HALF), shards, tmp_path / "run", progress=StopAfter(2))
    train(small_recipe(*HALF), shards, tmp_path / "run")
    keys = ("step", "loss", "loss_scale", "skipped")
    ours, expected = ([[row[key] for key in keys] for row in _rows(run)] for run in (tmp_path / "run", finished))
    assert ours == expected


def test_gradients_that_no_scale_helps_end_the_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LossScaler, "unscale", lambda *_: torch.ones(()))
    recipe = small_recipe("parallel.precision=fp16", "parallel.loss_scale=2")
    with pytest.raises(Diverged, match="the gradient of step 2 is not finite; the update was not made"):
        train(recipe, shards, tmp_path / "run")


def test_settings_that_contradict_each_other() -> None:
    for override, message in (
        ("parallel.reduce_dtype=fp16", "needs precision"),
        ("parallel.loss_scale=0.5", "loss_scale must be at least 1"),
        ("parallel.loss_scale_growth=0", "loss_scale_growth"),
    ):
        with pytest.raises(UsageError, match=message):
            small_recipe(override)
