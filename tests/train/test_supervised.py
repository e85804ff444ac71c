"""The supervised objective: its loss and gradient, its labels, whole runs, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seerctl.cli import run
from seerctl.errors import InputError, Saved, UsageError
from seerctl.model.convert import convert
from seerctl.model.heads import Classifier, ClassifierHead
from seerctl.model.init import init_weights
from seerctl.model.sizes import SIZES
from seerctl.model.trunk import build_trunk
from seerctl.model.weights import load_weights
from seerctl.predictions import read_predictions
from seerctl.recipe import differences, dump, load_recipe, resolved
from seerctl.shards.index import Sample, ShardSet
from seerctl.train.data import loader
from seerctl.train.estimate import estimate
from seerctl.train.labels import class_of, labels_for
from seerctl.train.metrics import Metrics
from seerctl.train.objectives.supervised import Supervised
from seerctl.train.start import images_to_go, train
from seerctl.train.world import World
from tests.distributed.ranks import StopAfter
from tests.training import make_labelled, make_shards, small_recipe, supervised_recipe


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 samples of 5 classes, the first 10 of which have no label."""
    return make_labelled(tmp_path_factory.mktemp("partly"), 100, 5, unlabelled=10)


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished") / "run"
    train(supervised_recipe(), shards, place)
    return place


def _losses(place: Path) -> list[float]:
    return [row["loss"] for row in Metrics(place / "metrics.jsonl").rows()]


# ------------------------------------------------------------------------------------------------------------- the loss


def _classifier() -> Classifier:
    model = Classifier(build_trunk(SIZES["micro"]), ClassifierHead(64, 5))
    init_weights(model, 3)
    return model


