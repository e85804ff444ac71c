"""Weights in and out: round trips, sizes from shapes, hostile and wrong files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from seerctl.errors import EnvironmentFault, InputError
from seerctl.files import sha256_file
from seerctl.model.init import init_weights
from seerctl.model.load import load_model
from seerctl.model.shapes import size_of
from seerctl.model.sizes import SIZES
from seerctl.model.trunk import Trunk, build_trunk
from seerctl.model.weights import check_size, save_weights


@pytest.fixture
def trunk() -> Trunk:
    built = build_trunk(SIZES["micro"])
    init_weights(built, seed=5)
    built.stem[1].running_mean.fill_(0.25)
    return built.eval()


@pytest.fixture
def run(tmp_path: Path, trunk: Trunk) -> Path:
    state = {f"trunk.{key}": value for key, value in trunk.to(memory_format=torch.channels_last).state_dict().items()}
    save_weights(tmp_path / "weights.safetensors", state, {"size": "micro", "step": "7"})
    return tmp_path


def test_a_run_loads_as_it_was_saved(run: Path, trunk: Trunk) -> None:
    loaded = load_model(str(run))
    images = torch.randn(3, 3, 32, 32)
    assert torch.allclose(loaded.trunk(images), trunk(images), atol=1e-6)
    assert loaded.name == "regnet_y_micro"
    assert loaded.widths == (16, 24, 32, 64)
    assert loaded.weights_sha256 == sha256_file(run / "weights.safetensors")
    assert loaded.metadata["step"] == "7"
    assert not loaded.trunk.training
    assert not any(parameter.requires_grad for parameter in loaded.trunk.parameters())
    assert load_model(str(run / "weights.safetensors")).weights_sha256 == loaded.weights_sha256


def test_saving_leaves_no_temporary_file(run: Path) -> None:
    assert [path.name for path in run.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize("name", ["micro", "nano", "8gf", "256gf", "256gf-5088", "10b"])
def test_sizes_are_read_from_shapes(name: str) -> None:
    with torch.device("meta"):
        built = build_trunk(SIZES[name])
    assert size_of(built.state_dict(), "here") == SIZES[name]


def test_a_torchvision_checkpoint_of_tensors(tmp_path: Path) -> None:
    theirs = torchvision.models.regnet_y_400mf(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    plain, named = (
        load_model(str(tmp_path / "theirs.pth")),
        load_model(f"torchvision:regnet_y_400mf@{tmp_path}/theirs.pth"),
    )
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain.trunk(images), theirs(images))
    assert torch.equal(named.trunk(images), theirs(images))
    assert (plain.name, named.name) == ("regnet_y_400mf", "torchvision:regnet_y_400mf")


def test_random_torchvision_weights_are_the_same_each_time() -> None:
    first, second = load_model("torchvision:regnet_y_400mf"), load_model("torchvision:regnet_y_400mf")
    assert first.weights_sha256 == second.weights_sha256
    assert torch.equal(first.trunk.stem[0].weight, second.trunk.stem[0].weight)
    assert first.metadata["weights"] == "random"


def test_weights_of_another_width_name_both_sizes(run: Path) -> None:
    with pytest.raises(InputError, match=r"'micro' \(widths 16/24/32/64.*but '400mf' \(widths 48/104/208/440"):
        load_model(f"torchvision:regnet_y_400mf@{run}/weights.safetensors")
    with pytest.raises(InputError, match="nano"):
        check_size(SIZES["micro"], SIZES["nano"], "here")


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Bomb()))
    torch.save({"model": _Bomb()}, tmp_path / "zipped.pth")
    for name in ("plain.pth", "zipped.pth"):
        with pytest.raises(InputError, match="not a file of plain tensors"):
            load_model(name)
    assert not (tmp_path / "exploded").exists()


def test_files_that_are_no_models(tmp_path: Path, run: Path) -> None:
    whole = (run / "weights.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    state = safetensors.torch.load_file(run / "weights.safetensors")
    del state["trunk.trunk_output.block2.block2-0.f.c.0.weight"]
    safetensors.torch.save_file(state, tmp_path / "holes.safetensors")
    state["trunk.trunk_output.block2.block2-0.f.c.0.weight"] = torch.zeros(24, 25, 1, 1)
    safetensors.torch.save_file(state, tmp_path / "shapes.safetensors")
    for name, message in {
        "cut.safetensors": "not a whole safetensors file",
        "empty.safetensors": "not a whole safetensors file",
        "other.safetensors": "holds no RegNet or ResNet trunk",
        "holes.safetensors": r"'trunk_output.block2.block2-0.f.c.0.weight' is missing",
        "shapes.safetensors": r"has shape \[24, 25, 1, 1\], this model's is \[24, 24, 1, 1\]",
        "absent.safetensors": "no such file",
    }.items():
        with pytest.raises(InputError, match=message):
            load_model(str(tmp_path / name))


def test_names_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a RegNetY of torchvision. Did you mean 'regnet_y_400mf'"):
        load_model("torchvision:regnet_y_400m")
    with pytest.raises(InputError, match=r"holds no weights.safetensors"):
        load_model(str(tmp_path))
    with pytest.raises(InputError, match="no such file"):
        load_model("torchvision:regnet_y_400mf@absent.pth")


def test_torchvisions_own_weights_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)
    with pytest.raises(EnvironmentFault, match="could not be fetched"):
        load_model("torchvision:regnet_y_400mf@DEFAULT")


def _no_network(*_: object, **__: object) -> None:
    raise OSError("no route to host")


def test_a_place_that_cannot_be_written(tmp_path: Path, trunk: Trunk) -> None:
    with pytest.raises(EnvironmentFault, match="could not be written"):
        save_weights(tmp_path / "absent" / "weights.safetensors", {"trunk.a": torch.zeros(1)}, {})
