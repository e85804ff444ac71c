"""Fine-tuning: SEER's schedule and recipes, the start from other weights, the predictions at the end, the example."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import functional

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, CropSpec
from seerctl.augment.draws import draw_views
from seerctl.augment.multicrop import MultiCrop
from seerctl.cli import run
from seerctl.errors import InputError, UsageError
from seerctl.features.store import FeatureFile
from seerctl.model.sizes import RegNetSize
from seerctl.model.trunk import build_trunk
from seerctl.model.weights import load_weights, save_weights
from seerctl.predictions import read_predictions
from seerctl.recipe import load_recipe
from seerctl.shards.index import ShardSet
from seerctl.train.labels import labels_for
from seerctl.train.optim import build_optimizer, lr_at, peak_lr, set_lr
from seerctl.train.run import RunDirectory
from seerctl.train.start import sized, train
from seerctl.train.trainer import Trainer
from seerctl.train.world import World
from tests.pictures import draw
from tests.training import make_labelled, make_shards, small_recipe, supervised_recipe

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled(tmp_path_factory.mktemp("labelled"), 48, 6)


@pytest.fixture(scope="module")
def swav(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run without labels, to start from."""
    place = tmp_path_factory.mktemp("swav") / "run"
    train(small_recipe("schedule.steps=2"), shards, place)
    return place


