"""Every example that a help text or the README shows is run as it stands, in a project that has what it names."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from seerctl.cli import cli
from seerctl.options import SeerCommand
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import read_sources
from tests.pictures import draw

REPOSITORY = Path(__file__).resolve().parent.parent
# The examples train the recipes they name, but for four steps of eight small pictures.
SUITE = """
[[entry]]
name = "neighbours"
task = "cats and dogs"
protocol = "knn"
target = "label"
options = { k = [5] }
size = 32
data = { train = { path = "shards/train" }, test = { path = "shards/test" } }
"""
Shell = Callable[..., subprocess.CompletedProcess[str]]
QUICK = "schedule.steps=4 data.batch=8 data.workers=0 model.size=micro"


def examples(group: click.Group) -> list[str]:
    found: list[str] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            found += examples(command)
        elif isinstance(command, SeerCommand):
            found += command.examples
    return found


@pytest.fixture(scope="module")
def shell(warm: Path) -> Shell:
    path = f"{warm}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(command: str, where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"set -eo pipefail\n{command}"],
            cwd=where, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Path:
    """A directory with everything that examples read: photos/, tables, a tar, shards/, run/, features, predictions."""
    where = tmp_path_factory.mktemp("project")
    rows = []
    for number in range(40):
        path = where / "photos" / ("cat", "dog")[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(number).save(path, quality=92)
        groups = [("f", "m")[number // 2 % 2], ("young", "old")[number % 3 // 2]]
        places = [(47, -34)[number % 2] + number / 100, (8, 151)[number % 2] - number / 100]
        tags = " ".join(f"#{word}" for word in (path.parent.name, *groups))
        rows.append([path.relative_to(where), path.parent.name, *groups, *places, tags, number % 7])
    with (where / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "gender", "age", "lat", "lon", "tags", "count"], *rows])
    done = shell(
        """
        tar cf photos.tar photos
        find photos -name '*.jpg' > photos.txt
        printf 'photos/cat/00.jpg\nphotos/dog/01.jpg\n' > opted-out.txt
        seerctl ingest photos.csv -o stream.tar
        seerctl ingest photos/cat -o one.tar
        seerctl ingest photos/dog -o two.tar
        printf 'extends = "nano"\n[data]\nbatch = 32\n' > my-recipe.toml
        seerctl shard stream.tar -o shards/
        seerctl shard stream.tar -o split/ --split train=0.6,test=0.4
        mv split/train split/test shards/
        seerctl pretrain --recipe nano --data shards/ -o run/
        for split in train test; do seerctl extract --model run/ --data shards/$split -o $split.h5 --workers 0; done
        seerctl extract --model run/ --data shards/test --corrupt fog:3 -o foggy.h5 --workers 0
        seerctl extract --model run/ --data shards/train --layer head -o head.h5 --workers 0
        seerctl probe knn --train train.h5 --test test.h5 --target label --k 5 -o knn.json --predictions predictions.csv
        seerctl probe linear --train train.h5 --test test.h5 --target label --l2 1 -o linear.json --predictions l.csv
        cp -r run another-run
        printf '[[check]]\\nid = "accuracy"\\nmetric = "accuracy"\\ngroups = ["gender"]\\n' > audit.toml
        """,
        where,
        SEERCTL_PRETRAIN_SET=QUICK,
    )
    assert done.returncode == 0, done.stderr
    (where / "suite.toml").write_text(SUITE)
    with ShardSet.open(where / "shards" / "train") as shards:
        names = sorted(read_sources(shards).values())
    truth = {"queries": [{"query": names[0], "relevant": names[1:4], "junk": names[4:5]}]}
    (where / "truth.json").write_text(json.dumps(truth))
    (where / "my_model.py").write_text(blocks("python")[0])  # the README's
    return where


def fresh(project: Path, to: Path, command: str) -> None:
    """A copy of the project in which nothing stands where `command` writes."""
    shutil.copytree(project, to)
    words = shlex.split(command.replace("|", " "))
    if "--drop" in words:  # works on what is there
        return
    for flag, value in itertools.pairwise(words):
        if flag in ("-o", "--output", "--predictions", "--rejects") and "audit" not in words[:2]:
            target = to / value
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)


@pytest.mark.parametrize("example", examples(cli))
def test_help_example(example: str, project: Path, shell: Shell, tmp_path: Path) -> None:
    fresh(project, tmp_path / "copy", example)
    done = shell(example, tmp_path / "copy", SEERCTL_PRETRAIN_SET=QUICK if "nano" in example else "")
    # A gate says what it finds: 20 pictures of noise may fail it, or be too few to judge.
    gates = ("audit ", "--min ")
    assert done.returncode in ((0, 3, 6) if any(word in example for word in gates) else (0,)), done.stderr
    assert "Traceback" not in done.stderr


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.M | re.S)


def test_readme_commands_run(project: Path, shell: Shell, tmp_path: Path) -> None:
    where = tmp_path / "readme"
    where.mkdir()
    shutil.copytree(project / "photos", where / "photos")
    shutil.copy(project / "photos.csv", where)
    for block in blocks("bash"):
        for line in block.splitlines():
            done = shell(line, where, SEERCTL_PRETRAIN_SET=QUICK, SEERCTL_PROBE_KNN_K="5")
            assert done.returncode in ((0, 3, 6) if "audit" in line else (0,)), (line, done.stderr)


def test_readme_project_file_makes_bare_commands_run(project: Path, shell: Shell, tmp_path: Path) -> None:
    where = tmp_path / "readme"
    where.mkdir()
    shutil.copytree(project / "photos", where / "photos")
    shutil.copy(project / "predictions.csv", where)
    (where / "seerctl.toml").write_text(blocks("toml")[0])
    for command in ("seerctl ingest | seerctl shard", "seerctl pretrain --recipe nano", "seerctl audit --fairness"):
        done = shell(command, where, SEERCTL_PRETRAIN_SET=QUICK)
        assert done.returncode in ((0, 3, 6) if "audit" in command else (0,)), (command, done.stderr)
    assert (where / "run" / "weights.safetensors").is_file()
    assert (where / "audit" / "report.json").is_file()