def _step(parts: int = 1, smoothing: float = 0.0, eval_mode: bool = False) -> tuple[dict[str, float], torch.Tensor]:
    """What the objective says and leaves in the parameters, for 2 x 32 px and 1 x 16 px of 8 images."""
    generator = torch.Generator().manual_seed(1)
    crops = [torch.randn(count * 8, 3, size, size, generator=generator) for count, size in ((2, 32), (1, 16))]
    labels = torch.arange(8) % 5
    model = _classifier().train(not eval_mode)
    objective = Supervised(label_smoothing=smoothing, parts=parts)
    found = objective.accumulate(model, crops, 8, measure=True, labels=labels)
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return {name: float(value) for name, value in found.items()}, gradients


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient_are_those_of_one_mean_over_all_crops(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(1)
    crops = [torch.randn(count * 8, 3, size, size, generator=generator) for count, size in ((2, 32), (1, 16))]
    labels = torch.arange(8) % 5
    model = _classifier()
    logits = [model(kind) for kind in crops]
    target = F.one_hot(labels.repeat(3), 5).double() * (1 - smoothing) + smoothing / 5  # Szegedy et al., equation 7
    loss = -(target * F.log_softmax(torch.cat(logits).double(), 1)).sum(1).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    found, gradients = _step(smoothing=smoothing)
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert found["top1"] == pytest.approx(float((logits[0].argmax(1) == labels.repeat(2)).double().mean()))
    assert float((gradients - expected).norm() / expected.norm()) < 1e-5


def test_micro_batches_add_up_where_batchnorm_is_fixed() -> None:
    (whole, gradients), (parts, divided) = _step(eval_mode=True), _step(parts=4, eval_mode=True)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert float((divided - gradients).norm() / gradients.norm()) < 1e-5
    assert _step(parts=2)[0]["loss"] != pytest.approx(_step()[0]["loss"], rel=1e-5)  # BatchNorm sees half the batch


# ----------------------------------------------------------------------------------------------------------- whole runs


def test_it_learns_and_predicts(shards: Path, tmp_path: Path) -> None:
    recipe = supervised_recipe("schedule.steps=32", "optim.name=adamw", "optim.larc=false", "optim.lr=3e-3",
                               "augment.jitter=0.0", "augment.grey=0.0", "data.fraction=0.8")  # fmt: skip
    table = tmp_path / "table.jsonl"
    done = train(recipe, shards, tmp_path / "run", predict=shards, predictions=table)
    rows = Metrics(tmp_path / "run" / "metrics.jsonl").rows()
    assert np.mean([row["top1"] for row in rows[:4]]) < 0.5
    assert np.mean([row["top1"] for row in rows[-4:]]) > 0.75
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert done.predicted is not None
    assert done.predicted.top5 is None  # of four classes
    assert done.predicted.top1[0] > 0.75
    found = read_predictions(table)
    assert float((found.label == found.prediction).mean()) == pytest.approx(done.predicted.top1[0])


def test_metrics_and_files_of_a_run(finished: Path, shards: Path) -> None:
    rows = Metrics(finished / "metrics.jsonl").rows()
    assert set(rows[0]) == {
        "step", "epoch", "loss", "top1", "gradient_norm", "lr", "images_per_second",
        "images_per_second_per_device", "data_wait", "data_wait_max", "data_wait_rank", "step_seconds",
        "step_seconds_max", "step_seconds_rank", "damaged",
    }  # fmt: skip
    labels = json.loads((finished / "run.json").read_text())["labels"]
    assert labels == {
        "target": "label", "classes": ["0", "1", "2", "3"], "samples": 40, "of": 40, "unlabelled": 0, "fraction": 1.0,
        "keys_sha256": "",
    }  # fmt: skip
    weights = load_weights(finished / "weights.safetensors")
    assert {name: tuple(value.shape) for name, value in weights.head.items()} == {
        "clf.0.weight": (4, 64), "clf.0.bias": (4,),
    }  # fmt: skip
    assert (weights.metadata["target"], json.loads(weights.metadata["classes"])) == ("label", ["0", "1", "2", "3"])
    checkpoint = max((finished / "checkpoints").iterdir())
    convert(checkpoint, finished.with_name("converted.safetensors"))
    converted = load_weights(finished.with_name("converted.safetensors"))
    assert converted.metadata.items() >= weights.metadata.items()  # a checkpoint knows what its weights are
    assert all(torch.equal(converted.head[name], value) for name, value in weights.head.items())
    text = (finished / "recipe.toml").read_text()
    assert "label_smoothing" in text
    assert not any(key in text for key in ("temperature", "prototypes", "queue", "accumulated_codes"))
    assert load_recipe(finished / "recipe.toml") == supervised_recipe()


def test_stopping_and_going_on_is_bit_equal(finished: Path, shards: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    with pytest.raises(Saved):
        train(supervised_recipe("data.workers=2"), shards, place, progress=StopAfter(2))
    assert train(supervised_recipe("data.workers=2"), shards, place).start == 3
    assert _losses(place) == _losses(finished)
    ours, theirs = (load_weights(where / "weights.safetensors") for where in (place, finished))
    for one, two in ((ours.trunk, theirs.trunk), (ours.head, theirs.head)):
        assert all(torch.equal(one[name], two[name]) for name in two)


@pytest.mark.parametrize(
    "overrides",
    [
        ("parallel.activation_checkpointing=block",),
        ("parallel.precision=bf16", "parallel.activation_checkpointing=block"),
        ("parallel.precision=bf16",),
        ("parallel.accumulate=2", "loss.label_smoothing=0.1"),
        ("augment.crops=[{size=32, count=1, scale=[0.3, 1]}]", "optim.larc=false", "optim.head_lr_scale=10.0"),
    ],
)
def test_options_of_the_recipe_train(finished: Path, shards: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    train(supervised_recipe(*overrides, "schedule.steps=2"), shards, tmp_path / "run")
    first = _losses(tmp_path / "run")[0]
    if len(overrides) == 1:
        assert first == pytest.approx(_losses(finished)[0], rel=1e-2 if "bf16" in overrides[0] else 1e-6)


def test_micro_batches_are_said(shards: Path, tmp_path: Path, heard: Callable[[], list[str]]) -> None:
    train(supervised_recipe("parallel.accumulate=2", "schedule.steps=1"), shards, tmp_path / "run")
    row = Metrics(tmp_path / "run" / "metrics.jsonl").rows()[0]
    assert row["micro_batches"] == 2
    assert "codes" not in row
    assert any("BatchNorm sees a micro-batch" in line and "codes" not in line for line in heard())


# ----------------------------------------------------------------------------------------------------------- the labels


def test_batches_carry_the_labels_of_their_samples(shards: Path) -> None:
    data, recipe = ShardSet.open(shards), supervised_recipe()
    labels = labels_for(recipe, data)
    assert labels is not None
    truth = {sample.key: int(sample.meta["columns"]["label"]) for sample in data}
    for batch in loader(data, recipe, World(), 0, 3, labels=labels):
        assert batch.labels is not None
        assert batch.labels.tolist() == [truth[key] for key in batch.keys]


def _name(sample: Sample) -> str:
    return class_of(sample.meta["columns"].get("label"))


@pytest.mark.parametrize(("fraction", "of_each"), [(1.0, 18), (0.5, 9), (0.1, 2)])
def test_fractions_are_of_each_class_and_nested(partly: Path, fraction: float, of_each: int) -> None:
    data = ShardSet.open(partly)
    labels = labels_for(supervised_recipe(f"data.fraction={fraction}"), data)
    assert labels is not None
    assert (labels.classes, labels.unlabelled, len(labels)) == (("0", "1", "2", "3", "4"), 10, 5 * of_each)
    samples = labels.of(data)
    seen = [samples.read(position) for position in range(len(samples))]
    assert Counter(_name(sample) for sample in seen) == dict.fromkeys(labels.classes, of_each)
    # By hand: of each class the keys whose SHA-256 after the seed is lowest.
    every = [sample for sample in data if _name(sample)]
    lowest = []
    for name in labels.classes:
        keys = [sample.key for sample in every if _name(sample) == name]
        lowest += sorted(keys, key=lambda key: hashlib.sha256(f"0\n{key}".encode()).digest())[:of_each]
    assert {sample.key for sample in seen} == set(lowest)
    digest = hashlib.sha256("\n".join(sample.key for sample in seen).encode()).hexdigest()
    assert labels.keys_sha256 == digest


def test_a_fraction_is_the_same_for_any_order_and_another_for_another_seed(partly: Path, tmp_path: Path) -> None:
    assert (
        run(["-q", "shard", str(partly.parent / "stream.tar"), "-o", str(tmp_path / "other"), "--maxcount", "30"]) == 0
    )

    def keys(where: Path, *overrides: str) -> set[str]:
        data = ShardSet.open(where)
        labels = labels_for(supervised_recipe("data.fraction=0.2", *overrides), data)
        assert labels is not None
        samples = labels.of(data)
        return {samples.read(position).key for position in range(len(samples))}

    assert keys(partly) == keys(tmp_path / "other")
    assert keys(partly) != keys(partly, "run.seed=1")


def test_a_run_sees_its_share_alone(partly: Path, tmp_path: Path, told: Callable[[], list[str]]) -> None:
    recipe = supervised_recipe("data.fraction=0.2", "schedule.steps=0", "schedule.epochs=4", "data.batch=10")
    assert images_to_go(recipe, partly, tmp_path / "run") == 80
    summary = train(recipe, partly, tmp_path / "run")
    assert summary.images == 80  # 20 samples, four times
    labels = json.loads((tmp_path / "run" / "run.json").read_text())["labels"]
    assert (labels["samples"], labels["of"], labels["unlabelled"], labels["fraction"]) == (20, 100, 10, 0.2)
    assert len(labels["keys_sha256"]) == 64
    assert told() == ["seerctl: learning from 20 of 100 samples (20 % of each class), 10 have no 'label'"]


def test_sample_weights_go_with_a_share(partly: Path, tmp_path: Path) -> None:
    data = ShardSet.open(partly)
    labels = labels_for(supervised_recipe("data.fraction=0.2"), data)
    assert labels is not None
    seen = [data.read(int(position)).key for position in labels.positions]
    rows = [f"{sample.key},{1.0 if sample.key in seen[:4] else 0.0}" for sample in data]
    (tmp_path / "weights.csv").write_text("key,weight\n" + "\n".join(rows) + "\n")
    recipe = supervised_recipe("data.fraction=0.2", f"data.weights={tmp_path / 'weights.csv'}", "data.batch=20")
    weights = np.isin(seen, seen[:4]).astype(float)
    for batch in loader(labels.of(data), recipe, World(), 0, 2, weights, labels):
        assert Counter(batch.keys) == dict.fromkeys(seen[:4], 5)
    train(dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, steps=1)), partly, tmp_path / "run")
    others = [row.replace(",1.0", ",0.0") if row[:25] in seen else f"{row[:25]},1.0" for row in rows]
    (tmp_path / "weights.csv").write_text("key,weight\n" + "\n".join(others) + "\n")
    with pytest.raises(InputError, match="of the labelled samples that are seen: no sample has a weight above 0"):
        train(recipe, partly, tmp_path / "none")


@pytest.mark.parametrize(
    ("value", "name"), [(None, ""), ("", ""), ("cat", "cat"), (3, "3"), (3.0, "3"), (True, "true"), (2.5, "2.5")]
)
def test_class_names(value: Any, name: str) -> None:
    assert class_of(value) == name


# -------------------------------------------------------------------------------------------------------- what is wrong


def test_labels_that_cannot_be_learnt_are_refused(shards: Path, partly: Path, tmp_path: Path) -> None:
    def fails(data: Path, *overrides: str) -> str:
        with pytest.raises((UsageError, InputError)) as caught:
            train(supervised_recipe(*overrides), data, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no column 'lable' to learn from. Did you mean 'label'?; set loss.target" in fails(
        shards, "loss.target=lable"
    )
    assert "'label' has 4 classes, loss.classes is 10" in fails(shards, "loss.classes=10")
    message = fails(partly, "data.fraction=0.02")
    assert "data.fraction=0.02 leaves nothing of the class '0', which has 18 samples. 0.0556 leaves one" in message
    plain = make_shards(tmp_path / "plain", 20)
    assert "no column 'label' to learn from. It has no columns, so no labels" in fails(plain)
    one = make_labelled(tmp_path / "one", 20, 1)
    assert "column 'label' has a single class, '0'. Learning needs two classes" in fails(one)


def test_columns_of_fractions_and_lists_are_refused(tmp_path: Path) -> None:
    source = make_labelled(tmp_path, 20, 2).parent
    lines = [
        json.dumps({"path": str(source / "images" / f"{number:03d}.png"), "share": number / 8, "tags": ["a", "b"],
                    "whole": float(number % 2)})
        for number in range(20)
    ]  # fmt: skip
    (source / "table.jsonl").write_text("\n".join(lines) + "\n")
    assert run(["-q", "ingest", str(source / "table.jsonl"), "-o", str(source / "more.tar")]) == 0
    assert run(["-q", "shard", str(source / "more.tar"), "-o", str(source / "more")]) == 0
    data = ShardSet.open(source / "more")
    with pytest.raises(UsageError, match="'share' holds fractions, not classes"):
        labels_for(supervised_recipe("loss.target=share"), data)
    with pytest.raises(UsageError, match="'tags' holds lists or tables"):
        labels_for(supervised_recipe("loss.target=tags"), data)
    labels = labels_for(supervised_recipe("loss.target=whole"), data)
    assert labels is not None
    assert labels.classes == ("0", "1")
    codes = [batch.labels for batch in loader(data, supervised_recipe(), World(), 0, 1, labels=labels)]
    assert set(torch.cat([code for code in codes if code is not None]).tolist()) == {0, 1}


def test_keys_of_the_other_objective_are_refused_or_left_behind(tmp_path: Path) -> None:
    for overrides, message in {
        ("loss.target=label",): "'loss.target' belongs to the objective 'supervised', this recipe's is 'swav'",
        ("data.fraction=0.1",): "'data.fraction' belongs to the objective 'supervised'",
        ("predict.size=32",): "'predict.size' belongs to the objective 'supervised'",
        ("loss.epsilon=0.1", "loss.objective=supervised"): "'loss.epsilon' belongs to the objective 'swav'",
        ("loss.objective=supervised", "model.prototypes=9"): "'model.prototypes' belongs to the objective 'swav'",
        ("loss.objective=supervized",): "'loss.objective' is 'supervized'. Did you mean 'supervised'?",
        ("loss.objective=supervised", "loss.label_smoothing=1"): "label_smoothing must be in [0, 1)",
        ("loss.objective=supervised", "data.fraction=0"): "fraction must be in (0, 1]",
    }.items():
        with pytest.raises(UsageError) as caught:
            small_recipe(*overrides)
        assert message in str(caught.value)
    (tmp_path / "mine.toml").write_text('extends = "cifar"\n[loss]\nobjective = "supervised"\n')
    mine, cifar = load_recipe(tmp_path / "mine.toml"), load_recipe("cifar")
    assert (mine.augment, mine.optim, mine.data) == (cifar.augment, cifar.optim, cifar.data)
    assert "freeze_prototypes" not in resolved(mine)["loss"]
    (tmp_path / "dumped.toml").write_text(dump(mine))
    assert load_recipe(tmp_path / "dumped.toml") == mine
    assert differences(cifar, mine) == ['loss.objective: "swav" -> "supervised"']
    (tmp_path / "wrong.toml").write_text('extends = "cifar"\n[loss]\nobjective = "supervised"\nhard = 3\n')
    with pytest.raises(UsageError, match=r"'loss.hard' belongs to the objective 'swav'"):
        load_recipe(tmp_path / "wrong.toml")


def test_the_head_counts_in_the_estimate(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate(supervised_recipe(), 1, 1, 1000).head == 65 * 1000
    call = ["pretrain", "--recipe", "supervised", "--dry-run", "--output-format", "json"]
    assert run(call) == 2
    assert "Pass --data SET, or --set loss.classes=N" in capsys.readouterr().err
    assert run([*call, "--data", str(shards)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["params"]["head"] == 4 * 385
    assert "temperature" not in plan["recipe"]["loss"]
    assert run([*call, "--set", "loss.classes=10"]) == 0
    assert json.loads(capsys.readouterr().out)["params"]["head"] == 10 * 385
