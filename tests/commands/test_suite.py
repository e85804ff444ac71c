"""`seerctl probe suite`: what a shell sees of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.suite_files import clouds_suite

Run = Callable[..., Any]


def test_runs_goes_on_and_refuses(tmp_path: Path, cli: Run) -> None:
    where = clouds_suite(tmp_path)
    arguments = ["probe", "suite", where / "clouds.toml", "--data-root", where, "-o", where / "out", "--device", "cpu"]
    done = cli(*arguments, "--dry-run")
    assert (done.exit_code, done.stdout) == (0, "2 of 2 entries lack nothing\n")
    assert not (where / "out").exists()
    done = cli(*arguments, "--output-format", "json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((where / "out/suite.json").read_text())
    assert {path.name for path in (where / "out").glob("suite.*")} >= {"suite.json", "suite.md", "suite.csv"}
    assert "2 runs, 0 of them from before" in done.stderr
    assert "2 runs, 2 of them from before" in cli(*arguments).stderr
    (where / "test.h5").unlink()
    done = cli(*arguments)
    assert (done.exit_code, "Nothing was started" in done.stderr) == (4, True)
    done = cli(*arguments, "--skip-missing")
    assert (done.exit_code, "no entry has all that it needs" in done.stderr) == (4, True)
    done = cli(*arguments, "--only", "ridgee")
    assert (done.exit_code, "Did you mean 'ridge'" in done.stderr) == (2, True)
