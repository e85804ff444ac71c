"""A RegNetY carried to torchvision's, timm's and Hugging Face's layout: their own networks give the same features."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from seerctl.model.convert import Target, convert
from seerctl.model.init import init_weights
from seerctl.model.load import load_model
from seerctl.model.sizes import SIZES
from seerctl.model.trunk import Trunk, build_trunk
from seerctl.model.weights import save_weights

SIZE = "400mf"
CLOSE = 1e-5  # of the largest feature: libraries order the same sums differently


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    """Random weights, and statistics that no layout could leave out unseen."""
    trunk = build_trunk(SIZES[SIZE])
    init_weights(trunk, seed=0)
    torch.manual_seed(1)
    for name, tensor in trunk.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            tensor.normal_(0.0, 0.2)
    return trunk.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def torchvisions() -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    network = torchvision.models.regnet_y_400mf(weights=None)
    network.fc = nn.Identity()
    return network, lambda model, images: model(images)


def timms() -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    timm = pytest.importorskip("timm")
    return timm.create_model("regnety_004", num_classes=0), lambda model, images: model(images)


def huggingfaces() -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.RegNetConfig(
        embedding_size=32, hidden_sizes=list(SIZES[SIZE].widths), depths=list(SIZES[SIZE].depths), groups_width=8,
        layer_type="y",
    )  # fmt: skip
    network = nn.ModuleDict({"regnet": transformers.RegNetModel(config)})
    return network, lambda model, images: model["regnet"](images).pooler_output.flatten(1)  # type: ignore[index]


LIBRARIES: dict[Target, Callable[[], tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]]] = {
    "torchvision": torchvisions, "timm": timms, "hf": huggingfaces,
}  # fmt: skip


@pytest.mark.parametrize("layout", LIBRARIES)
def test_features_there_and_back(trunk: Trunk, images: Tensor, tmp_path: Path, layout: Target) -> None:
    save_weights(tmp_path / "ours.safetensors", {f"trunk.{k}": v for k, v in trunk.state_dict().items()}, {})
    convert(tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors", layout)
    network, features = LIBRARIES[layout]()
    network.load_state_dict(safetensors.torch.load_file(tmp_path / "theirs.safetensors"))
    convert(tmp_path / "theirs.safetensors", tmp_path / "back.safetensors", "seerctl")
    back = copy.deepcopy(load_model(str(tmp_path / "back.safetensors")).trunk).eval()
    with torch.inference_mode():
        ours, theirs, again = trunk(images), features(network.eval(), images), back(images)
    largest = float((ours - theirs).abs().max() / ours.abs().max())
    print(f"{layout}: greatest difference {largest:.1e} of the greatest feature")  # shown by pytest -rP
    assert float(ours.std(0).mean()) > 0  # no constant, which any network could equal
    assert largest <= CLOSE, largest
    assert torch.equal(again, ours)
