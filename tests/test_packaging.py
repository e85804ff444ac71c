"""Recipes and policies are found from a checkout, an editable install and a built wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED = sorted(path.stem for path in (REPOSITORY / "recipes").glob("*.toml"))
CODE = """
import json, seerctl
from seerctl.recipe import load_recipe, recipe_names
print(json.dumps([seerctl.__file__, sorted(recipe_names()), load_recipe("nano").model.size]))
"""


def ask(python_path: str, where: Path) -> list[object]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": python_path, "HOME": str(where)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, cwd=where, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_recipes_are_found_from_a_checkout_and_an_editable_install(tmp_path: Path) -> None:
    assert len(SHIPPED) >= 9
    file, names, size = ask("", tmp_path)  # the installation that runs these tests
    assert (names, size) == (SHIPPED, "pico")
    file, names, size = ask(str(REPOSITORY), tmp_path)
    assert Path(str(file)).is_relative_to(REPOSITORY)
    assert (names, size) == (SHIPPED, "pico")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", str(out), str(REPOSITORY)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(out.glob("seerctl-*.whl"))


def test_recipes_and_policies_are_inside_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert (tmp_path / "site/seerctl/audit/policies/default.toml").is_file()
    assert len(list((tmp_path / "site/seerctl/audit/label_sets").glob("*.toml"))) == 2
    for name in ("report.html.j2", "report.css"):
        assert (tmp_path / "site/seerctl/audit/templates" / name).is_file()
    assert (tmp_path / "site/seerctl/py.typed").is_file()
    for name in ("suite/suites/seer.toml", "suite/templates/suite.html.j2", "probes/templates/probe.html.j2",
                 "templates/page.html.j2"):  # fmt: skip
        assert (tmp_path / "site/seerctl" / name).is_file()
    file, names, size = ask(str(tmp_path / "site"), tmp_path)
    assert Path(str(file)).is_relative_to(tmp_path)
    assert (names, size) == (SHIPPED, "pico")


def test_the_wheel_holds_nothing_but_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"seerctl"}
