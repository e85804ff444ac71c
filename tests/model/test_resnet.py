"""ResNets: torchvision's outputs, names and counts; every layout in and out; and a run that trains one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import resnet

from seerctl.errors import InputError
from seerctl.model.convert import Target, convert
from seerctl.model.heads import SwAVHead
from seerctl.model.init import init_weights
from seerctl.model.layouts.source import open_source
from seerctl.model.load import load_model
from seerctl.model.shapes import size_of
from seerctl.model.sizes import SIZES, ResNetSize, name_of, size_named
from seerctl.model.trunk import build_trunk
from seerctl.model.weights import save_weights
from seerctl.train.planner.blocks import chain_of
from seerctl.train.planner.trace import trace
from tests.training import small_recipe

MICRO = "resnet-micro"
# The same tensor by four libraries, written by hand: torchvision (and timm), VISSL, Hugging Face.
SAME = [
    ("conv1.weight", "_feature_blocks.conv1.weight", "resnet.embedder.embedder.convolution.weight"),
    ("bn1.running_var", "_feature_blocks.bn1.running_var", "resnet.embedder.embedder.normalization.running_var"),
    ("layer2.1.conv1.weight", "_feature_blocks.layer2.1.conv1.weight",
     "resnet.encoder.stages.1.layers.1.layer.0.convolution.weight"),
    ("layer2.0.bn2.bias", "_feature_blocks.layer2.0.bn2.bias",
     "resnet.encoder.stages.1.layers.0.layer.1.normalization.bias"),
    ("layer4.0.bn3.weight", "_feature_blocks.layer4.0.bn3.weight",
     "resnet.encoder.stages.3.layers.0.layer.2.normalization.weight"),
    ("layer3.0.downsample.0.weight", "_feature_blocks.layer3.0.downsample.0.weight",
     "resnet.encoder.stages.2.layers.0.shortcut.convolution.weight"),
    ("layer1.0.downsample.1.running_mean", "_feature_blocks.layer1.0.downsample.1.running_mean",
     "resnet.encoder.stages.0.layers.0.shortcut.normalization.running_mean"),
]  # fmt: skip


def _meta(size: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build_trunk(SIZES[size]).state_dict()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Trunk and head of a small ResNet under our names."""
    trunk = build_trunk(SIZES[MICRO])
    init_weights(trunk, seed=3)
    head = SwAVHead(96, [12, 8], 10, nn.BatchNorm1d)
    parts = {"trunk": trunk, "head": head}
    return {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}


@pytest.fixture
def ours(state: dict[str, Tensor], tmp_path: Path) -> Path:
    save_weights(tmp_path / "ours.safetensors", state, {"size": MICRO})
    return tmp_path / "ours.safetensors"


def test_outputs_are_torchvisions() -> None:
    theirs = torchvision.models.resnet50(weights=None)
    trunk = build_trunk(SIZES["resnet50"])
    assert sum(p.numel() for p in trunk.parameters()) == 25_557_032 - 2048 * 1000 - 1000 == 23_508_032
    trunk.load_state_dict({key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")})
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert (trunk.eval()(images) - theirs.eval()(images)).abs().max() == 0.0
        found = trunk.features(images, ["res2", "res5", "avgpool"])
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "res2": (2, 256, 16, 16), "res5": (2, 2048, 2, 2), "avgpool": (2, 2048),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "inner", "groups"), [
    ("resnet50", (64, 128, 256, 512), 1), ("resnet101", (64, 128, 256, 512), 1),
    ("resnext50_32x4d", (128, 256, 512, 1024), 32), ("wide_resnet50_2", (128, 256, 512, 1024), 1),
])  # fmt: skip
def test_sizes_are_read_from_shapes(name: str, inner: tuple[int, ...], groups: int) -> None:
    with torch.device("meta"):
        theirs = getattr(resnet, name)(weights=None).state_dict()
        trunk = {key: value for key, value in theirs.items() if not key.startswith("fc.")}
        size = size_of(trunk, name)
        assert isinstance(size, ResNetSize)
        assert (size.inner_widths, size.widths) == (inner, (256, 512, 1024, 2048))
        assert size.group_widths == tuple(width // groups for width in inner)
        built = build_trunk(size).state_dict()
    assert {key: value.shape for key, value in built.items()} == {key: value.shape for key, value in trunk.items()}
    assert (name_of(size) == "resnet50") == (name == "resnet50")


def test_what_is_no_bottleneck_is_refused() -> None:
    with torch.device("meta"):
        basic = resnet.resnet18(weights=None).state_dict()
    with pytest.raises(InputError, match="no ResNet's of bottleneck blocks"):
        size_of(basic, "resnet18.pth")
    with pytest.raises(ValueError, match="is no bottleneck's"):
        ResNetSize((1,), (30,), (8,), (8,))
    assert size_named("resnet50").stem_width == 64


@pytest.mark.parametrize(("to", "column"), [("torchvision", 0), ("timm", 0), ("vissl", 1), ("hf", 2)])
def test_each_layout_has_its_librarys_names_and_comes_back(
    state: dict[str, Tensor], ours: Path, tmp_path: Path, to: Target, column: int
) -> None:
    done = convert(ours, tmp_path / "theirs.pth", to, keep_head=to == "vissl")
    assert (done.family, done.size, done.head) == ("ResNet", MICRO, "swav" if to == "vissl" else "none")
    written = torch.load(tmp_path / "theirs.pth", weights_only=True)
    if to == "vissl":
        model = written["classy_state_dict"]["base_model"]["model"]
        assert torch.equal(model["heads"]["0.projection_head.1.running_mean"], state["head.projection.1.running_mean"])
        written = model["trunk"]
    for names in SAME:
        assert torch.equal(written[names[column]], state[f"trunk.{names[0]}"])
    back = open_source(tmp_path / "theirs.pth")
    assert back.size == SIZES[MICRO]
    assert all(torch.equal(back.trunk[key].tensor(), state[f"trunk.{key}"]) for key in _meta(MICRO))
    assert len(back.head) == (10 if to == "vissl" else 0)


def test_swavs_released_files_are_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Trunk and head as one module inside DistributedDataParallel (facebookresearch/swav, main_swav.py)."""
    theirs = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        rest = rest.replace("projection.", "projection_head.") if part == "head" else rest
        theirs[f"module.{rest}"] = value
    torch.save({"epoch": 800, "state_dict": theirs, "optimizer": {}}, tmp_path / "swav.pth.tar")
    source = open_source(tmp_path / "swav.pth.tar")
    assert source.layout == "SwAV state dict"
    assert {f"head.{key}" for key in source.head} == {key for key in state if key.startswith("head.")}
    assert torch.equal(source.head["prototypes.weight"].tensor(), state["head.prototypes.weight"])
    loaded = load_model(str(tmp_path / "swav.pth.tar"))
    assert (loaded.name, loaded.widths[-1]) == (MICRO, 96)


def test_plans_know_its_blocks() -> None:
    recipe = small_recipe(f"model.size={MICRO}")
    blocks = chain_of(recipe, 2, 2, "fp32").blocks
    assert [block.name for block in blocks] == ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"]
    plain = trace(recipe, 1, 2)
    again = trace(small_recipe(f"model.size={MICRO}", "parallel.activation_checkpointing=block"), 1, 2)
    assert again.flops - plain.flops == sum(block.flops for block in blocks) > 0
    assert plain.trunk == sum(p.numel() for p in build_trunk(SIZES[MICRO]).parameters())
