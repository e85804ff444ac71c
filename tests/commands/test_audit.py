"""`seerctl audit`: exit codes, files, messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seerctl.weighting import read_weights
from tests.streams import meta_of, shards_of, stream_of

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


def test_scores_that_no_check_reads_are_refused(cli: Run, table: Callable[..., Path], tmp_path: Path) -> None:
    result = cli(*audit(table(), "--groups", "group", "--scores", tmp_path / "scores.h5"))
    assert result.exit_code == 2
    assert "no check of the policy reads full scores" in result.stderr


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


# ------------------------------------------------------------------------------------------------------- other suites


def shard_set(where: Path, share: float = 0.5, first: int = 0) -> Path:
    samples = []
    for number in range(first, first + 200):
        data = f"picture {number}".encode()
        group = "a" if number - first < 200 * share else "b"
        label = ("cat", "dog")[int(number % 10 < (8 if group == "a" else 2))]
        samples.append((data, meta_of(data, f"{number}.jpg", {"group": group, "label": label})))
    shards_of(where, stream_of(samples))
    return where


def test_several_suites_give_one_report(cli: Run, table: Callable[..., Path], tmp_path: Path) -> None:
    where = shard_set(tmp_path / "set")
    done = cli(*audit(table(), "--representation", "--data", where, "--groups", "group", "-o", tmp_path / "out"))
    assert done.exit_code == 3  # eight in ten of the one group are dogs, two in ten of the other
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["suites"] == ["fairness", "representation"]
    failed = {check["id"] for check in report["checks"] if check["verdict"] == "FAIL"}
    assert failed == {"association"}
    assert set(report["sections"]) == {"representation"}
    assert "association" in (tmp_path / "out" / "report.md").read_text()
    alone = cli("audit", "--representation", "--data", where, "--groups", "group", "--output-format", "json")
    checks = {check["id"]: check["comparisons"] for check in json.loads(alone.stdout)["checks"]}
    assert checks["association"] == next(c for c in report["checks"] if c["id"] == "association")["comparisons"]


def test_weights_from_the_audit_go_into_a_file(cli: Run, tmp_path: Path) -> None:
    where = shard_set(tmp_path / "set", share=0.3)
    balance = ["audit", "--balance", "--data", where, "--groups", "group"]
    done = cli(*balance, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    weights = read_weights(tmp_path / "out" / "weights.h5")
    assert len(weights.weight) == 200
    assert weights.weight.max() <= 5
    assert "shares are off by 20.0 points, weighted by" in done.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text())["balance"]["weights"].endswith("weights.h5")
    again = cli(*balance, "--weights", tmp_path / "out" / "weights.h5")
    assert (again.exit_code, "exists already" in again.stderr) == (2, True)
    csv = cli(*balance, "--weights", tmp_path / "w.csv")
    assert (csv.exit_code, (tmp_path / "w.csv").read_text().startswith("key,weight\n")) == (0, True)
    nowhere = cli(*balance)
    assert (nowhere.exit_code, "Pass -o DIR or --weights FILE" in nowhere.stderr) == (2, True)
    (tmp_path / "tight.toml").write_text(
        '[[check]]\nid = "a"\nsuite = "representation"\nmetric = "count"\nop = ">="\nthreshold = 1\n'
        "[balance]\nbound = 1.0\n"
    )
    impossible = cli(*balance, "--policy", tmp_path / "tight.toml", "--weights", tmp_path / "x.h5")
    assert (impossible.exit_code, (tmp_path / "x.h5").exists()) == (2, False)
    assert "group=" in impossible.stderr
    assert impossible.stderr.count("\n") == 1


def test_leakage_between_two_sets(cli: Run, tmp_path: Path) -> None:
    train, test = shard_set(tmp_path / "train"), shard_set(tmp_path / "test", first=190)
    arguments = ["audit", "--leakage", "--data", train, "--data", test, "--jobs", "1"]
    done = cli(*arguments, "--output-format", "json")
    assert done.exit_code == 3
    by = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
    assert by["same-bytes"]["comparisons"][0]["value"] == 10
    assert by["same-bytes"]["comparisons"][0]["exact"] is True
    assert cli(*arguments[:4]).exit_code == 2


def test_lineage_and_privacy(cli: Run, tmp_path: Path) -> None:
    where = shard_set(tmp_path / "set")
    done = cli("audit", "--lineage", "--privacy", "--data", where, "--output-format", "json")
    report = json.loads(done.stdout)
    assert report["suites"] == ["privacy", "lineage"]
    assert {check["suite"] for check in report["checks"]} == {"privacy", "lineage"}
    assert done.exit_code in (0, 6)
    assert cli("audit", "--lineage").exit_code == 2
    shard = next(where.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1024] + b"\1" * 1024)
    assert cli("audit", "--lineage", "--data", where).exit_code in (3, 4)


def test_robustness_of_groups(cli: Run, table: Callable[..., Path], tmp_path: Path) -> None:
    clean = table((0.9, 0.9)).rename(tmp_path / "clean.csv")
    shifted = table((0.9, 0.6))
    done = cli("audit", "--robustness", "--predictions", clean, "--shifted", shifted, "--groups", "group",
               "--output-format", "json")  # fmt: skip
    by = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.exit_code == 3
    assert by["lost-by-group"]["comparisons"][0]["group"]["group"] == "b"
    assert by["lost-by-group"]["comparisons"][0]["value"] == pytest.approx(0.3, abs=0.04)


def test_regressions_against_an_earlier_report(
    cli: Run, table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table((0.9, 0.9)).rename("before.csv")
    assert cli(*audit(Path("before.csv"), "--groups", "group", "-o", "before")).exit_code == 0
    now = table((0.9, 0.7))
    Path("audit.toml").write_text(POLICY + 'against = "baseline"\n')
    arguments = audit(now, "--policy", "audit.toml", "--baseline", "before/report.json")
    done = cli(*arguments)
    assert done.exit_code == 3
    assert "below the baseline" in done.stderr
    assert cli(*arguments, "--baseline-predictions", "before.csv").exit_code == 3
    assert cli(*arguments, "--baseline-predictions", now).exit_code == 4
    Path("before.csv").unlink()
    done = cli(*arguments, "--output-format", "json")
    assert json.loads(done.stdout)["baseline"]["reason"] == "before.csv is not there"
    assert cli(*audit(now, "--policy", "audit.toml")).exit_code == 2


def test_checks_that_are_not_run_are_said(cli: Run, table: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text(
        POLICY + '[[check]]\nid = "same"\nsuite = "leakage"\nmetric = "exact_count"\nop = "<="\nthreshold = 0\n'
    )
    done = cli(*audit(table(), "--policy", tmp_path / "audit.toml"))
    assert done.exit_code == 0
    assert "1 checks of the policy are not run; they need --leakage" in done.stderr


def test_project_file_names_sets_and_groups(
    cli: Run, table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table()
    shard_set(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seerctl.toml").write_text(
        '[audit]\npredictions = "predictions.csv"\ngroups = ["group"]\ndata = ["set"]\n'
    )
    assert cli("audit", "--fairness").exit_code == 0  # a file may name more than a run reads
    assert cli("audit", "--representation").exit_code == 3