@pytest.fixture(scope="module")
def tuned(shards: Path, swav: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run fine-tuned from `swav`, and its predictions."""
    folder = tmp_path_factory.mktemp("tuned")
    recipe = supervised_recipe("model.size=init", "schedule.steps=4")
    train(recipe, shards, folder / "run", init=swav, predict=shards, predictions=folder / "table.csv")
    return folder / "run", folder / "table.csv"


# ------------------------------------------------------------------------------------------------ recipes and schedules


def test_the_recipes_are_vissls() -> None:
    full, few = load_recipe("finetune"), load_recipe("finetune-few")
    assert (full.schedule.epochs, few.schedule.epochs) == (105, 70)
    assert (peak_lr(full.optim, 256), peak_lr(few.optim, 256), peak_lr(full.optim, 512)) == (0.1, 0.05, 0.2)
    for recipe in (full, few):
        optim = recipe.optim
        assert (optim.name, optim.momentum, optim.nesterov, optim.weight_decay, optim.larc) == (
            "sgd",
            0.9,
            True,
            0,
            False,
        )
    assert [(crop.size, crop.count, crop.scale) for crop in full.augment.crops] == [(384, 1, (0.08, 1.0))]
    assert (full.augment.interpolation, full.augment.jitter, full.augment.blur) == ("bicubic", 0.8, 0.5)
    assert (full.predict.size, full.predict.crop, few.predict.size, few.predict.crop) == (384, 1.0, 224, 0.875)
    assert (few.data.fraction, few.augment.jitter, few.augment.grey, few.augment.blur) == (0.1, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "epochs", "marks"), [("finetune", 105, (30, 60, 90, 100)), ("finetune-few", 70, (30,))]
)
def test_the_rate_falls_to_a_tenth_at_the_epochs_of_the_papers(name: str, epochs: int, marks: tuple[int, ...]) -> None:
    schedule, an_epoch = load_recipe(name).schedule, 5004  # ImageNet's 1,281,167 images by 256
    for epoch in range(epochs):
        for step in (epoch * an_epoch, (epoch + 1) * an_epoch - 1):
            drops = sum(epoch >= mark for mark in marks)
            assert lr_at(step, epochs * an_epoch, 0.1, schedule) == pytest.approx(0.1 * 0.1**drops), epoch


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.shape=step", 'milestones and shape = "step" go together'),
        ("schedule.milestones=[0.5]", 'milestones and shape = "step" go together'),
        ("optim.nesterov=true", ""),
        ("optim.head_lr_scale=0", "head_lr_scale must be positive"),
    ],
)
def test_schedules_that_contradict_themselves(override: str, message: str) -> None:
    if not message:
        assert supervised_recipe(override).optim.nesterov
        return
    with pytest.raises(UsageError, match=message):
        supervised_recipe(override)


def test_milestones_are_checked() -> None:
    for marks, message in {"[0.5, 0.2]": "milestones must rise", "[30]": "fractions of all steps"}.items():
        with pytest.raises(UsageError, match=message):
            supervised_recipe("schedule.shape=step", f"schedule.milestones={marks}")
    with pytest.raises(UsageError, match="nesterov goes with sgd and a momentum above 0"):
        supervised_recipe("optim.nesterov=true", "optim.momentum=0.0")


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.trunk(x))
        return found


def test_head_and_trunk_learn_at_rates_of_their_own_with_nesterov() -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    ours, theirs = _Two(), _Two()
    recipe = supervised_recipe(
        "optim.larc=false", "optim.nesterov=true", "optim.head_lr_scale=5.0", "optim.weight_decay=0.0"
    )
    optimizer = build_optimizer(ours, recipe.optim)
    reference = torch.optim.SGD(
        [{"params": theirs.trunk.parameters(), "lr": 0.1}, {"params": theirs.head.parameters(), "lr": 0.5}],
        momentum=0.9, nesterov=True,
    )  # fmt: skip
    for _ in range(3):
        set_lr(optimizer, 0.1)
        for model, one in ((ours, optimizer), (theirs, reference)):
            model(x).square().sum().backward()
            one.step()
            one.zero_grad()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_torchvisions_resized_crops(interpolation: str) -> None:
    config = AugmentConfig(crops=(CropSpec(size=40, count=1, scale=(0.3, 1.0)),), interpolation=interpolation,  # type: ignore[arg-type]
                           flip=0.0, jitter=0.0, grey=0.0, blur=0.0)  # fmt: skip
    picture, index = draw(3, 90, 70), np.array([7])
    found = MultiCrop(config, 1)([np.array(picture)], index, np.array([0]))[0][0]
    draws = draw_views(config, config.crops[0], 0, 1, np.array([[90, 70]]), index, np.array([0]))
    left, top, width, height = (int(value) for value in draws.box[0])
    mode = functional.InterpolationMode(interpolation)
    view = functional.resized_crop(picture, top, left, height, width, [40, 40], mode)
    expected = functional.normalize(functional.to_tensor(view), IMAGENET_MEAN, IMAGENET_STD)
    assert torch.allclose(found, expected, atol=1e-6)
    fused = AugmentConfig(**{**config.__dict__, "mode": "fused"})
    near = MultiCrop(fused, 1)([np.array(picture)], index, np.array([0]))[0][0]
    assert float((near - expected).abs().max()) < 1.01 / 255 / min(IMAGENET_STD)  # a level of 255


# --------------------------------------------------------------------------------------------------------- where from


def test_the_size_comes_from_the_weights(swav: Path, tmp_path: Path, tuned: tuple[Path, Path]) -> None:
    recipe = supervised_recipe("model.size=init")
    assert sized(recipe, swav).model.size == sized(recipe, swav / "weights.safetensors").model.size == "micro"
    assert load_recipe(tuned[0] / "recipe.toml").model.size == "micro"
    with pytest.raises(UsageError, match=r"there are none. Pass --init WEIGHTS, or --set model.size=NAME"):
        sized(recipe, None)
    with pytest.raises(InputError, match="no such file"):
        sized(recipe, tmp_path / "absent")
    state = load_weights(swav / "weights.safetensors").trunk
    torch.save(state, tmp_path / "trunk.pth")
    assert sized(recipe, tmp_path / "trunk.pth").model.size == "micro"
    odd = build_trunk(RegNetSize((1, 1), (16, 24), (8, 8), stem_width=16)).state_dict()
    save_weights(tmp_path / "odd.safetensors", {f"trunk.{key}": value for key, value in odd.items()}, {})
    with pytest.raises(InputError, match="a trunk of no named size"):
        sized(recipe, tmp_path / "odd.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((swav / "weights.safetensors").read_bytes()[:999])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        sized(recipe, tmp_path / "cut.safetensors")


def test_the_trunk_of_a_run_without_labels_is_taken(
    shards: Path, swav: Path, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    data = ShardSet.open(shards)
    labels = labels_for(supervised_recipe(), data)
    trainer = Trainer(supervised_recipe(), data, RunDirectory(tmp_path), World(), init=swav, labels=labels)
    theirs = load_weights(swav / "weights.safetensors").trunk
    assert all(torch.equal(value, theirs[name]) for name, value in trainer.model.trunk.state_dict().items())
    assert told() == [f"seerctl: {swav}: only the trunk was taken, its head is not this recipe's"]


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of as many classes as `shards`, by other names in its index."""
    names = make_labelled(tmp_path_factory.mktemp("renamed"), 24, 6)
    index = json.loads((names / "index.json").read_text())
    values = index["columns"]["label"]["values"]
    index["columns"]["label"]["values"] = {f"class {name}": count for name, count in values.items()}
    (names / "index.json").write_text(json.dumps(index))
    return names


def test_a_classifier_is_taken_with_its_classes_only(
    shards: Path, renamed: Path, tuned: tuple[Path, Path], tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    def head(data: Path, name: str) -> dict[str, torch.Tensor]:
        opened, recipe, run = ShardSet.open(data), supervised_recipe(), RunDirectory(tmp_path / name)
        labels = labels_for(recipe, opened)
        return Trainer(recipe, opened, run, World(), init=tuned[0], labels=labels).model.head.state_dict()

    theirs = load_weights(tuned[0] / "weights.safetensors").head
    assert all(torch.equal(value, theirs[name]) for name, value in head(shards, "same").items())
    assert told() == []
    assert not torch.equal(head(renamed, "other")["clf.0.weight"], theirs["clf.0.weight"])
    assert len(told()) == 1


def test_a_label_that_the_index_does_not_list_is_named(renamed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"the 'label' of sample [0-9a-f-]+ is '\d', not in the index. Run 'seerctl insp"
    ):
        train(supervised_recipe(), renamed, tmp_path / "run")


def test_weights_of_another_size_are_refused(shards: Path, swav: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds a RegNet 'micro' \(.*\), but 'nano' \(.*\) is wanted"):
        train(supervised_recipe("model.size=nano"), shards, tmp_path / "run", init=swav)


# -------------------------------------------------------------------------------------------------------- predictions


def test_predictions_are_what_extracted_features_and_the_head_say(
    shards: Path, tuned: tuple[Path, Path], tmp_path: Path
) -> None:
    place, table = tuned
    assert run(["-q", "extract", "--model", str(place), "--data", str(shards), "-o", str(tmp_path / "f.h5")]) == 0
    with FeatureFile.open(tmp_path / "f.h5") as file:
        features, keys, column = file.features(), [key.decode() for key in file.keys], file.columns["label"]
    head = load_weights(place / "weights.safetensors").head
    logits = torch.from_numpy(features) @ head["clf.0.weight"].T + head["clf.0.bias"]
    scores = logits.double().softmax(1)
    found = read_predictions(table, ranked=True)
    assert list(found.keys) == keys
    assert found.classes == ("0", "1", "2", "3", "4", "5")
    assert [found.classes[code] for code in found.label] == column.texts()
    best, order = scores.sort(dim=1, descending=True, stable=True)
    np.testing.assert_array_equal(found.top, order[:, :5].numpy())
    np.testing.assert_allclose(found.top_scores, best[:, :5].numpy(), atol=1e-5)
    assert set(found.columns) == {"group"}
    assert found.columns["group"].texts() == ["fm"[number // 6 % 2] for number in _numbers(shards)]


def _numbers(shards: Path) -> list[int]:
    """Which picture each sample is, from the stored source."""
    return [int(Path(sample.meta["source"]).stem) for sample in ShardSet.open(shards)]


def test_audit_judges_a_fine_tuned_model(tuned: tuple[Path, Path], tmp_path: Path) -> None:
    code = run(
        ["-q", "audit", "--fairness", "--predictions", str(tuned[1]), "--groups", "group", "-o", str(tmp_path / "a")]
    )
    assert code in (0, 3, 6)
    assert (tmp_path / "a" / "report.json").is_file()


def test_a_finished_run_predicts_another_set(
    shards: Path, tuned: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text((tuned[0] / "recipe.toml").read_text())
    other = make_labelled(tmp_path / "other", 18, 6, unlabelled=3)
    table = tmp_path / "table.jsonl"
    call = ["pretrain", "--recipe", str(tmp_path / "r.toml"), "--data", str(shards), "-o", str(tuned[0]),
            "--predict", str(other), "--predictions", str(table), "--output-format", "json"]  # fmt: skip
    assert run(call) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["images"], result["predicted"]["rows"], result["predicted"]["labelled"]) == (0, 18, 15)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(rows) == 18
    assert sum(row["label"] is None for row in rows) == 3
    hits = sum(row["label"] == row["prediction"] for row in rows)
    assert result["predicted"]["top1"][0] == pytest.approx(hits / 15)
    assert f"top1 {100 * hits / 15:.2f} %" in captured.err
    assert run(call) == 2  # the table is there
    assert "exists already. Choose another output or pass --overwrite" in capsys.readouterr().err
    assert run([*call, "--overwrite"]) == 0


def test_what_cannot_be_predicted_is_said_before_the_training(shards: Path, tmp_path: Path) -> None:
    def fails(predict: Path | None, table: Path | None, **more: Any) -> str:
        recipe = more.pop("recipe", supervised_recipe())
        with pytest.raises((UsageError, InputError)) as caught:
            train(recipe, shards, tmp_path / "run", predict=predict, predictions=table)
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    table = tmp_path / "table.csv"
    assert "--predict without --predictions. Pass --predictions FILE too" in fails(shards, None)
    assert "--predictions without --predict. Pass --predict SET too" in fails(None, table)
    assert "'swav' learns no classes to predict" in fails(shards, table, recipe=small_recipe())
    assert "table.txt" in fails(shards, tmp_path / "table.txt")
    assert "no such shard set" in fails(tmp_path / "absent", table)
    assert "no column 'label'" in fails(make_shards(tmp_path / "plain", 4), table)
    assert "'label' has 2 classes that no training sample had: '6', '7'" in fails(
        make_labelled(tmp_path / "m", 16, 8), table
    )
    none = make_labelled(tmp_path / "none", 8, 2, unlabelled=8)  # a column without a value is none at all
    assert "no column 'label'" in fails(none, table)


# ---------------------------------------------------------------------------------------------------------- the example


def test_the_example_compares_and_prints_a_table(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("comparison", REPOSITORY / "examples" / "supervised_vs_swav.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    quick = ["schedule.steps=2", "data.batch=16", "data.workers=0", "run.device=cpu"]
    arguments = [str(shards), str(shards), str(tmp_path / "out"), "--fractions", "0.5"]
    arguments += [part for value in (*quick, "schedule.epochs=0.5", "model.size=micro") for part in ("--set", value)]
    arguments += [part for value in quick for part in ("--set-finetune", value)]
    example.main(arguments)
    out = capsys.readouterr().out.splitlines()
    assert out[-8:-5] == ["| top-1, % | SwAV, no labels | supervised, all labels |", "|---|---|---|", out[-6]]
    assert [line.split(" |")[0] for line in out[-6:-4]] == ["| knn, frozen features", "| linear, frozen features"]
    knn = json.loads((tmp_path / "out" / "swav-knn.json").read_text())["metrics"]["top1"]["value"]
    assert f"| {100 * knn:.1f} |" in out[-6]
    assert out[-1].startswith("| 50% | ")
    with (tmp_path / "out" / "finetuned-0.5.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 48
    assert load_weights(tmp_path / "out" / "supervised" / "weights.safetensors").head.keys() == {
        "clf.0.weight",
        "clf.0.bias",
    }
