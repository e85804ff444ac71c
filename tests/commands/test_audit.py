"""`seerctl audit`: exit codes, files, messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Run = Callable[..., Any]
POLICY = '[[check]]\nid = "acc"\nmetric = "accuracy"\ngroups = ["group"]\n'


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def make(right: tuple[float, float] = (0.9, 0.9), rows: int = 8000) -> Path:
        generator = np.random.default_rng(1)
        lines = ["key,label,prediction,score,group,age"]
        for row in range(rows):
            label, group = generator.integers(0, 2, 2)
            said = label if generator.random() < right[group] else 1 - label
            lines.append(f"k{row},{label},{said},0.5,{'ab'[group]},{['old', 'young'][row % 2]}")
        path = tmp_path / "predictions.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return make


def audit(path: Path, *more: object) -> list[object]:
    return ["audit", "--fairness", "--predictions", path, *more]


def test_pass_fail_and_inconclusive(cli: Run, table: Callable[..., Path], tmp_path: Path) -> None:
    done = cli(*audit(table(), "--groups", "group", "-o", tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    assert "verdict: PASS" in done.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "card.md", "junit.xml", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    done = cli(*audit(table((0.9, 0.7)), "--groups", "group"))
    assert done.exit_code == 3
    assert "group=b" in done.stderr
    assert done.stderr.count("\n") == 1
    assert cli(*audit(table(rows=100), "--groups", "group")).exit_code == 6


def test_json_on_stdout_is_the_report(cli: Run, table: Callable[..., Path], tmp_path: Path) -> None:
    done = cli(*audit(table(), "--groups", "group,age", "-o", tmp_path / "out", "--output-format", "json"))
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    saved.pop("created")
    assert json.loads(done.stdout) == saved
    line = cli(*audit(table(), "--groups", "group,age", "--output-format", "jsonl"))
    assert line.stdout.count("\n") == 1


def test_policy_file_and_step_summary(
    cli: Run, table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "audit.toml").write_text(POLICY)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    done = cli(*audit(table(), "--policy", tmp_path / "audit.toml"))
    assert done.exit_code == 0
    assert (tmp_path / "summary.md").read_text().startswith("## Fairness audit: PASS")


def test_existing_output(cli: Run, table: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    arguments = audit(table(), "--groups", "group", "-o", tmp_path / "out")
    done = cli(*arguments)
    assert done.exit_code == 2
    assert "exists already" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert cli(*arguments, "--overwrite").exit_code == 0
    assert (tmp_path / "out" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--groups", "grup"], 2, "Did you mean 'group'"),
        ([], 2, "Pass --groups"),
        (["--groups", "group", "--policy", "none.toml"], 2, "none.toml: no such file"),
        (["--groups", "group,,age"], 2, "not a list of names"),
        (["--groups", "group", "--representation"], 2, "audit --representation: nothing to judge. Pass --data SET"),
        (["--groups", "group", "--nonsense"], 2, "No such option"),
        (["--groups", "group", "--data", "shards"], 2, "--data is not read by --fairness"),
        (["--groups", "group", "--baseline-predictions", "p.csv"], 2, "without --baseline"),
        (["--groups", "group", "--baseline", "none.json"], 4, "none.json: no such file"),
        (["--groups", "group", "--policy", "representation"], 2, "has no check of the fairness suite"),
    ],
)
def test_usage(arguments: list[str], code: int, message: str, cli: Run, table: Callable[..., Path]) -> None:
    done = cli(*audit(table(rows=50), *arguments))
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_no_suite_and_no_table(cli: Run) -> None:
    done = cli("audit")
    assert (done.exit_code, "Pass --fairness" in done.stderr) == (2, True)
    done = cli("audit", "--fairness", "--groups", "a")
    assert (done.exit_code, "Pass --predictions" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("key,prediction,group\na,1,x\n", "no column 'label'"),
        ("key,label,prediction,score,group\na,1,1,much,x\n", "'score' is 'much'"),
        ("key,label,prediction,group\na,1,1,x\na,1,1,x\n", "key 'a' comes twice"),
    ],
)
def test_bad_tables(content: str, message: str, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(content)
    done = cli(*audit(tmp_path / "p.csv", "--groups", "group", "-o", tmp_path / "out"))
    assert done.exit_code == 4
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_project_file(cli: Run, table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(rows=20_000)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seerctl.toml").write_text(
        '[audit]\npredictions = "predictions.csv"\ngroups = ["group", "age"]\noutput = "audit/"\n'
    )
    assert cli("audit", "--fairness").exit_code == 0
    columns = [entry["columns"] for entry in json.loads((tmp_path / "audit" / "report.json").read_text())["groups"]]
    assert columns == [["group"], ["age"], ["group", "age"]]
