"""Training by sample weights: what comes how often, going on after a kill, other weights, and what is written down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seerctl.cli import run as command
from seerctl.errors import Saved, UsageError
from seerctl.model.weights import load_weights
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import read_keys
from seerctl.train.data import loader
from seerctl.train.metrics import Metrics
from seerctl.train.start import train
from seerctl.train.world import World
from seerctl.weighting import SampleWeights, load_sampling, write_weights
from tests.distributed.ranks import StopAfter
from tests.training import SMALL, make_shards, small_recipe

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of 40 pictures, and weights for it: 0, 1, 2, 3, 0, 1, ..."""
    root = tmp_path_factory.mktemp("weighted")
    with ShardSet.open(make_shards(root)) as shards:
        weight = np.arange(40) % 4.0
        write_weights(root / "weights.h5", SampleWeights(read_keys(shards), weight, shards.sha256))
    return root


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    train(small_recipe(_by(folder)), folder / "shards", folder / "run")
    return folder / "run"


def _by(folder: Path) -> str:
    return f"data.weights={folder / 'weights.h5'}"


def _losses(run: Path) -> list[float]:
    return [row["loss"] for row in Metrics(run / "metrics.jsonl").rows()]


def _weights(folder: Path) -> NDArray[np.float64]:
    with ShardSet.open(folder / "shards") as shards:
        return load_sampling(shards, str(folder / "weights.h5")).weight


def test_samples_come_as_often_as_their_weights_say(folder: Path) -> None:
    with ShardSet.open(folder / "shards") as shards:
        keys = [key.decode() for key in read_keys(shards)]
        batches = list(loader(shards, small_recipe(), World(), 0, 20, _weights(folder)))
    seen = [key for batch in batches for key in batch.keys]  # 320 places, 8 epochs
    counts = np.array([seen.count(key) for key in keys])
    expected = 8 * 40 * _weights(folder) / _weights(folder).sum()
    assert not counts[expected == 0].any()
    assert (np.abs(counts - expected) <= 8).all()
    for epoch in range(8):
        part = seen[epoch * 40 : (epoch + 1) * 40]
        found = np.array([part.count(key) for key in keys])
        assert (found >= np.floor(expected / 8 - 1e-9)).all()
        assert (found <= np.ceil(expected / 8 + 1e-9)).all()


def test_a_sample_that_comes_twice_in_an_epoch_is_seen_in_two_ways(folder: Path) -> None:
    with ShardSet.open(folder / "shards") as shards:
        weight = np.zeros(40)
        weight[5] = 1.0
        batch = next(iter(loader(shards, small_recipe(), World(), 0, 1, weight)))
    assert len(set(batch.keys)) == 1
    views = batch.crops[0].unflatten(0, (2, 16))[0].flatten(1)
    assert len(torch.unique(views, dim=0)) == 16


def test_the_run_records_its_weights(finished: Path, folder: Path) -> None:
    with ShardSet.open(folder / "shards") as shards:
        sampling = load_sampling(shards, str(folder / "weights.h5"))
    facts = json.loads((finished / "run.json").read_text())
    assert facts["sample_weights"] == {"source": str(folder / "weights.h5"), "sha256": sampling.sha256}
    assert load_weights(finished / "weights.safetensors").metadata["sample_weights_sha256"] == sampling.sha256


