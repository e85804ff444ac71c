"""`seerctl extract`: what a shell sees, and the chain from real pictures to a verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seerctl.features.store import FeatureFile
from seerctl.model.regnet import build_trunk
from seerctl.model.sizes import SIZES
from seerctl.model.weights import save_weights
from tests.feature_files import picture_shards

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    state = {f"trunk.{name}": tensor for name, tensor in build_trunk(SIZES["micro"]).state_dict().items()}
    save_weights(where / "weights.safetensors", state, {"crop_size": "32"})
    return where


def extract(model: Path, data: Path, output: Path, *more: object) -> list[object]:
    return ["extract", "--model", model, "--data", data, "-o", output, "--device", "cpu", *more]


def test_one_line_and_a_file(cli: Run, run_directory: Path, tmp_path: Path) -> None:
    data = picture_shards(tmp_path / "shards", 20)
    done = cli(*extract(run_directory, data, tmp_path / "f.h5"))
    assert done.exit_code == 0, done.stderr
    assert not done.stdout
    assert done.stderr.startswith("seerctl: extract: 20 rows, ")
    assert done.stderr.count("\n") == 1
    shown = cli("inspect", tmp_path / "f.h5", "--output-format", "json")
    assert json.loads(shown.stdout)["rows"] == 20
    again = cli(*extract(run_directory, data, tmp_path / "f.h5"))
    assert (again.exit_code, "exists already" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--layer", "avgpol"], 2, "Did you mean 'avgpool'"),
        (["--size", "4"], 2, "'--size'"),
        (["--precision", "float8"], 2, "'--precision'"),
        (["--corrupt", "fog:3"], 2, "No such option"),
        (["--model", "nowhere"], 4, "nowhere"),
        (["--data", "nowhere"], 4, "no such shard set"),
        (["--model", "torchvision:regnet_y_1gf"], 4, "Did you mean"),
    ],
)
def test_refusals(more: list[str], code: int, message: str, cli: Run, run_directory: Path, tmp_path: Path) -> None:
    data = picture_shards(tmp_path / "shards", 3)
    done = cli(*extract(run_directory, data, tmp_path / "f.h5", *more))
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.data
def test_real_photographs_to_a_verdict(cli: Run, run_directory: Path, shared_data: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        stream = tmp_path / f"{split}.tar"
        assert cli("ingest", shared_data / "clothing" / split, "-o", stream).exit_code == 0
        assert cli("shard", stream, "-o", tmp_path / split).exit_code == 0
        done = cli(*extract(run_directory, tmp_path / split, tmp_path / f"{split}.h5", "--layer", "res4"))
        assert done.exit_code == 0, done.stderr
    with FeatureFile.open(tmp_path / "train.h5") as file:
        assert file.shape == (600, 32)
        assert len(file.columns["label"].categories or ()) == 10
    train, test, table = tmp_path / "train.h5", tmp_path / "validation.h5", tmp_path / "p.csv"
    for protocol in ("knn", "linear"):
        done = cli(
            "probe", protocol, "--train", train, "--test", test, "--target", "label", "--predictions", table,
            "--overwrite", "--min", "top1=0.12",
        )  # fmt: skip
        assert done.exit_code == 0, done.stderr  # better than chance (10 %) even with random weights
    assert table.read_text().count("\n") == 342
