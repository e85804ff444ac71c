"""`seerctl recipes ls|show|validate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seerctl.cli import run
from seerctl.recipe import load_recipe, recipe_names


def test_ls_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert run(["recipes", "ls", "--output-format", "json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["recipes"]}
    assert (rows["10b"]["size"], rows["10b"]["batch"]) == ("10b", 7936)


def test_ls_names_a_broken_recipe_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text("[data]\nbath = 3\n")
    monkeypatch.setenv("SEERCTL_RECIPES", str(tmp_path))
    assert run(["recipes", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("mine") and "invalid: " in line and "data.bath" in line for line in lines)
    assert any(line.startswith("nano") for line in lines)


def test_show_prints_what_validate_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "show", "128gf", "--set", "data.batch=64"]) == 0
    (tmp_path / "shown.toml").write_text(capsys.readouterr().out)
    assert load_recipe(tmp_path / "shown.toml") == load_recipe("128gf", ["data.batch=64"])
    assert run(["recipes", "validate", str(tmp_path / "shown.toml"), "nano"]) == 0
    assert capsys.readouterr().err.count("a valid recipe") == 2
    assert run(["recipes", "show", "10b", "--output-format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"]["iterations"] == 10


def test_validate_names_the_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "typo.toml").write_text("[optim]\nweigth_decay = 1e-5\n")
    assert run(["recipes", "validate", str(tmp_path / "typo.toml")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "unknown key 'optim.weigth_decay'. Did you mean 'weight_decay'?" in error
    assert run(["recipes", "validate", "nanno"]) == 2
    assert run(["recipes", "show"]) == 2


def test_quiet_on_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["-q", "recipes", "validate", "nano"],
        ["recipes", "validate", "nano", "-q"],
        ["recipes", "-q", "validate", "nano"],
    ):
        assert run(arguments) == 0
        assert capsys.readouterr().err == ""
