"""What training runs did, as one HTML page: state, warnings, curves side by side, recipes. Needs the `report` extra.

Made from `metrics.jsonl` and `recipe.toml` alone, also while a run is still going on.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from seerctl import __version__, figures
from seerctl.errors import InputError, UsageError
from seerctl.figures import DARK, LIGHT, Series
from seerctl.files import blame
from seerctl.recipe import Recipe, differences, dump, load_recipe
from seerctl.train.metrics import SUSPICIOUS_ROWS, collapse
from seerctl.train.run import RunDirectory

TEMPLATES = Path(__file__).with_name("templates")
STYLE = Path(__file__).parents[1] / "audit" / "templates"
MOST_RUNS = 6
# metrics.jsonl's numbers, in the order of the page: heading, what it means, a value to compare with, logarithmic axis.
PANELS: dict[str, tuple[str, str, float | None, bool]] = {
    "loss_over_ln_k": ("Loss / ln K", "1 is what predicting all alike costs. It falls with learning.", 1.0, False),
    "loss": ("Loss", "The training loss of a step.", None, False),
    "knn_top1": ("kNN top-1", "Share of held-out labelled images whose neighbours say the right class.", None, False),
    "top1": ("Top-1 on the batch", "Share of a step's own images that were classified right.", None, False),
    "prototype_entropy": ("Use of prototypes", "1: all are used alike. Near 0: a few take every image.", 1.0, False),
    "feature_std": ("Spread of the projections", "1: they fill the sphere. Near 0: all images get one.", 1.0, False),
    "gradient_norm": ("Gradient norm", "Before clipping, over all parameters.", None, True),
    "loss_scale": ("Loss scale", "Of float16 gradients: halved when one overflows.", None, True),
    "lr": ("Learning rate", "As the schedule has it.", None, False),
    "images_per_second": ("Images per second", "Over all ranks, checkpoints left out.", None, False),
    "mfu": ("Model FLOPs utilisation", "Share of the device's peak that the model's arithmetic takes.", None, False),
    "data_wait": ("Waiting for data", "Share of the time; above a few percent the loader is too slow.", None, False),
    "data_wait_max": ("Waiting for data, most of all ranks", "Far above the mean: one node reads slowly.", None, False),
    "step_seconds_max": ("Seconds of a step, most of all ranks", "A rank's own work, without waiting.", None, False),
}  # fmt: skip

_STRAGGLE = {
    "data_wait": "waits longest for data (share of its time)", "step_seconds": "has most to do in a step (seconds)",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its directory tells it."""

    name: str
    path: Path
    recipe: Recipe
    rows: list[dict[str, Any]]
    done: bool

    def series(self, metric: str) -> Series | None:
        """The metric over the steps where it was measured; a number that was not finite is a gap."""
        rows = [row for row in self.rows if metric in row]
        if not rows:
            return None
        values = [math.nan if row[metric] is None else float(row[metric]) for row in rows]
        return Series(self.name, [int(row["step"]) for row in rows], values)


def read_run(path: Path) -> Run:
    """The run in the directory `path`.

    Raises:
        InputError: it is no run, or its metrics cannot be read or are empty.
    """
    run = RunDirectory(path)
    if not (path / "recipe.toml").is_file():
        raise InputError(f"{path}: holds no recipe.toml, so it is no run", "Name a directory written by pretrain")
    with blame(run.metrics.path):
        try:
            rows = run.metrics.rows() if run.metrics.path.exists() else []
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{run.metrics.path}: not JSON lines ({error})") from None
    if any(not isinstance(row, dict) or not isinstance(row.get("step"), int) for row in rows):
        raise InputError(f"{run.metrics.path}: a row without a step", "It is not what pretrain writes")
    if not rows:
        raise InputError(f"{path}: no step has been logged yet", "Try again later")
    return Run(path.name or str(path), path, load_recipe(path / "recipe.toml"), rows, run.weights.is_file())


def story(paths: Sequence[Path]) -> str:
    """The page on the runs in `paths`, compared where there are several.

    Raises:
        UsageError: more than `MOST_RUNS` of them.
        InputError: see `read_run`.
    """
    if len(paths) > MOST_RUNS:
        raise UsageError(f"report: {len(paths)} runs, at most {MOST_RUNS} can be told apart in a chart")
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        runs = [Run(str(run.path), run.path, run.recipe, run.rows, run.done) for run in runs]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FileSystemLoader([TEMPLATES, STYLE]),
    )  # fmt: skip
    return environment.get_template("run.html.j2").render(
        light=LIGHT, dark=DARK, version=__version__, runs=[_facts(run) for run in runs], panels=_panels(runs),
        recipe=dump(runs[0].recipe), others=_others(runs),
    )  # fmt: skip


def _facts(run: Run) -> dict[str, Any]:
    """The table row of a run, and what its numbers warn of."""
    last, recent = run.rows[-1], run.rows[-20:]
    speed = statistics.median(float(row["images_per_second"] or 0) for row in recent if "images_per_second" in row)
    loss = statistics.fmean([row["loss"] for row in recent if row.get("loss") is not None] or [math.nan])
    return {
        "name": run.name,
        "state": "finished" if run.done else "not finished",
        "step": last["step"],
        "images": last["step"] * run.recipe.data.batch,
        "loss": loss,
        "speed": speed,
        "description": run.recipe.description,
        "warning": _warning(run.rows),
        "stragglers": [found for name, word in _STRAGGLE.items() if (found := _straggler(run.rows, name, word))],
    }


def _straggler(rows: Sequence[dict[str, Any]], name: str, word: str) -> str:
    """Which rank had most of metric `name` how often, in words; "" of a run that had one rank."""
    rows = [row for row in rows if row.get(name) is not None and f"{name}_rank" in row]
    rank, often = Counter(row[f"{name}_rank"] for row in rows).most_common(1)[0] if rows else (0, 0)
    if all(row[f"{name}_max"] == row[name] for row in rows):
        return ""
    most = statistics.median(row[f"{name}_max"] for row in rows if row[f"{name}_rank"] == rank)
    mean = statistics.median(row[name] for row in rows)
    return f"rank {rank} {word} in {often / len(rows):.0%} of the rows: {most:.3g}, the mean of all ranks {mean:.3g}"


def _warning(rows: Sequence[dict[str, Any]]) -> str:
    """The first warning that came several rows in a row after the start, as pretrain says it; "" if none did."""
    said: list[str] = []
    for row in rows[len(rows) // 10 :]:
        found = collapse(row) if row.get("loss_over_ln_k") is not None else None
        said = [*said, found] if found else []
        if len(said) == SUSPICIOUS_ROWS:
            return said[0]
    return ""


def _panels(runs: Sequence[Run]) -> list[dict[str, Any]]:
    panels = []
    for number, (metric, (title, meaning, line, logarithmic)) in enumerate(PANELS.items()):
        if metric == "loss" and all(run.series("loss_over_ln_k") for run in runs):
            continue
        series = [found for run in runs if (found := run.series(metric))]
        if not series:
            continue
        positive = all(value > 0 for one in series for value in one.values if math.isfinite(value))
        svg = figures.curves(series, line=line, logarithmic=logarithmic and positive)
        drawn = Markup(figures.inline(svg, f"c{number}"))  # noqa: S704 (matplotlib escapes the names)
        panels.append({"title": title, "meaning": meaning, "svg": drawn, "metric": metric})
    return panels


def _others(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """How the recipes of the other runs differ from the first one's."""
    return [{"name": run.name, "differences": differences(runs[0].recipe, run.recipe)} for run in runs[1:]]
