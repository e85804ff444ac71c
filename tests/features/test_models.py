"""Models of torchvision, timm and the user's own: their layers against other ways to the same numbers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD
from seerctl.errors import EnvironmentFault, InputError, UsageError
from seerctl.features.encoder import make_encoder
from seerctl.features.frozen import Frozen
from seerctl.features.layers import Layer
from seerctl.features.models import load_frozen
from seerctl.features.networks import HookedNetwork, TrunkNetwork
from seerctl.features.pixels import View
from seerctl.model.weights import state_sha256

SIDE = 64


def pixels(count: int = 2, height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(1)).byte()


def normalised(images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    return torchvision.transforms.functional.normalize(images / 255, list(mean), list(std))


def encode(model: Frozen, *layers: str, images: Tensor | None = None, size: int = SIDE) -> list[Tensor]:
    wanted = [Layer.parse(layer) for layer in layers]
    encoder = make_encoder(model.network, View.of(size), wanted, "float32", torch.device("cpu"), "it")
    with torch.inference_mode():
        found: list[Tensor] = encoder(pixels() if images is None else images, wanted)
    return found


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A ResNet-18 of torchvision with statistics that count, and its file."""
    torch.manual_seed(5)
    module = torchvision.models.resnet18(weights=None).eval()
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            child.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    path = tmp_path_factory.mktemp("resnet") / "resnet18.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in module.state_dict().items()}}, path)
    return module, path


def test_a_resnet_from_a_file_gives_what_torchvisions_own_extractor_gives(resnet: tuple[nn.Module, Path]) -> None:
    module, path = resnet
    theirs = create_feature_extractor(module, ["layer3", "layer3.0.bn1", "flatten", "fc"])
    with torch.no_grad():
        expected = theirs(normalised(pixels()))
    found = encode(load_frozen(f"torchvision:resnet18@{path}"), "res4", "res4:max", "layer3.0.bn1", "avgpool", "fc")
    close(found[0], expected["layer3"].mean((2, 3)))
    close(found[1], expected["layer3"].amax((2, 3)))
    # before the ReLU that follows and works in place
    close(found[2], module.layer3[0].bn1(module.layer3[0].conv1(module.layer2(_stem(module)))).mean((2, 3)))  # type: ignore[union-attr,index]
    assert expected["layer3.0.bn1"].min() >= 0  # which is what a hook that copies nothing would see
    close(found[3], expected["flatten"])
    close(found[4], expected["fc"])


def _stem(module: nn.Module) -> Tensor:
    with torch.no_grad():
        out = module.maxpool(module.relu(module.bn1(module.conv1(normalised(pixels())))))  # type: ignore[operator]
        return module.layer1(out)  # type: ignore[operator,no-any-return]


def test_files_with_another_classifier_or_none(resnet: tuple[nn.Module, Path], tmp_path: Path) -> None:
    state = {name: value for name, value in resnet[0].state_dict().items() if not name.startswith("fc.")}
    whole = encode(load_frozen(f"torchvision:resnet18@{resnet[1]}"), "avgpool")[0]
    save_file(state, tmp_path / "none.safetensors")
    close(encode(load_frozen(f"torchvision:resnet18@{tmp_path}/none.safetensors"), "avgpool")[0], whole)
    head = {"fc.weight": torch.ones(10, 512), "fc.bias": torch.zeros(10)}
    save_file({**state, **head}, tmp_path / "ten.safetensors")
    pooled, logits = encode(load_frozen(f"torchvision:resnet18@{tmp_path}/ten.safetensors"), "avgpool", "fc")
    close(pooled, whole)
    close(logits, whole.sum(1, keepdim=True).expand(-1, 10))
    save_file({name: value for name, value in state.items() if name != "conv1.weight"}, tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match=r"cut.safetensors.*'conv1.weight' is missing"):
        load_frozen(f"torchvision:resnet18@{tmp_path}/cut.safetensors")
    with pytest.raises(InputError, match="layer1"):
        load_frozen(f"torchvision:resnet34@{tmp_path}/ten.safetensors")
    with pytest.raises(InputError, match="no such file"):
        load_frozen(f"torchvision:resnet18@{tmp_path}/absent.pth")


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (load_frozen("torchvision:shufflenet_v2_x0_5") for _ in range(2))
    assert first.weights_sha256 == second.weights_sha256
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(first.network, HookedNetwork)
    assert first.network.module is not None
    assert first.weights_sha256 == state_sha256(first.network.module.state_dict().items())


