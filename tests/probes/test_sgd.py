"""SEER's linear probe: torch's own SGD and BatchNorm, candidates that do not meet, the choice, several layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seerctl.errors import UsageError
from seerctl.probes.layers import LayersTask, load_layers
from seerctl.probes.sgd import Schedule, _Heads, _train, sgd
from tests.feature_files import clouds, pair, write_features


@pytest.fixture
def task(tmp_path: Path) -> LayersTask:
    train, test = pair(tmp_path, rows=300, test=200, classes=5, spread=2.0)
    return load_layers([train], [test], "label")


@pytest.mark.parametrize("kind", ["batchnorm", "plain"])
def test_each_rate_is_trained_as_torch_would_alone(kind: Any) -> None:
    points, names = clouds(90, classes=4, seed=3)
    features, labels = torch.from_numpy(points), torch.tensor([int(name[1:]) for name in names])
    schedule = Schedule(epochs=4, milestones=(2,), batch=32, weight_decay=0.01)
    rates = [0.02, 0.5]
    heads = _Heads.start(0, kind, rates, 4, features, seed=5)
    start = heads.weight[0].detach().clone()
    _train([heads], [features], labels, schedule, 5, None)
    for place, rate in enumerate(rates):
        linear, norm = nn.Linear(16, 4), nn.BatchNorm1d(16)
        with torch.no_grad():
            linear.weight.copy_(start), linear.bias.zero_()
        model = nn.Sequential(norm, linear) if kind == "batchnorm" else nn.Sequential(linear)
        groups = [{"params": linear.parameters(), "weight_decay": 0.01}, {"params": norm.parameters()}]
        optimizer = torch.optim.SGD(groups, lr=rate * 32 / 256, momentum=0.9, nesterov=True)
        generator = torch.Generator().manual_seed(5)
        for epoch in range(4):
            if epoch == 2:
                for group in optimizer.param_groups:
                    group["lr"] *= 0.1
            order = torch.randperm(90, generator=generator)
            for rows in order.split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(features[rows]), labels[rows]).backward()
                optimizer.step()
        model.eval()
        torch.testing.assert_close(
            heads.logits(features, training=False)[place], model(features), rtol=1e-3, atol=1e-4
        )  # fmt: skip


def test_schedule() -> None:
    seer = Schedule()
    assert [round(seer.factor(epoch * 10, 10), 9) for epoch in (0, 7, 8, 16, 24, 27)] == [1, 1, 0.1, 0.01, 0.001, 0.001]
    cosine = Schedule(epochs=10, cosine=True)
    assert [round(cosine.factor(step, 1), 6) for step in (0, 5)] == [1, 0.5]


def test_choice_and_report(task: LayersTask) -> None:
    result = sgd(task, [1e-6, 0.1], heads=["plain", "batchnorm"], epochs=6, milestones=[4], full=True)
    settings = result.report["settings"]
    assert len(settings["choice"]) == 4
    best = max(settings["choice"], key=lambda entry: entry["top1"])
    assert (settings["lr"], settings["head"]) == (best["lr"], best["head"])
    assert settings["lr"] == 0.1
    assert settings["augmentation"].startswith("none")
    assert result.report["metrics"]["top1"]["value"] > 0.5
    np.testing.assert_allclose(result.scores.sum(1), 1)
    alone = sgd(task, [0.1], heads=[settings["head"]], epochs=6, milestones=[4])
    assert alone.report["settings"]["choice"] == []
    np.testing.assert_array_equal(alone.predictions.prediction, result.predictions.prediction)


def test_the_better_layer_is_chosen(tmp_path: Path) -> None:
    train, test = pair(tmp_path, rows=300, test=100, classes=3)
    noise = []
    for name, rows, start in (("n1.h5", 300, 0), ("n2.h5", 100, 300)):
        points = np.random.default_rng(start).normal(size=(rows, 8)).astype(np.float32)
        labels = clouds(rows, seed=1 if start == 0 else 2)[1]
        noise.append(write_features(tmp_path / name, points, {"label": labels}, start=start, layer="res4:gem4"))
    task = load_layers([noise[0], train], [noise[1], test], "label")
    report = sgd(task, [0.1], epochs=3, milestones=[2]).report
    assert report["settings"]["layer"] == "avgpool"
    assert report["train_avgpool"]["layer"] == "avgpool"
    assert report["metrics"]["top1"]["value"] > 0.8


def test_refusals(task: LayersTask, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="above 0"):
        sgd(task, [0.0])
    with pytest.raises(UsageError, match="an epoch"):
        sgd(task, epochs=0)
    train, test = pair(tmp_path / "more")
    with pytest.raises(UsageError, match="2 training files and 1 test files"):
        load_layers([train, train], [test], "label")
    with pytest.raises(UsageError, match="'avgpool' comes twice"):
        load_layers([train, train], [test, test], "label")
    fewer = write_features(tmp_path / "few.h5", clouds(50)[0], {"label": clouds(50)[1]}, layer="res4", start=0)
    fewer_test = write_features(tmp_path / "few2.h5", clouds(50)[0], {"label": clouds(50)[1]}, layer="res4", start=900)
    with pytest.raises(UsageError, match="other rows than"):
        load_layers([train, fewer], [test, fewer_test], "label")
