"""`seerctl extract`: what a shell sees, and the chain from real pictures to a verdict."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seerctl.commands.extract import extract as extract_command
from seerctl.features.store import FeatureFile
from seerctl.model.sizes import SIZES
from seerctl.model.trunk import build_trunk
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


def test_several_machines_are_told_what_to_run(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerctl.train.allocation.shutil.which", lambda name: None)
    call = extract(tmp_path / "run", tmp_path / "my shards", tmp_path / "f.h5", "--layer", "res4", "--layer", "res5",
                   "--tta", "--nodes", 2)  # fmt: skip
    done = cli(*call, "--gpus-per-node", 4, "--launcher", "print")
    assert done.exit_code == 0, done.output
    wanted = ["-m", "seerctl", "extract", "--model", f"{tmp_path}/run", "--data", f"{tmp_path}/my shards", "--output",
              f"{tmp_path}/f.h5", "--layer", "res4", "--layer", "res5", "--tta", "--device", "cpu"]  # fmt: skip
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [line[line.index("--node-rank") + 1] for line in lines] == ["0", "1"]
    for line in lines:
        assert line[:3] == ["python", "-m", "seerctl.train.torchrun"]
        assert line[-len(wanted) :] == wanted
    refused = cli(*call)
    assert (refused.exit_code, "--launcher print" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--layer", "avgpol"], 2, "Did you mean 'avgpool'"),
        (["--size", "4"], 2, "'--size'"),
        (["--precision", "float8"], 2, "'--precision'"),
        (["--corrupt", "fgo:3"], 2, "Did you mean 'fog'"),
        (["--corrupt", "fog:7"], 2, "from 1 to 5"),
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


def test_corrupted_views_are_probed_by_what_was_learnt_from_clean_ones(
    cli: Run, run_directory: Path, tmp_path: Path
) -> None:  # fmt: skip
    train, test = picture_shards(tmp_path / "train", 40), picture_shards(tmp_path / "test", 40)
    assert cli(*extract(run_directory, train, tmp_path / "train.h5")).exit_code == 0
    done = cli(*extract(run_directory, test, tmp_path / "out", "--corrupt", "fog:3", "--corrupt", "digital:2"))
    assert (done.exit_code, "40 rows of 6 corruptions" in done.stderr) == (0, True)
    assert len(list((tmp_path / "out").iterdir())) == 6
    shown = json.loads(cli("inspect", tmp_path / "out" / "fog-3.h5", "--output-format", "json").stdout)
    assert shown["corruption"] == "fog:3"
    probe = ["probe", "knn", "--target", "label", "--k", 3, "--predictions", tmp_path / "p.csv"]
    done = cli(*probe, "--train", tmp_path / "train.h5", "--test", tmp_path / "out" / "fog-3.h5")
    assert done.exit_code == 0, done.stderr
    assert ",fog:3" in (tmp_path / "p.csv").read_text().splitlines()[1]
    assert cli(*extract(run_directory, test, tmp_path / "test.h5")).exit_code == 0
    probe[-1] = tmp_path / "clean.csv"
    assert cli(*probe, "--train", tmp_path / "train.h5", "--test", tmp_path / "test.h5").exit_code == 0
    audit = ["audit", "--robustness", "--predictions", tmp_path / "clean.csv", "--shifted", tmp_path / "p.csv"]
    done = cli(*audit, "--output-format", "json")
    assert done.exit_code in (3, 6), done.stderr  # without groups, whether groups lose alike cannot be judged
    section = json.loads(done.stdout)["sections"]["robustness"]
    assert list(section["data"]["shifts"]) == ["fog:3"]
    assert [row[0] for row in section["tables"][0]["rows"]] == ["clean", "fog:3"]
    done = cli(*probe, "--overwrite", "--train", tmp_path / "out" / "fog-3.h5", "--test", tmp_path / "train.h5")
    assert (done.exit_code, "pictures are corrupted by fog:3" in done.stderr) == (0, True)
    other = tmp_path / "small.h5"
    assert cli(*extract(run_directory, test, other, "--corrupt", "fog:3", "--size", 24)).exit_code == 0
    done = cli(*probe, "--overwrite", "--train", tmp_path / "train.h5", "--test", other)
    assert (done.exit_code, "its preprocess is" in done.stderr) == (2, True)


@pytest.mark.slow
def test_the_chain_that_the_help_shows(run_directory: Path, tmp_path: Path) -> None:
    """From `extract --help` into a shell as it stands, but for another column to group by and fewer corruptions."""
    (tmp_path / "run").symlink_to(run_directory)
    for split in ("train", "test"):
        picture_shards(tmp_path / "shards" / split, 60)
    text = (extract_command.help or "").split("an audit of both.\n")[1]
    (tmp_path / "chain.sh").write_text(f"set -e\n{text.replace('gender', 'rare').replace('all:3', 'noise:3')}")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "chain.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3, 6), done.stderr
    assert len(list((tmp_path / "corrupted").glob("*.csv"))) == 4
    assert "speckle_noise:3" in done.stdout


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
