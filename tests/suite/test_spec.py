"""Suites from strangers: every mistake in one is named before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from seerctl.errors import UsageError
from seerctl.suite.spec import find_suite, load_suite, select

ENTRY = """
[[entry]]
name = "pets"
task = "breeds"
protocol = "knn"
target = "label"
options = { k = [5] }
[entry.data]
train = { path = "pets/train" }
test = { path = "pets/test.csv", layout = "table", columns = { label = "class" } }
"""
PUBLISHED = """
[[entry.published]]
model = "X"
value = 50.5
metric = "top1"
protocol = "knn"
source = "a paper"
[[entry.published]]
model = "Y"
value = 60
metric = "top1"
protocol = "finetune"
source = "a paper"
"""


def suite(where: Path, text: str) -> Path:
    path = where / "suite.toml"
    path.write_text(text)
    return path


def test_an_entry_is_complete(tmp_path: Path) -> None:
    (entry,) = load_suite(suite(tmp_path, ENTRY + PUBLISHED)).entry
    assert (entry.options["k"], entry.options["temperature"]) == ((5,), 0.07)
    assert [(key, data.path, data.names) for key, data in entry.data_sets()] == [
        ("train", "pets/train", ("label",)), ("test", "pets/test.csv", ("label",)),
    ]  # fmt: skip
    assert [one.model for one in entry.comparable()] == ["X"]  # Y was fine-tuned


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"knn"', '"knnn"', "pets: no protocol 'knnn'. Did you mean 'knn'"),
        ("k = [5]", "kk = [5]", "knn has no option 'kk'. Did you mean 'k'"),
        ("k = [5]", 'k = "5"', "'k' is '5'. It must be a list"),
        ("train = ", "training = ", "no input 'training'. Did you mean 'train'"),
        ('target = "label"', "", "knn needs a target"),
        ('target = "label"', 'target = "label"\nmetric = "top2"', "knn does not measure 'top2'. Did you mean 'top"),
        ('name = "pets"', 'name = "../pets"', "not made of letters"),
        ('task = "breeds"', 'tsk = "breeds"', "unknown key 'entry[0].tsk'. Did you mean 'task'"),
        ('{ path = "pets/train" }', '{ pth = "pets/train" }', "unknown key 'entry[0].data.train.pth'"),
        (', columns = { label = "class" }', "", 'layout = "table" and columns go together'),
        ('label = "class"', 'label = "klass"', "Did you mean 'class'"),
        ('protocol = "knn"', "", "either protocol or elsewhere"),
        ('target = "label"', 'target = "label"\nlayers = ["res4", "res5"]', "knn takes one 'train', of one layer"),
        ('target = "label"', 'target = "label"\nfiles = { k = "a" }', "'k' stands in options and in files"),
    ],
)
def test_mistakes_are_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in ENTRY
    with pytest.raises(UsageError) as error:
        load_suite(suite(tmp_path, ENTRY.replace(old, new)))
    assert message in str(error.value)
    assert "suite.toml" in str(error.value)


def test_names_are_unique_and_selected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two entries are called 'pets'"):
        load_suite(suite(tmp_path, ENTRY + ENTRY))
    loaded = load_suite(suite(tmp_path, ENTRY + ENTRY.replace('"pets"', '"cars"')))
    assert [entry.name for entry in select(loaded, ["cars"])] == ["cars"]
    assert len(select(loaded, [])) == 2
    with pytest.raises(UsageError, match=r"--only car: no such entry\. Did you mean 'cars'"):
        select(loaded, ["car"])
    with pytest.raises(UsageError, match="at least one"):
        load_suite(suite(tmp_path, "description = 'nothing'"))


def test_suites_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no such suite file"):
        find_suite(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="no suite 'mine'"):
        find_suite("mine")
    monkeypatch.setenv("SEERCTL_SUITES", str(tmp_path))
    (tmp_path / "mine.toml").write_text(ENTRY)
    assert find_suite("mine") == tmp_path / "mine.toml"
