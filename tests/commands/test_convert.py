"""`seerctl convert`: what people and scripts are shown, and what other commands read without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.shell_completion import ShellComplete
from click.testing import Result

from seerctl.cli import cli
from seerctl.errors import ExitCode
from seerctl.files import sha256_file
from seerctl.model.load import fill_model, load_model, size_in
from seerctl.model.trunk import build_trunk
from seerctl.model.weights import save_weights
from tests.model import layout_files as files

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    save_weights(tmp_path / "run" / "weights.safetensors", files.ours_with_head(), {"step": "7"})
    return tmp_path / "run"


def test_people_see_what_was_read_and_written(seerctl: Run, run: Path, tmp_path: Path) -> None:
    result = seerctl("convert", run, "-o", tmp_path / "out.safetensors", "--to", "vissl")
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["read"] == f"seerctl safetensors: {run}/weights.safetensors"
    assert lines["model"] == "RegNet 'w16-32-48-96', widths 16/32/48/96, depths 1/1/2/1"
    assert lines["head"] == "swav"
    assert lines["sha256"] == sha256_file(tmp_path / "out.safetensors")
    assert "convert: " in result.stderr


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_scripts_get_the_same(seerctl: Run, run: Path, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "out.safetensors"
    result = seerctl("convert", run, "-o", place, "--to", "hf", "--head", "drop", "--output-format", kind)
    found = json.loads(result.stdout)
    assert (found["layout"], found["to"], found["head"]) == ("seerctl safetensors", "hf", "none")
    assert (found["widths"], found["depths"], found["group_widths"]) == ([16, 32, 48, 96], [1, 1, 2, 1], [8] * 4)
    assert found["source_sha256"] == sha256_file(run / "weights.safetensors")
    assert found["parameters"] == sum(parameter.numel() for parameter in build_trunk(size_in(run)).parameters())
    assert (found["bytes"], found["sha256"]) == (place.stat().st_size, sha256_file(place))
    assert (result.stdout.count("\n") == 1) == (kind == "jsonl")


def test_the_first_line_of_a_refusal_says_what_to_do(seerctl: Run, run: Path, tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.ones(1)}, tmp_path / "resnet.pth")
    (tmp_path / "cut.safetensors").write_bytes((run / "weights.safetensors").read_bytes()[:5000])
    (tmp_path / "there.safetensors").write_text("kept")
    for arguments, code, message in [
        ([tmp_path / "absent", "-o", tmp_path / "o.safetensors"], ExitCode.INPUT, "absent: no such file"),
        ([tmp_path / "resnet.pth", "-o", tmp_path / "o.safetensors"], ExitCode.INPUT, "holds no RegNet or ResNet"),
        ([tmp_path / "cut.safetensors", "-o", tmp_path / "o.safetensors"], ExitCode.INPUT, "not a whole safetensors"),
        ([run, "-o", tmp_path / "there.safetensors"], ExitCode.USAGE, "exists already"),
        ([run, "-o", tmp_path / "o.npz"], ExitCode.USAGE, "its name says no kind of file"),
        ([run, "-o", tmp_path / "o.safetensors", "--to", "timm"], ExitCode.USAGE, "Pass --head drop"),
        ([run, "-o", tmp_path / "o.safetensors", "--to", "keras"], ExitCode.USAGE, "'keras' is not one of"),
        ([run], ExitCode.USAGE, "Missing option '-o' / '--output'"),
        (["-o", tmp_path / "o.safetensors"], ExitCode.USAGE, "Missing argument 'IN'"),
    ]:  # fmt: skip
        result = seerctl("convert", *arguments)
        assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
        assert result.stderr.count("\n") == 1
    assert (tmp_path / "there.safetensors").read_text() == "kept"
    assert not (tmp_path / "o.safetensors").exists()
    assert seerctl("convert", run, "-o", tmp_path / "there.safetensors", "--overwrite").exit_code == 0


def test_layouts_complete() -> None:
    found = ShellComplete(cli, {}, "seerctl", "_SEERCTL_COMPLETE").get_completions(["convert", "--to"], "t")
    assert [item.value for item in found] == ["torchvision", "timm"]


@pytest.mark.parametrize("layout", ["vissl", "shards", "timm", "hf", "checkpoint"])
def test_other_commands_load_what_convert_reads(run: Path, tmp_path: Path, layout: str) -> None:
    """`extract --model FILE` and `pretrain --init FILE` take it as it is, with the features of our own file."""
    path = tmp_path / "theirs.torch"
    state = files.ours_with_head()
    if layout == "shards":
        files.save_shards(state, path)
    elif layout == "checkpoint":
        files.save_checkpoint({f"model.{key}": value for key, value in state.items()}, path)
    elif layout == "vissl":
        torch.save(files.consolidated(state), path)
    else:
        from seerctl.model.convert import convert

        convert(run, path, layout, keep_head=False)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 32, 32)
    theirs, ours = load_model(str(path)), load_model(str(run))
    assert torch.equal(theirs.trunk(images), ours.trunk(images))
    assert (
        (theirs.weights_sha256 == sha256_file(path)) if path.is_file() and layout != "shards" else theirs.weights_sha256
    )
    if path.is_file():
        model = torch.nn.ModuleDict({"trunk": build_trunk(size_in(path)), "head": torch.nn.Linear(2, 2)})
        assert not fill_model(model, path, size_in(run))
        assert_trunk(model, safetensors.torch.load_file(run / "weights.safetensors"))


def assert_trunk(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    for key, value in model.state_dict().items():
        if key.startswith("trunk."):
            assert torch.equal(value, state[key]), key
