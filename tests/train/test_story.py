"""The page on training runs: its numbers are those of metrics.jsonl, and what is no run is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from seerctl.recipe import dump, load_recipe

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from seerctl import figures
from seerctl.figures import Series
from seerctl.train.story import PANELS, read_run, story
from tests.training import SMALL


def make_run(path: Path, *, steps: int = 40, healthy: bool = True, done: bool = True, **changes: str) -> Path:
    path.mkdir(parents=True)
    recipe = load_recipe(SMALL, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])
    (path / "recipe.toml").write_text(dump(recipe))
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            ratio = 1 - 0.005 * step if healthy else 1.0
            row = {
                "step": step, "epoch": 0, "loss": 3.178 * ratio, "loss_over_ln_k": ratio, "prototype_entropy": 0.9,
                "feature_std": 0.8, "gradient_norm": 0.5 if step != 7 else None, "lr": 0.1 / step,
                "images_per_second": 100.0 + step, "data_wait": 0.01,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    if done:
        (path / "weights.safetensors").write_bytes(b"")
    return path


def test_a_page_says_what_the_metrics_say(tmp_path: Path) -> None:
    page = story([make_run(tmp_path / "run")])
    # No plain loss beside loss / ln K, no top-1, kNN, scale, MFU, and nothing of ranks.
    assert page.count("<figure") == len(PANELS) - 7
    assert "finished" in page
    assert ">640<" in page  # 40 steps of 16 images
    assert ">130<" in page  # the median speed of the last 20 rows: 121 to 140
    assert "ln K: the model predicts" not in page
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=.?https?:", page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_runs_are_compared_and_their_recipes_too(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", done=False, optim__lr="0.4")
    page = story([one, two])
    assert "not finished" in page
    assert str(two) in page  # two runs of one name go by their paths
    assert "optim.lr: 0.2 -&gt; 0.4" in page


def test_collapse_is_said(tmp_path: Path) -> None:
    assert "predicts all prototypes alike" in story([make_run(tmp_path / "flat", healthy=False)])


def test_the_slowest_rank_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "of the rows" not in story([run])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        slow = 3 if row["step"] % 4 else 1
        row |= {"data_wait_max": 0.04, "data_wait_rank": 2, "step_seconds": 0.5, "step_seconds_rank": slow,
                "step_seconds_max": 0.9 if slow == 3 else 0.6}  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = story([run])
    assert "rank 2 waits longest for data (share of its time) in 100% of the rows: 0.04, the mean of all" in page
    assert "rank 3 has most to do in a step (seconds) in 75% of the rows: 0.9, the mean of all ranks 0.5" in page
    assert {"data_wait_max", "step_seconds_max"} <= set(re.findall(r"<code>(\w+)</code></figcaption>", page))


def test_names_are_escaped(tmp_path: Path) -> None:
    page = story([make_run(tmp_path / "<b>x&amp;")])
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page


def test_series_skip_what_was_not_finite(tmp_path: Path) -> None:
    series = read_run(make_run(tmp_path / "run")).series("gradient_norm")
    assert series is not None
    assert math.isnan(series.values[6])
    assert [v for v in series.values if not math.isnan(v)] == [0.5] * 39
    assert read_run(tmp_path / "run").series("top1") is None


def test_curves_keep_spikes_and_are_the_same_bytes() -> None:
    steps = list(range(5000))
    values = [1.0] * 5000
    values[1234] = 50.0
    thinned = figures._thinned(Series("a", steps, values))
    assert len(thinned[0]) <= 200
    assert max(thinned[3]) == 50.0
    assert max(thinned[1]) < 50.0
    assert sum(thinned[1]) / len(thinned[1]) == pytest.approx(sum(values) / 5000)
    svg = figures.curves([Series("a", steps, values), Series("b", steps, values)], line=2.0)
    assert svg == figures.curves([Series("a", steps, values), Series("b", steps, values)], line=2.0)
    assert b"<svg" in svg


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda run: (run / "recipe.toml").unlink(), 4, "so it is no run"),
        (lambda run: (run / "metrics.jsonl").write_text(""), 4, "no step has been logged"),
        (lambda run: (run / "metrics.jsonl").unlink(), 4, "no step has been logged"),
        (lambda run: (run / "metrics.jsonl").write_text("{"), 4, "not JSON lines"),
        (lambda run: (run / "metrics.jsonl").write_text("3\n"), 4, "a row without a step"),
        (lambda run: (run / "recipe.toml").write_text("[optim]\nlearning = 1\n"), 2, "unknown key"),
    ],
)
def test_what_is_no_run_is_refused(
    seerctl: Callable[..., Result], tmp_path: Path, spoil: Callable[[Path], object], code: int, words: str
) -> None:
    run = make_run(tmp_path / "run")
    spoil(run)
    result = seerctl("report", run, "-o", tmp_path / "page.html")
    assert result.exit_code == code, result.stderr
    assert words in result.stderr
    assert not (tmp_path / "page.html").exists()


def test_the_command(seerctl: Callable[..., Result], tmp_path: Path) -> None:
    run, page = make_run(tmp_path / "run"), tmp_path / "page.html"
    assert seerctl("report", run, "-o", page).exit_code == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert seerctl("report", run, "-o", page).exit_code == 2
    assert seerctl("report", run, "-o", page, "--overwrite").exit_code == 0
    assert seerctl("report", *[run] * 7, "-o", tmp_path / "many.html").exit_code == 2
    assert seerctl("report", "-o", tmp_path / "none.html").exit_code == 2
