"""Conversions: every layout against the names and shapes of its own library, exact round trips, hostile files."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from fairscale.nn import FullyShardedDataParallel
from torch import Tensor
from torchvision.models.regnet import BlockParams, RegNet

from seerctl.errors import EnvironmentFault, InputError, SeerctlError, UsageError
from seerctl.files import sha256_file
from seerctl.model.convert import Target, convert
from seerctl.model.layouts import names
from seerctl.model.layouts.source import open_source
from seerctl.model.load import load_model
from seerctl.model.shapes import size_of
from seerctl.model.sizes import SIZES
from seerctl.model.trunk import batch_norm, build_trunk
from seerctl.model.weights import save_weights
from tests.model import layout_files as files

LAYOUTS: dict[Target, str] = {"torchvision": "torchvision", "timm": "timm", "hf": "hf", "vissl": "vissl"}
# The same tensor in four libraries, written by hand: one of each kind of module.
SAME = [
    ("stem.0.weight", "_feature_blocks.conv1.stem.0.weight", "stem.conv.weight",
     "regnet.embedder.embedder.convolution.weight"),
    ("stem.1.running_mean", "_feature_blocks.conv1.stem.1.running_mean", "stem.bn.running_mean",
     "regnet.embedder.embedder.normalization.running_mean"),
    ("trunk_output.block3.block3-0.proj.0.weight", "_feature_blocks.res4.block3-0.proj.weight",
     "s3.b1.downsample.conv.weight", "regnet.encoder.stages.2.layers.0.shortcut.convolution.weight"),
    ("trunk_output.block3.block3-0.proj.1.bias", "_feature_blocks.res4.block3-0.bn.bias", "s3.b1.downsample.bn.bias",
     "regnet.encoder.stages.2.layers.0.shortcut.normalization.bias"),
    ("trunk_output.block3.block3-1.f.a.0.weight", "_feature_blocks.res4.block3-1.f.a.0.weight",
     "s3.b2.conv1.conv.weight", "regnet.encoder.stages.2.layers.1.layer.0.convolution.weight"),
    ("trunk_output.block3.block3-1.f.b.1.running_var", "_feature_blocks.res4.block3-1.f.b.1.running_var",
     "s3.b2.conv2.bn.running_var", "regnet.encoder.stages.2.layers.1.layer.1.normalization.running_var"),
    ("trunk_output.block3.block3-1.f.se.fc1.weight", "_feature_blocks.res4.block3-1.f.se.excitation.0.weight",
     "s3.b2.se.fc1.weight", "regnet.encoder.stages.2.layers.1.layer.2.attention.0.weight"),
    ("trunk_output.block4.block4-0.f.se.fc2.bias", "_feature_blocks.res5.block4-0.f.se.excitation.2.bias",
     "s4.b1.se.fc2.bias", "regnet.encoder.stages.3.layers.0.layer.2.attention.2.bias"),
    ("trunk_output.block4.block4-0.f.c.0.weight", "_feature_blocks.res5.block4-0.f.c.weight", "s4.b1.conv3.conv.weight",
     "regnet.encoder.stages.3.layers.0.layer.3.convolution.weight"),
    ("trunk_output.block1.block1-0.f.c.1.running_mean", "_feature_blocks.res2.block1-0.f.final_bn.running_mean",
     "s1.b1.conv3.bn.running_mean", "regnet.encoder.stages.0.layers.0.layer.3.normalization.running_mean"),
    ("fc.weight", "0.clf.0.weight", "head.fc.weight", "classifier.1.weight"),
]  # fmt: skip


def read(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    torch.save(files.torchvision_state(), tmp_path / "classifier.pth")
    return tmp_path / "classifier.pth"


@pytest.fixture
def swav(tmp_path: Path) -> Path:
    save_weights(tmp_path / "swav.safetensors", files.ours_with_head(), {"step": "7", "crop_size": "96"})
    return tmp_path / "swav.safetensors"


@pytest.mark.parametrize("to", LAYOUTS)
def test_names_and_shapes_are_the_librarys_own(classifier: Path, tmp_path: Path, to: Target) -> None:
    done = convert(classifier, tmp_path / "out.pth", to)
    state = torch.load(tmp_path / "out.pth", weights_only=True)
    if to == "vissl":
        model = state["classy_state_dict"]["base_model"]["model"]
        assert {key: list(value.shape) for key, value in model["heads"].items()} == {
            "0.clf.0.weight": [5, 96],
            "0.clf.0.bias": [5],
        }
        state = model["trunk"]
    assert {key: list(value.shape) for key, value in state.items()} == files.GOLDEN["layouts"][LAYOUTS[to]]
    assert (done.head, done.widths, done.depths) == ("classifier", (16, 32, 48, 96), (1, 1, 2, 1))


@pytest.mark.parametrize("to", LAYOUTS)
def test_the_same_tensor_stands_under_each_librarys_name(classifier: Path, tmp_path: Path, to: Target) -> None:
    convert(classifier, tmp_path / "out.safetensors", to)
    found, before = read(tmp_path / "out.safetensors"), files.torchvision_state()
    column = ["torchvision", "vissl", "timm", "hf"].index(to)
    for row in SAME:
        prefix = {True: ""}.get(to != "vissl", "heads." if row[0].startswith("fc.") else "trunk.")
        assert torch.equal(found[prefix + row[column]], before[row[0]]), row[column]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("layout", ["torchvision", "timm", "hf", "vissl"])
def test_there_and_back_is_exact(tmp_path: Path, layout: Target, suffix: str) -> None:
    state = files.values(files.GOLDEN["layouts"][LAYOUTS[layout]], seed=3)
    torch.save(state, tmp_path / "theirs.pth")
    ours = convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert ours.layout == f"{names_of(layout)} state dict"
    back = convert(tmp_path / "ours.safetensors", tmp_path / f"back{suffix}", layout)
    assert back.layout == "seerctl safetensors"
    again = convert(tmp_path / f"back{suffix}", tmp_path / "again.safetensors")
    assert_equal(read(tmp_path / "again.safetensors"), read(tmp_path / "ours.safetensors"))
    if suffix == ".safetensors":
        assert_equal(
            {key.removeprefix("trunk."): value for key, value in read(tmp_path / "back.safetensors").items()}, state
        )
    assert again.parameters == ours.parameters


def names_of(layout: Target) -> str:
    return {"torchvision": "torchvision", "timm": "timm", "hf": "Hugging Face", "vissl": "VISSL"}[layout]


@pytest.mark.parametrize("suffix", [".safetensors", ".torch"])
def test_a_swav_head_survives_vissl(swav: Path, tmp_path: Path, suffix: str) -> None:
    done = convert(swav, tmp_path / f"vissl{suffix}", "vissl")
    assert done.head == "swav"
    back = convert(tmp_path / f"vissl{suffix}", tmp_path / "back.safetensors")
    assert back.layout == ("VISSL consolidated" if suffix == ".torch" else "VISSL safetensors")
    assert_equal(read(tmp_path / "back.safetensors"), files.ours_with_head())
    convert(swav, tmp_path / "bare.safetensors", head_of := "timm", keep_head=False)
    assert not any("head" in key for key in read(tmp_path / "bare.safetensors"))
    with pytest.raises(UsageError, match=f"{head_of} has no place for the head's 'projection.* Pass --head drop"):
        convert(swav, tmp_path / "none.safetensors", "timm")
    assert not (tmp_path / "none.safetensors").exists()


def test_features_are_torchvisions(classifier: Path, tmp_path: Path) -> None:
    sizes = files.GOLDEN["depths"], files.GOLDEN["widths"]
    theirs = RegNet(BlockParams(*sizes, [8] * 4, [1.0] * 4, [2] * 4, 0.25), num_classes=5, norm_layer=batch_norm).eval()
    theirs.load_state_dict(files.torchvision_state())
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 48, 48)
    vissl = {f"module.{key}": value for key, value in files.vissl_trunk(files.torchvision_state()).items()}
    torch.save({"type": "consolidated", "classy_state_dict": {"base_model": {"model": {"trunk": vissl, "heads": {}}}}},
               tmp_path / "vissl.torch")  # fmt: skip
    for path in (classifier, tmp_path / "vissl.torch"):
        convert(path, tmp_path / "out.safetensors", overwrite=True)
        assert torch.equal(load_model(str(tmp_path / "out.safetensors")).trunk(images), theirs(images))


@pytest.mark.parametrize("kind", ["consolidated", "trained", "listed heads", "slices", "old slices"])
def test_vissls_whole_checkpoints(tmp_path: Path, kind: str) -> None:
    path, state = tmp_path / "model_iteration7.torch", files.ours_with_head()
    content = files.consolidated(state)
    if kind == "consolidated":
        torch.save({**content, "type": "consolidated"}, path)
    elif kind == "trained":
        files.save_as_vissl_trains(content, path)
    elif kind == "listed heads":
        content["classy_state_dict"]["base_model"]["model"]["heads"] = [files.vissl_heads(files.split(state)[1])]
        torch.save(content, path)
    else:
        files.save_slices(state, path)
    if kind == "old slices":
        model = torch.load(path, weights_only=True)["classy_state_dict"]["base_model"]["model"]
        torch.save({"type": "slice_list", "layers": model["trunk"] | model["heads"]}, path)
    done = convert(path, tmp_path / "out.safetensors")
    assert done.layout == f"VISSL {'slice_list' if 'slices' in kind else 'consolidated'}"
    assert_equal(read(tmp_path / "out.safetensors"), state)


@pytest.mark.parametrize("flatten", [False, True])
def test_vissls_shards(tmp_path: Path, flatten: bool) -> None:
    state = files.ours_with_head()
    files.save_shards(state, tmp_path / "model_iteration7.torch", ranks=3, flatten=flatten)
    done = convert(tmp_path / "model_iteration7.torch", tmp_path / "out.safetensors")
    assert (done.layout, done.head) == ("VISSL shard_list", "swav")
    assert_equal(read(tmp_path / "out.safetensors"), state)


def test_shards_join_as_fairscale_joins_them(tmp_path: Path) -> None:
    trunk = files.vissl_trunk(files.split(files.ours_with_head())[0])
    states, metas = files.local_states(trunk, 3, flatten=True)
    assert_equal(FullyShardedDataParallel.consolidate_shard_weights(states, metas), trunk)


def test_wrappers_names_are_taken_off(tmp_path: Path) -> None:
    trunk = files.vissl_trunk(files.torchvision_state())
    wrapped = {f"base_model._fsdp_wrapped_module._fpw_module.{key}": value for key, value in trunk.items()}
    content = files.consolidated(files.ours_with_head())
    content["classy_state_dict"]["base_model"]["model"]["trunk"] = wrapped
    torch.save(content, tmp_path / "wrapped.torch")
    convert(tmp_path / "wrapped.torch", tmp_path / "out.safetensors")
    assert_equal(read(tmp_path / "out.safetensors"), files.ours_with_head())


@pytest.mark.parametrize(("name", "layout"), [
    ("256gf", "vissl"), ("256gf-5088", "vissl"), ("256gf", "timm"), ("256gf-5088", "hf"),
    ("10b", "vissl"), ("10b", "hf"),
])  # fmt: skip
def test_both_256gf_are_told_apart_by_shapes(name: str, layout: Target) -> None:
    with torch.device("meta"):
        trunk = build_trunk(SIZES[name]).state_dict()
    table = {"vissl": names.VISSL, "timm": names.TIMM, "hf": names.HF}[layout]
    theirs, _ = names.rename(trunk, (), table)
    found, ours, unknown = names.recognise(map(names.unwrap, theirs.values()), "here")
    back = {names.unwrap(new): old for old, new in theirs.items()}
    assert (found.title, unknown) == (table.title, [])
    assert all(new == f"trunk.{back[key]}" for key, new in ours.items())
    assert (
        size_of({key.removeprefix("trunk."): trunk[key.removeprefix("trunk.")] for key in ours.values()}, "")
        == SIZES[name]
    )


def test_a_regnetx_has_no_squeeze(tmp_path: Path) -> None:
    size = SIZES["micro"].__class__((1, 2), (16, 32), (8, 8), se_ratio=None, stem_width=16)
    state = build_trunk(size).state_dict()
    torch.save(state, tmp_path / "x.pth")
    for to in LAYOUTS:
        convert(tmp_path / "x.pth", tmp_path / "out.safetensors", to, overwrite=True)
        if to == "hf":
            assert "regnet.encoder.stages.1.layers.1.layer.2.convolution.weight" in read(tmp_path / "out.safetensors")
        convert(tmp_path / "out.safetensors", tmp_path / "back.safetensors", overwrite=True)
        assert_equal(read(tmp_path / "back.safetensors"), {f"trunk.{key}": value for key, value in state.items()})


def test_dtypes_stay_as_they_are(tmp_path: Path) -> None:
    state = {key: value.bfloat16() if value.ndim == 4 else value for key, value in files.torchvision_state().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "half.pth")
    convert(tmp_path / "half.pth", tmp_path / "out.safetensors", "torchvision")
    assert_equal(read(tmp_path / "out.safetensors"), state)


def test_the_file_is_what_safetensors_itself_writes(swav: Path, tmp_path: Path) -> None:
    convert(swav, tmp_path / "out.safetensors")
    with safetensors.safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file(files.ours_with_head(), tmp_path / "theirs.safetensors", metadata)
    ours, theirs = ((tmp_path / name).read_bytes() for name in ("out.safetensors", "theirs.safetensors"))
    assert len(ours) == len(theirs)
    start = 8 + int.from_bytes(ours[:8], "little")
    assert ours[start:] == theirs[start:]
    assert json.loads(ours[8:start]) == json.loads(theirs[8:start])
    assert metadata["source_sha256"] == sha256_file(swav)
    assert {key: metadata[key] for key in ("step", "crop_size", "format", "source_layout", "head")} == {
        "step": "7", "crop_size": "96", "format": "seerctl-weights-v1", "source_layout": "seerctl safetensors",
        "head": "swav",
    }  # fmt: skip


def test_a_model_of_hugging_face_in_parts(classifier: Path, tmp_path: Path) -> None:
    convert(classifier, tmp_path / "whole.safetensors", "hf")
    state = sorted(read(tmp_path / "whole.safetensors").items())
    folder = tmp_path / "hub"
    folder.mkdir()
    parts = {"model-00001-of-00002.safetensors": state[::2], "model-00002-of-00002.safetensors": state[1::2]}
    for name, part in parts.items():
        safetensors.torch.save_file(dict(part), folder / name, {"format": "pt"})
    index = {"weight_map": {key: name for name, part in parts.items() for key, _ in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    done = convert(folder, tmp_path / "out.safetensors", "torchvision")
    assert done.layout == "Hugging Face in 2 files"
    assert_equal(read(tmp_path / "out.safetensors"), files.torchvision_state())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"its part model-00002-of-00002.safetensors is missing"):
        open_source(folder)


# -- distributed checkpoints ----------------------------------------------------------------------------------------


def checkpoint_of(run: Path, state: dict[str, Tensor]) -> Path:
    place = run / "checkpoints" / "step-00000012"
    place.mkdir(parents=True)
    tensors = {f"model.{key}": value for key, value in state.items()}
    momentum = {f"optim.{key}.momentum_buffer": value for key, value in state.items() if value.is_floating_point()}
    files.save_checkpoint(tensors | momentum, place)
    sums = {file.name: sha256_file(file) for file in place.iterdir()}
    (place / "state.json").write_text(json.dumps({"step": 12, "index_sha256": "ab" * 32}))
    (place / "sums.json").write_text(json.dumps({**sums, "state.json": sha256_file(place / "state.json")}))
    return place


def test_a_runs_checkpoint(tmp_path: Path) -> None:
    state = files.ours_with_head()
    state["trunk.trunk_output.block4.block4-0.f.b.0.weight"] = (
        state["trunk.trunk_output.block4.block4-0.f.b.0.weight"].to(memory_format=torch.channels_last)
    )  # fmt: skip
    place = checkpoint_of(tmp_path / "run", state)
    for path in (place, tmp_path / "run"):
        done = convert(path, tmp_path / "out.safetensors", overwrite=True)
        assert (done.layout, done.head) == ("seerctl checkpoint", "swav")
        assert_equal(read(tmp_path / "out.safetensors"), state)
    with safetensors.safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        assert (file.metadata()["step"], file.metadata()["index_sha256"]) == ("12", "ab" * 32)
    data = next(place.glob("*.distcp"))
    broken = bytearray(data.read_bytes())
    broken[len(broken) // 2] ^= 1
    data.write_bytes(broken)
    with pytest.raises(InputError, match=f"{data.name}: is not what was written"):
        convert(place, tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_a_checkpoint_in_chunks(tmp_path: Path) -> None:
    state = {f"model.{key}": value for key, value in files.ours_with_head().items()}
    block = "model.trunk.trunk_output.block4.block4-0.f"
    cuts = {
        f"{block}.a.0.weight": [(0, 0, 0, 0), (33, 0, 0, 0), (66, 0, 0, 0)],
        f"{block}.c.0.weight": [(0, 0, 0, 0), (0, 40, 0, 0), (50, 0, 0, 0), (50, 40, 0, 0)],
        "model.head.prototypes.weight": [(0, 0), (9, 0)],
    }
    files.cut_checkpoint(state, cuts, tmp_path / "cut")
    convert(tmp_path / "cut", tmp_path / "out.safetensors")
    assert_equal(read(tmp_path / "out.safetensors"), files.ours_with_head())
    listed = pickle.loads((tmp_path / "cut" / ".metadata").read_bytes())
    listed.state_dict_metadata["model.head.prototypes.weight"].chunks.pop()
    (tmp_path / "cut" / ".metadata").write_bytes(pickle.dumps(listed))
    with pytest.raises(InputError, match=r"the chunks of 'model.head.prototypes.weight' are not the whole tensor"):
        open_source(tmp_path / "cut")


MEASURE = """
import resource, sys
from pathlib import Path
import seerctl.model.convert as c
from seerctl.model.layouts.entries import Entry
from seerctl.model.layouts.source import open_source
c.write_safetensors(Path(sys.argv[1]) / "warm.safetensors", {}, {})
open_source(Path(sys.argv[1]) / "small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
c.convert(Path(sys.argv[1]) / "large", Path(sys.argv[1]) / "out.safetensors")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_stays_below_the_largest_tensor(tmp_path: Path) -> None:
    """A checkpoint of 190 MB with its largest tensor at 101 MB is copied with less than that, whatever is in it."""
    state = files.ours_with_head()
    trunk, _ = files.split(state)
    head = {"projection.0.weight": torch.ones(96, 96), "prototypes.weight": torch.ones(262_144, 96)}
    large = {f"trunk.{key}": value for key, value in trunk.items()} | {
        f"head.{key}": value for key, value in head.items()
    }
    large["head.projection.2.weight"] = torch.full((230_000, 96), 2.0)
    for name, part in {"small": state, "large": large}.items():
        files.save_checkpoint({f"model.{key}": value for key, value in part.items()}, tmp_path / name)
    largest = head["prototypes.weight"].nbytes
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    total = (tmp_path / "out.safetensors").stat().st_size
    assert total > 1.8 * largest
    assert int(done.stdout) < largest * 0.6, f"{int(done.stdout):,} bytes more at the peak"
    with safetensors.safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("head.projection.2.weight"), large["head.projection.2.weight"])


