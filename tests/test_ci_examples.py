"""The CI examples run as they stand: every step's shell command, in a project like the ones they are made for."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FAIR = {"female": 0.9, "male": 0.9}
UNFAIR = {"female": 0.6, "male": 0.9}


def load(path: str) -> dict[Any, Any]:
    found = yaml.safe_load((EXAMPLES / path).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def make_project(where: Path, right: dict[str, float], rows: int = 20_000) -> Path:
    """A repository with predictions.csv and the example's policy; `pip` only notes what it was asked to install."""
    where.mkdir()
    generator = random.Random(3)
    lines = ["key,label,prediction,score,gender,age"]
    for row in range(rows):
        gender, age = generator.choice(list(right)), generator.choice(["young", "old"])
        label = generator.randrange(2)
        said = label if generator.random() < right[gender] else 1 - label
        lines.append(f"k{row},{label},{said},0.9,{gender},{age}")
    (where / "predictions.csv").write_text("\n".join(lines) + "\n")
    (where / "audit.toml").write_bytes((EXAMPLES / "ci" / "audit.toml").read_bytes())
    pip = where.parent / "bin" / "pip"
    pip.parent.mkdir(exist_ok=True)
    pip.write_text('#!/bin/sh\necho "$@" >> "$PIP_LOG"\n')
    pip.chmod(0o755)
    return where


def shell(command: str, where: Path) -> subprocess.CompletedProcess[str]:
    """As GitHub runs a step: bash, ended by the first command that fails."""
    environment = {
        **os.environ, "PATH": f"{where.parent / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(where.parent / "summary.md"), "PIP_LOG": str(where.parent / "pip.log"),
    }  # fmt: skip
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command],
        cwd=where, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def wanted(condition: str | None, failed: bool, where: Path) -> bool:
    """Whether a step with this `if:` runs."""
    if condition is None:
        return not failed
    for text, value in (
        ("always()", True), ("failure()", failed),
        ("hashFiles('audit/report.json') != ''", (where / "audit" / "report.json").is_file()),
    ):  # fmt: skip
        condition = condition.replace(text, str(value))
    assert re.fullmatch(r"(True|False)( && (True|False))*", condition), condition
    return "False" not in condition


def run_job(steps: list[dict[str, Any]], where: Path) -> tuple[int, list[str]]:
    """The exit code of a job (of the step that failed first), and the names of the steps that ran."""
    code, ran = 0, []
    for step in steps:
        assert ("run" in step) != ("uses" in step), step
        if not wanted(step.get("if"), code != 0, where):
            continue
        ran.append(step.get("name", step.get("uses")))
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
            if "path" in step["with"] if "with" in step else False:
                assert any((where / step["with"]["path"]).iterdir())
            continue
        done = shell(step["run"], where)
        assert "Traceback" not in done.stderr, done.stderr
        ran[-1] += done.stdout if "::error" in done.stdout else ""
        code = code or done.returncode
    return code, ran


@pytest.mark.parametrize(("right", "code"), [(FAIR, 0), (UNFAIR, 3)])
def test_github_workflow(right: dict[str, float], code: int, tmp_path: Path) -> None:
    workflow = load("ci/github-actions.yml")
    assert set(workflow) == {"name", True, "permissions", "jobs"}  # "on" is a boolean to YAML 1.1
    assert set(workflow[True]) == {"pull_request", "push"}
    where = make_project(tmp_path / "project", right)
    (job,) = workflow["jobs"].values()
    exit_code, ran = run_job(job["steps"], where)
    assert exit_code == code, ran
    assert "Keep the reports" in ran
    assert any("::error title=Fairness audit::FAIL" in step for step in ran) == (code != 0)
    assert json.loads((where / "audit" / "report.json").read_text())["exit_code"] == code
    assert (where / "audit" / "report.html").stat().st_size < 2_000_000
    assert ET.parse(where / "audit" / "junit.xml").getroot().tag == "testsuites"
    verdict = "FAIL" if code else "PASS"
    assert f"audit: {verdict}" in (tmp_path / "summary.md").read_text()
    assert "seerctl[report]" in (tmp_path / "pip.log").read_text()


@pytest.mark.parametrize(("right", "code"), [(FAIR, 0), (UNFAIR, 3)])
def test_pre_commit_hooks(right: dict[str, float], code: int, tmp_path: Path) -> None:
    (repository,) = load("pre-commit/.pre-commit-config.yaml")["repos"]
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert set(hooks) == {"seerctl-audit", "seerctl-recipes"}
    assert all(hook["language"] == "system" for hook in hooks.values())
    where = make_project(tmp_path / "project", right)
    audit = hooks["seerctl-audit"]
    assert all(re.search(audit["files"], name) for name in ("predictions.csv", "audit.toml"))
    assert not re.search(audit["files"], "README.md")
    for _ in range(2):  # a second commit finds the first one's reports
        done = shell(audit["entry"], where)
        assert done.returncode == code, done.stderr
    (where / "recipes").mkdir()
    (where / "recipes" / "mine.toml").write_text('extends = "nano"\n')
    assert re.search(hooks["seerctl-recipes"]["files"], "recipes/mine.toml")
    done = shell(f"{hooks['seerctl-recipes']['entry']} recipes/mine.toml", where)
    assert done.returncode == 0, done.stderr


def test_too_few_rows_stop_the_job(tmp_path: Path) -> None:
    (job,) = load("ci/github-actions.yml")["jobs"].values()
    code, ran = run_job(job["steps"], make_project(tmp_path / "project", FAIR, rows=200))
    assert code == 6
    assert any("::error title=Fairness audit::INCONCLUSIVE" in step for step in ran)
