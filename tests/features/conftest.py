"""A shard set of drawn pictures and a tiny model with a SwAV head, and features of the one by the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from seerctl.features.extractor import Extracted
from seerctl.model.heads import SwAVHead, SwAVModel
from seerctl.model.trunk import build_trunk
from seerctl.model.weights import save_weights
from tests.extraction import COUNT, TINY, run
from tests.feature_files import picture_shards


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_shards(tmp_path_factory.mktemp("data") / "shards", COUNT, maxcount=120)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "weights.safetensors"
    torch.manual_seed(3)
    model = SwAVModel(build_trunk(TINY), SwAVHead(32, (20, 12), 6, nn.BatchNorm1d))
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    save_weights(path, model.state_dict(), {"crop_size": "32"})
    return path


@pytest.fixture(scope="session")
def reference(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "f.h5"
    assert run(data, weights, path) == Extracted({"avgpool": path}, COUNT, 0)
    return path
