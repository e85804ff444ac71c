"""Online kNN: what the probe says of the same features, and a training that does not notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from seerctl.errors import InputError, UsageError
from seerctl.shards.index import ShardSet
from seerctl.train.knn import OnlineKnn
from seerctl.train.metrics import Metrics
from seerctl.train.start import train
from seerctl.train.story import story
from tests.training import SMALL, make_labelled, make_shards, small_recipe

KNN = ("watch.knn_every=3", "watch.knn_k=5", "run.log_every=4")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled(tmp_path_factory.mktemp("bank"), 40, 4)


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled(tmp_path_factory.mktemp("queries"), 24, 4, unlabelled=3)


@pytest.fixture(scope="module")
def watched(bank: Path, queries: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("watched") / "run"
    train(small_recipe(*KNN), bank, run, knn=(bank, queries))
    return run


def test_training_does_not_notice(watched: Path, bank: Path, tmp_path: Path) -> None:
    train(small_recipe(*KNN), bank, tmp_path / "run")
    ours, plain = (load_file(run / "weights.safetensors") for run in (watched, tmp_path / "run"))
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    rows = {row["step"]: row for row in Metrics(watched / "metrics.jsonl").rows()}
    assert list(rows) == [3, 4, 6, 8]
    for row in Metrics(tmp_path / "run" / "metrics.jsonl").rows():
        assert row["loss"] == rows[row["step"]]["loss"]
        assert "knn_top1" not in row


def test_it_says_what_extract_and_probe_say(
    seerctl: Callable[..., Result], watched: Path, bank: Path, queries: Path, tmp_path: Path
) -> None:
    for name, where in (("bank", bank), ("queries", queries)):
        assert seerctl("extract", "--model", watched, "--data", where, "-o", tmp_path / f"{name}.h5").exit_code == 0
    report = tmp_path / "knn.json"
    arguments = ["--train", tmp_path / "bank.h5", "--test", tmp_path / "queries.h5", "--target", "label", "-o", report]
    assert seerctl("probe", "knn", *arguments, "--k", 5).exit_code == 0
    last = Metrics(watched / "metrics.jsonl").rows()[-1]
    assert last["knn_top1"] == pytest.approx(json.loads(report.read_text())["metrics"]["top1"]["value"])
    assert last["knn_queries"] == 21
    assert last["knn_seconds"] > 0
    assert {row["step"] for row in Metrics(watched / "metrics.jsonl").rows() if "knn_top1" in row} == {3, 6, 8}


def test_one_set_gives_both_sides_which_share_nothing(bank: Path) -> None:
    found = OnlineKnn.of(small_recipe("watch.knn_bank=25"), [bank])
    assert found is not None
    assert (len(found.queries), len(found.bank), found.classes) == (8, 25, 4)
    assert not set(found.queries.samples.positions) & set(found.bank.samples.positions)
    shards = ShardSet.open(bank)
    for side in (found.bank, found.queries):
        labels = [str(shards.read(place).meta["columns"]["label"]) for place in side.samples.positions]
        assert labels == [str(code) for code in side.codes]
        assert (np.diff(side.samples.positions) > 0).all()
    assert OnlineKnn.of(small_recipe(), []) is None


def test_what_cannot_be_measured_is_said_before_the_training(bank: Path, tmp_path: Path) -> None:
    plain = make_shards(tmp_path, 4)
    cases = [
        (UsageError, [bank] * 3, (), "3 sets"),
        (UsageError, [bank], ("watch.knn_target=lable",), "no column 'lable'"),
        (UsageError, [plain], (), "no column 'label'"),
        (InputError, [bank], ("watch.knn_k=40", "watch.knn_bank=40"), "32 labelled samples to look among"),
        (InputError, [tmp_path / "none"], (), "no such shard set"),
    ]
    for kind, sets, overrides, message in cases:
        with pytest.raises(kind, match=message):
            train(small_recipe(*overrides), bank, tmp_path / "run", knn=sets)
        assert not (tmp_path / "run").exists()


def test_the_command_and_the_curve(seerctl: Callable[..., Result], bank: Path, tmp_path: Path) -> None:
    arguments = ["--recipe", SMALL, "--data", bank, "-o", tmp_path / "run", "--knn", bank]
    settings = [part for setting in (*KNN, "schedule.steps=3") for part in ("--set", setting)]
    result = seerctl("pretrain", *arguments, *settings)
    assert result.exit_code == 0, result.stderr
    assert "knn_top1" in Metrics(tmp_path / "run" / "metrics.jsonl").rows()[-1]
    assert "kNN top-1" in story([tmp_path / "run"])