# -- what is refused ------------------------------------------------------------------------------------------------


class _Code:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, eval, subprocess.call])
def test_code_is_named_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    monkeypatch.chdir(tmp_path)
    argument = (
        "__import__('os').mkdir('ran')"
        if function is eval
        else ["mkdir", "ran"]
        if function is subprocess.call
        else "ran"
    )
    content = files.consolidated(files.ours_with_head(), config=_Code(function, argument))
    torch.save(content, tmp_path / "zip.torch")
    torch.save(content, tmp_path / "old.torch", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(content["config"]))
    place = tmp_path / "checkpoint"
    files.save_checkpoint({"model.a": torch.ones(2)}, place)
    listed = pickle.loads((place / ".metadata").read_bytes())
    listed.planner_data = _Code(function, argument)
    (place / ".metadata").write_bytes(pickle.dumps(listed))
    for name in ("zip.torch", "old.torch", "plain.pth", "checkpoint"):
        with pytest.raises(InputError) as caught:
            open_source(tmp_path / name)
        assert function.__name__ in str(caught.value) or name == "plain.pth", caught.value
    assert not (tmp_path / "ran").exists()


def zip_with(path: Path, change: Any) -> None:
    """Rewrite the zip at `path` through `change(name, bytes) -> (bytes, compression)`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            new, compression = change(name, data)
            archive.writestr(name, new, compress_type=compression)


def test_bombs_and_claims(tmp_path: Path, classifier: Path) -> None:
    bomb = tmp_path / "bomb.pth"
    bomb.write_bytes(classifier.read_bytes())
    zip_with(bomb, lambda name, data: (bytes(50_000_000) if name.endswith("/data/0") else data, zipfile.ZIP_DEFLATED))
    wide = tmp_path / "wide.pth"
    state = files.torchvision_state()
    state["stem.0.weight"] = torch.zeros(1).expand(2_000_000, 3, 300, 300)
    torch.save(state, wide)
    many = tmp_path / "many.pth"
    tensor = torch.zeros(1000, 1000)
    torch.save(
        {f"trunk_output.block1.block1-{block}.f.a.0.weight": tensor for block in range(500)}
        | {"stem.0.weight": tensor},
        many,
    )
    deep = tmp_path / "deep.safetensors"
    shapes = {f"trunk.trunk_output.block1.block1-{block}.f.b.0.weight": torch.zeros(1, 1) for block in range(2000)}
    safetensors.torch.save_file({**shapes, "trunk.stem.0.weight": torch.zeros(1, 1)}, deep)
    messages = {
        bomb: "compressed",
        wide: "claims more values than its storage holds",
        many: "its tensors claim",
        deep: "no RegNet's",
    }
    for path, message in messages.items():
        with pytest.raises(InputError, match=message):
            open_source(path)


def test_damage_is_always_an_input_error(tmp_path: Path, classifier: Path, swav: Path) -> None:
    """Cut at any place or with any byte flipped, a file is refused or read: nothing else happens."""
    files.save_slices(files.ours_with_head(), tmp_path / "slices.torch")
    files.save_shards(files.ours_with_head(), tmp_path / "shards.torch", ranks=2)
    checkpoint = checkpoint_of(tmp_path / "run", files.ours_with_head())
    (checkpoint / "sums.json").unlink()
    victims = [classifier, swav, tmp_path / "slices.torch", tmp_path / "shards_shard1.torch", checkpoint / ".metadata"]
    draw, refused = random.Random(0), 0
    for victim in victims:
        whole, opened = victim.read_bytes(), checkpoint if victim.name == ".metadata" else victim
        opened = tmp_path / "shards.torch" if "shard1" in victim.name else opened
        for turn in range(16):
            # The second half of a zip is its directory; the pickle is near its start.
            at = draw.randrange(len(whole)) if turn % 3 else draw.randrange(min(len(whole), 4000))
            damaged = (
                whole[:at] if turn % 2 else whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :]
            )
            victim.write_bytes(damaged)
            try:
                source = open_source(opened)
                for entry in source.trunk.values():
                    entry.tensor()
            except InputError:
                refused += 1
        victim.write_bytes(whole)
    assert refused > 16 * len(victims) // 2


def test_wrong_files_are_named_in_one_line(tmp_path: Path, swav: Path) -> None:
    files.save_shards(files.ours_with_head(), tmp_path / "list.torch", ranks=2)
    files.save_slices(files.ours_with_head(), tmp_path / "slices.torch")
    resnet = dict.fromkeys(("layer1.0.conv1.weight", "fc.weight", "a", "b"), torch.ones(1))
    torch.save(resnet, tmp_path / "resnet.pth")
    state = files.torchvision_state()
    torch.save({**state, "mixer.weight": torch.ones(1)}, tmp_path / "more.pth")
    torch.save(
        {key: value for key, value in state.items() if "block2-0.f.c.1.running_var" not in key}, tmp_path / "less.pth"
    )
    torch.save({**state, "trunk_output.block2.block2-0.f.c.0.weight": torch.ones(32, 33, 1, 1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"type": "layers", "classy_state_dict": {}}, tmp_path / "type.torch")
    torch.save({"classy_state_dict": {"base_model": {}}}, tmp_path / "hollow.torch")
    content = files.consolidated(files.ours_with_head())
    content["classy_state_dict"]["base_model"]["model"]["heads"]["1.clf.0.weight"] = torch.ones(2)
    torch.save(content, tmp_path / "heads.torch")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("hello")
    for name, message in {
        "absent.pth": "no such file",
        "empty": r"holds no weights.safetensors",
        "text.safetensors": "not a whole safetensors file",
        "resnet.pth": r"holds no RegNet or ResNet trunk; its first keys are 'layer1.0.conv1.weight', 'fc.weight', 'a' "
        "and 1 more",
        "more.pth": "a torchvision RegNet with keys of something else: 'mixer.weight'",
        "less.pth": r"'trunk_output.block2.block2-0.f.c.1.running_var' is missing",
        "other.pth": r"has shape \[32, 33, 1, 1\], this model's is \[32, 32, 1, 1\]",
        "list.pth": "holds list where tensors by name are expected",
        "type.torch": "unknown type 'layers'",
        "hollow.torch": "is no whole VISSL checkpoint",
        "list_shard0.torch": r"is one shard of several. Name the file that lists them",
        "heads.torch": r"its head is not known: '1.clf.0.weight'. Pass --head drop",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            convert(tmp_path / name, tmp_path / "out.safetensors")
        assert "\n" not in str(caught.value)
    (tmp_path / "list_shard1.torch").unlink()
    next((tmp_path / "slices_layers").iterdir()).unlink()
    for name, message in {
        "list.torch": "its shard list_shard1.torch is missing",
        "slices.torch": "its slice .* is missing",
    }.items():
        with pytest.raises(InputError, match=message):
            open_source(tmp_path / name)
    convert(tmp_path / "heads.torch", tmp_path / "out.safetensors", keep_head=False)
    for output in (swav, tmp_path / "empty" / "out.npz", tmp_path / "out.safetensors"):
        with pytest.raises(UsageError):
            convert(swav, output)


def test_nothing_half_written_is_left(swav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        for name in ("out.safetensors", "out.pth"):
            with pytest.raises(EnvironmentFault, match="larger than this system allows"):
                convert(swav, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["swav.safetensors"]
    monkeypatch.setattr("torch.save", _broken)
    with pytest.raises(SeerctlError):
        convert(swav, tmp_path / "out.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["swav.safetensors"]


def _broken(*_: Any) -> None:
    raise InputError("broken")


def test_the_same_input_gives_the_same_bytes(swav: Path, tmp_path: Path) -> None:
    first, second = (convert(swav, tmp_path / name, "vissl") for name in ("a.safetensors", "b.safetensors"))
    assert first.sha256 == second.sha256 == sha256_file(tmp_path / "a.safetensors")
    assert io.BytesIO((tmp_path / "a.safetensors").read_bytes()).getvalue() == (tmp_path / "b.safetensors").read_bytes()