def test_a_regnet_of_torchvision_is_one_of_ours() -> None:
    assert isinstance(load_frozen("torchvision:regnet_y_400mf").network, TrunkNetwork)


def test_tokens_of_a_transformer() -> None:
    torch.manual_seed(0)
    module = torchvision.models.VisionTransformer(SIDE, 16, 2, 2, 24, 48).eval()
    blocks = create_feature_extractor(module, ["encoder.layers.encoder_layer_0", "getitem_5"])
    with torch.no_grad():
        expected = blocks(normalised(pixels()))
    tokens = expected["encoder.layers.encoder_layer_0"]
    assert tokens.shape == (2, 17, 24)
    model = Frozen(HookedNetwork(module, "heads.head"), "vit", "", View.of(SIDE))
    name = "encoder.layers.encoder_layer_0"
    mean, first, grid, final = encode(model, name, f"{name}:cls", f"{name}:4x4", "avgpool")
    close(mean, tokens[:, 1:].mean(1))
    close(first, tokens[:, 0])
    close(grid, tokens[:, 1:].transpose(1, 2).reshape(2, -1))
    close(final, expected["getitem_5"])
    with pytest.raises(InputError, match=r"fails on pictures of 96x96.*--size"):
        encode(model, "avgpool", size=96)


def test_channels_that_come_last_are_found() -> None:
    torch.manual_seed(0)
    module = torchvision.models.SwinTransformer([4, 4], 12, [1, 1, 1, 1], [1, 1, 2, 2], [4, 4]).eval()
    final, moved = encode(Frozen(HookedNetwork(module, "head"), "swin", "", View.of(96)), "norm:2x1", "permute:2x1",
                          images=pixels(2, 96, 96), size=96)  # fmt: skip
    close(final, moved)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_timm(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = timm.create_model(name, pretrained=False, num_classes=7).eval()
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    model = load_frozen(f"timm:{name}@{tmp_path}/w.safetensors")
    settings = timm.data.resolve_model_data_config(module)
    assert (model.view.mean, model.view.deviation) == (settings["mean"], settings["std"])
    assert model.view.size == settings["input_size"][1] == 160
    assert model.view.short == int(160 / settings["crop_pct"])
    assert model.facts["timm"] == timm.__version__
    layers = [Layer.parse("avgpool")]
    encoder = make_encoder(model.network, model.view, layers, "float32", torch.device("cpu"), name)
    images = pixels(2, 160, 160)
    with torch.inference_mode():
        inputs = normalised(images, settings["mean"], settings["std"])
        expected = module.forward_head(module.forward_features(inputs), pre_logits=True)
        close(encoder(images, layers)[0], expected)
    mean, deviation = (" ".join(f"{value:g}" for value in settings[key]) for key in ("mean", "std"))
    usual = settings["mean"] == IMAGENET_MEAN
    assert ("ImageNet mean" if usual else f"mean {mean} deviation {deviation}") in model.view.steps()


def test_timm_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Did you mean"):
        load_frozen("timm:resnet17")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'seerctl\[timm\]'"):
        load_frozen("timm:resnet18")


def test_unknown_models_and_layers() -> None:
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        load_frozen("torchvision:resnet17")
    with pytest.raises(UsageError, match="Did you mean 'torchvision:'"):
        load_frozen("torchvison:resnet18")
    model = load_frozen("torchvision:shufflenet_v2_x0_5")
    with pytest.raises(UsageError, match=r"no layer 'x'\. Known: .*avgpool.* and other submodules, as "):
        encode(model, "x")


# -------------------------------------------------------------------------------------------------- the user's function

CODE = """
import torch
def means():
    function = lambda images: {"avgpool": images.mean((2, 3)), "map": images, "words": "none"}
    function.preprocess = {"size": 48, "mean": (0, 0, 0), "std": (1, 1, 1), "crop": 0.5}
    return function
def module():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
def number(): return 3
def odd():
    function = lambda images: images
    function.preprocess = {"side": 3}
    return function
def fails(): raise ValueError("no weights here")
def late():
    def function(images): raise RuntimeError("not today")
    return function
open("ran", "w")
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return name


def test_code_runs_only_when_it_is_trusted(code: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"would run code. Pass --trust-code"):
        load_frozen(f"{code}:means")
    assert not (tmp_path / "ran").exists()
    model = load_frozen(f"{code}:means", trust_code=True)
    assert (tmp_path / "ran").exists()
    assert (model.view.size, model.view.short) == (48, 96)
    encoder = make_encoder(
        model.network, model.view, [Layer("avgpool"), Layer.parse("map:2x1")], "float32", torch.device("cpu"), "it"
    )
    images = pixels(3, 48, 48)
    mean, halves = encoder(images, [Layer("avgpool"), Layer.parse("map:2x1")])
    close(mean, images.float().mean((2, 3)) / 255)
    close(halves.view(3, 3, 2), torch.stack([images[:, :, :24], images[:, :, 24:]], 2).float().mean((3, 4)) / 255)
    with pytest.raises(InputError, match="layer 'words' is str"):
        encode(model, "words")
    other = load_frozen(f"{code}:module", trust_code=True)
    assert other.facts["code_sha256"] == model.facts["code_sha256"]
    assert other.facts["parameters"] == 3 * 4 * 9 + 4
    assert other.weights_sha256 != model.weights_sha256
    assert [found.shape for found in encode(other, "avgpool", "0")] == [(2, 4 * 62 * 62), (2, 4)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "AttributeError"),
        ("number", "returns int"),
        ("odd", "its 'preprocess' is none"),
        ("fails", "ValueError: no weights here"),
    ],
)
def test_code_that_makes_no_model(name: str, message: str, code: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_frozen(f"{code}:{name}", trust_code=True)


def test_code_that_fails_on_pictures(code: str) -> None:
    with pytest.raises(InputError, match=r"fails on pictures of 64x64 .RuntimeError: not today"):
        encode(load_frozen(f"{code}:late", trust_code=True), "avgpool")
    with pytest.raises(UsageError, match="ModuleNotFoundError"):
        load_frozen("no_such_module:function", trust_code=True)


# ------------------------------------------------------------------------------------------------------------ the hooks


class Counted(nn.Module):
    """Two stages, of which the second counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Identity()
        self.calls = 0
        self.two.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def forward(self, images: Tensor) -> Tensor:
        return self.two(self.one(images)).mean((2, 3))  # type: ignore[no-any-return]


def test_the_rest_of_a_model_is_not_run() -> None:
    module = Counted()
    network = HookedNetwork(module)
    network.try_out(["one"], (8, 8), "it")
    tried = module.calls
    assert torch.equal(network.features(pixels().float(), ["one"])["one"], module.one(pixels().float()))  # type: ignore[arg-type]
    assert module.calls == tried == 1
    network.try_out(["one", "avgpool"], (8, 8), "it")
    network.features(pixels().float(), ["one", "avgpool"])
    assert module.calls == tried + 2


def test_threads_do_not_see_each_others_layers() -> None:
    network = HookedNetwork(Counted())
    network.try_out(["one", "avgpool"], (8, 8), "it")
    inputs = [torch.full((2, 3, 8, 8), float(number)) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda images: network.features(images, ["one", "avgpool"]), inputs))
    for images, found in zip(inputs, together, strict=True):
        alone = network.features(images, ["one", "avgpool"])
        assert torch.equal(alone["one"], found["one"])  # type: ignore[arg-type]
        assert torch.equal(alone["avgpool"], found["avgpool"])  # type: ignore[arg-type]
