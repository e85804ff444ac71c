"""Recipes: found, inherited, overridden, dumped, and refused with the key that is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from seerctl.errors import UsageError
from seerctl.recipe import FROM_INIT, Recipe, differences, dump, find, load_recipe, recipe_names
from seerctl.train.parallel import assemble

SHIPPED = [
    "10b", "128gf", "16gf", "256gf", "256gf-5088", "32gf", "64gf", "8gf", "cifar", "cifar-finetune", "cifar-supervised",
    "finetune", "finetune-few", "nano", "resnet50", "resnet50-256", "supervised",
]  # fmt: skip


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_shipped_recipes_are_all_found() -> None:
    assert set(SHIPPED) <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_builds_and_round_trips(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    assert load_recipe(_write(tmp_path / "dumped.toml", dump(recipe))) == recipe
    labelled = recipe.loss.objective == "supervised"
    if recipe.model.size == FROM_INIT:
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, size="8gf"))
    with torch.device("meta"):
        model = assemble(recipe.model, classes=1000 if labelled else 0)
    if labelled:
        assert model.head.clf[0].out_features == 1000
    else:
        assert model.head.prototypes.out_features == recipe.model.prototypes


def test_128gf_inherits_from_256gf_and_changes_what_it_says() -> None:
    parent, child = load_recipe("256gf"), load_recipe("128gf")
    assert sorted(line.split(":")[0] for line in differences(parent, child)) == [
        "data.batch",
        "model.size",
        "schedule.shape",
        "schedule.start",
        "schedule.warmup",
    ]
    assert child.description != parent.description


def test_paths_environment_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = _write(tmp_path / "mine.toml", 'extends = "nano"\n[data]\nbatch = 64\n')
    assert load_recipe(mine).data.batch == 64
    assert load_recipe(mine).model == load_recipe("nano").model
    with pytest.raises(UsageError, match="no recipe 'mine'"):
        find("mine")
    monkeypatch.setenv("SEERCTL_RECIPES", str(tmp_path))
    assert find("mine") == mine
    assert "mine" in recipe_names()
    _write(tmp_path / "nano.toml", 'description = "shadows"\n')
    assert load_recipe("nano").description == "shadows"


def test_missing_recipes_name_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean '256gf'"):
        load_recipe("256fg")
    with pytest.raises(UsageError, match=r"no such recipe file.*10b, .*nano"):
        load_recipe(tmp_path / "absent.toml")


def test_extends_two_levels_and_no_further(tmp_path: Path) -> None:
    _write(tmp_path / "a.toml", "[data]\nbatch = 10\n")
    _write(tmp_path / "b.toml", 'extends = "a"\n[run]\nseed = 3\n')
    _write(tmp_path / "c.toml", 'extends = "b.toml"\n[optim]\nlr = 1\n')
    _write(tmp_path / "d.toml", 'extends = "c"\n')
    recipe = load_recipe(tmp_path / "c.toml")
    assert (recipe.data.batch, recipe.run.seed, recipe.optim.lr) == (10, 3, 1.0)
    with pytest.raises(UsageError, match="more than 2 levels"):
        load_recipe(tmp_path / "d.toml")
    _write(tmp_path / "round.toml", 'extends = "round"\n')
    with pytest.raises(UsageError, match="more than 2 levels"):
        load_recipe(tmp_path / "round.toml")
    with pytest.raises(UsageError, match="'extends' is 3"):
        load_recipe(_write(tmp_path / "odd.toml", "extends = 3\n"))


def test_overrides_are_toml_values_or_plain_text() -> None:
    recipe = load_recipe(
        "nano",
        [
            "data.batch=64",
            "optim.lr=2",
            "model.size=10b",
            'loss.objective = "swav"',
            "augment.crops=[{size=32, count=2, scale=[0.5, 1]}]",
            "parallel.sync_batchnorm=node",
            "optim.larc=false",
            "description=true",
            "run.seed=1",
            "run.seed=2",
        ],
    )
    assert (recipe.data.batch, recipe.optim.lr, recipe.model.size) == (64, 2.0, "10b")
    assert [(crop.size, crop.scale) for crop in recipe.augment.crops] == [(32, (0.5, 1.0))]
    assert (recipe.parallel.sync_batchnorm, recipe.run.seed, recipe.description) == ("node", 2, "true")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.weigth_decay=1", "unknown key 'optim.weigth_decay'. Did you mean 'weight_decay'"),
        ("optimm.lr=1", "unknown key 'optimm'. Did you mean 'optim'"),
        ("optim.lr=fast", "'optim.lr' is 'fast'"),
        ("data.batch=1.5", "'data.batch' is 1.5. It must be int"),
        ("data.batch", "not of the form section.key=value"),
        ("model.size.x=1", "'size' is not a section"),
        ("model.size=11b", "no size '11b'. Did you mean '10b'"),
        ("optim.name=adam", "'optim.name' is 'adam'. Did you mean 'adamw'"),
        ("schedule.warmup=2", "warmup is a fraction of all steps"),
        ("augment.crops=[{size=32, count=1, scale=[0.5, 1]}]", "SwAV needs at least 2 crops of the first kind"),
        ("loss.epsilon=0", "temperature and epsilon must be positive"),
        ("parallel.sync_batchnorm=1", "groups need at least 2 ranks"),
        ("optim.larc=true", "larc goes with sgd"),
        ("checkpoint.keep=0", "every and keep must be at least 1"),
        ("checkpoint.on_full=ignore", "'checkpoint.on_full' is 'ignore'"),
        ("augment.mode=devise", "'augment.mode' is 'devise'. Did you mean 'device'"),
        ("watch.knn_every=0", "knn_every must be at least 1"),
        ("watch.knn_bank=5", "knn_bank must be at least knn_k"),
        ("watch.knn_target=", "knn_target must name a column"),
        ("watch.tensorboard=1", "'watch.tensorboard' is 1"),
    ],
)
def test_wrong_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("'", ".").replace("[", r"\[")) as caught:
        load_recipe("nano", [override])
    assert "\n" not in str(caught.value)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    for text, message in {
        "[optim]\nweigth_decay = 1e-5\n": "bad.toml: unknown key 'optim.weigth_decay'. Did you mean 'weight_decay'",
        "[optim\n": "bad.toml: not valid TOML",
        "[data]\nbatch = '64'\n": "bad.toml: 'data.batch' is '64'. It must be int",
        "data = 3\n": "bad.toml: 'data' is 3. It must be a table",
        'extends = "nano"\ndata = 3\n': "bad.toml: 'data' is 3. It must be a table",
    }.items():
        with pytest.raises(UsageError) as caught:
            load_recipe(_write(tmp_path / "bad.toml", text))
        assert message in str(caught.value)


def test_differences_name_keys_and_both_values() -> None:
    old, new = load_recipe("nano"), load_recipe("nano", ["data.batch=32", "model.size=micro", "description=other"])
    assert differences(old, new) == ['model.size: "pico" -> "micro"', "data.batch: 64 -> 32"]
    assert differences(old, old) == []
    assert differences(Recipe(), Recipe()) == []