def test_a_killed_run_goes_on_bit_equal(finished: Path, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = (
        "import signal, sys\nfrom pathlib import Path\nfrom seerctl.train.start import train\n"
        "from tests.distributed.ranks import StopAfter\nfrom tests.training import small_recipe\n"
        "recipe = small_recipe('data.workers=2', 'checkpoint.background=false', sys.argv[3])\n"
        "train(recipe, sys.argv[1], Path(sys.argv[2]), progress=StopAfter(6, signal.SIGKILL))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", script, folder / "shards", run, _by(folder)]
    killed = subprocess.run(arguments, env=environment, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    summary = train(small_recipe("data.workers=2", _by(folder)), folder / "shards", run)
    assert summary.start == 4
    assert _losses(run) == _losses(finished)
    ours, theirs = (load_weights(place / "weights.safetensors") for place in (run, finished))
    assert all(torch.equal(ours.trunk[name], theirs.trunk[name]) for name in theirs.trunk)


def test_the_keys_after_a_resume_are_those_of_an_uninterrupted_run(folder: Path) -> None:
    weight = _weights(folder)
    with ShardSet.open(folder / "shards") as shards:
        whole = [batch.keys for batch in loader(shards, small_recipe(), World(), 0, 9, weight)]
        rest = [batch.keys for batch in loader(shards, small_recipe("data.workers=2"), World(), 5, 9, weight)]
        halves = [
            [batch.keys for batch in loader(shards, small_recipe(), World(rank, 2), 0, 9, weight)] for rank in (0, 1)
        ]
    assert rest == whole[5:]
    assert [first + second for first, second in zip(*halves, strict=True)] == whole


def test_weights_change_what_is_learnt_and_are_part_of_the_run(finished: Path, folder: Path, tmp_path: Path) -> None:
    train(small_recipe("schedule.steps=2"), folder / "shards", tmp_path / "plain")
    assert _losses(tmp_path / "plain")[0] != _losses(finished)[0]
    with pytest.raises(UsageError, match=r"another recipe \(data.weights: .*weights.h5\" -> \"\"\)"):
        train(small_recipe(), folder / "shards", finished)
    moved = tmp_path / "weights.h5"
    shutil.copy(folder / "weights.h5", moved)
    run = tmp_path / "run"
    with pytest.raises(Saved):
        train(small_recipe(f"data.weights={moved}"), folder / "shards", run, progress=StopAfter(1))
    with ShardSet.open(folder / "shards") as shards:
        write_weights(moved, SampleWeights(read_keys(shards), np.ones(40), shards.sha256))
    with pytest.raises(UsageError, match="holds a run by other sample weights"):
        train(small_recipe(f"data.weights={moved}"), folder / "shards", run)


def test_a_column_of_the_set_weighs(tmp_path: Path) -> None:
    from tests.pictures import draw

    (tmp_path / "images").mkdir()
    rows = ["path,weight"]
    for number in range(20):
        draw(number).save(tmp_path / "images" / f"{number}.png")
        rows.append(f"images/{number}.png,{number % 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    assert command(["-q", "ingest", str(tmp_path / "table.csv"), "-o", str(tmp_path / "stream.tar")]) == 0
    assert command(["-q", "shard", str(tmp_path / "stream.tar"), "-o", str(tmp_path / "shards")]) == 0
    train(small_recipe("data.weights=weight", "schedule.steps=2"), tmp_path / "shards", tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["sample_weights"]["source"] == "weight"


@pytest.mark.parametrize(
    ("weights", "code", "message"),
    [
        ("nobody", 2, "no column 'nobody' to take weights from, and not the name of a file"),
        ("other.h5", 2, "weights of another shard set"),
        ("bad.csv", 4, "is -1"),
        ("absent.h5", 4, "no such file"),
    ],
)
def test_wrong_weights_are_one_line_and_leave_nothing(
    folder: Path, tmp_path: Path, weights: str, code: int, message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with ShardSet.open(folder / "shards") as shards:
        keys = read_keys(shards)
    write_weights(tmp_path / "other.h5", SampleWeights(keys, np.ones(40), "f" * 64))
    (tmp_path / "bad.csv").write_text("key,weight\n" + "".join(f"{key.decode()},-1\n" for key in keys))
    arguments = ["pretrain", "--recipe", SMALL, "--data", folder / "shards", "-o", "run", "--set"]
    assert command([*map(str, arguments), f"data.weights={weights}"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
