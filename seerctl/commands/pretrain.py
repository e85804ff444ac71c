"""`seerctl pretrain`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from seerctl.commands.dryrun import PlanOptions, plan_options
from seerctl.commands.dryrun import dry_run as run_dry
from seerctl.commands.slurmoptions import take_slurm
from seerctl.commands.starting import as_rank, gpus_here, launch_options, start
from seerctl.console import Progress, emit, say
from seerctl.errors import UsageError
from seerctl.files import claim
from seerctl.options import SeerCommand, output_format, output_path

if TYPE_CHECKING:
    from seerctl.recipe import Recipe
    from seerctl.train.launch import Launcher, Layout
    from seerctl.train.start import Summary

EXAMPLES = (
    "seerctl pretrain --recipe nano --data shards/ -o run/",
    "seerctl pretrain --recipe 10b --nodes 62 --gpus-per-node 8 --dry-run",
    "seerctl pretrain --recipe cifar-finetune --init run/ --data shards/ -o tuned/ --set schedule.steps=20 "
    "--predict shards/ --predictions tuned.csv",
)


@click.command(cls=SeerCommand, examples=EXAMPLES)
@click.option("--recipe", required=True, metavar="NAME|FILE", help="What to train: see 'seerctl recipes ls'.")
@click.option("--data", default=None, metavar="SET",
              help="Shard set: a directory, its index.json, or the URL of either.")  # fmt: skip
@output_path("The run directory; the same command goes on where a run in it stands.", required=False)
@launch_options
@click.option("--init", type=click.Path(path_type=Path), default=None, metavar="WEIGHTS",
              help="Start from these weights: a run, or a model of the same size that 'convert' reads.")  # fmt: skip
@click.option("--set", multiple=True, metavar="KEY=VALUE",
              help="Override one value of the recipe, as in data.batch=512; may be repeated.")  # fmt: skip
@click.option("--predict", type=click.Path(path_type=Path), default=None, metavar="SET",
              help="A labelled shard set that a supervised run predicts at its end.")  # fmt: skip
@click.option("--predictions", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Where: a .csv, .jsonl or .parquet table, as 'audit' reads it.")  # fmt: skip
@click.option(
    "--knn",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="SET",
    help="Measure kNN accuracy on this labelled set as training goes on; twice: the bank, then the queries.",
)
@click.option("--overwrite", is_flag=True, help="Replace --predictions that exist.")
@click.option("--dry-run", is_flag=True,
              help="Show the recipe and what a step of it takes, train nothing; exit 3 if it cannot fit.")  # fmt: skip
@plan_options
@click.option("--fresh", is_flag=True, help="Start over in a new place beside a run that exists.")
@output_format
def pretrain(
    recipe: str,
    data: str | None,
    output: Path | None,
    nodes: int,
    gpus_per_node: int | None,
    launcher: str,
    init: Path | None,
    set: tuple[str, ...],
    predict: Path | None,
    predictions: Path | None,
    knn: tuple[Path, ...],
    overwrite: bool,
    dry_run: bool,
    fresh: bool,
    output_format: str,
    **others: Any,
) -> int:
    """Train a RegNetY on a shard set: with SwAV, or supervised, from its seed or from the weights of --init.

    Writes recipe.toml, metrics.jsonl, checkpoints/ and at the end weights.safetensors into the run directory. A signal
    (Ctrl-C, SIGTERM, SIGUSR2) saves a checkpoint and exits 75; the same command then goes on, on any number of
    processes that divides the batch.
    """
    from seerctl.recipe import find, load_recipe
    from seerctl.train.allocation import adopt_task

    slurm = take_slurm(others)
    adopt_task()
    loaded = load_recipe(recipe, set)
    place = _layout(loaded, cast("Launcher", launcher), nodes, gpus_per_node, dry_run)
    if dry_run:
        options = PlanOptions(**others)
        return run_dry(loaded, place, data, init, output, options, output_format, overwrite=overwrite)
    if data is None or output is None:
        missing = "--data" if data is None else "--output"
        raise UsageError(f"seerctl pretrain: missing option '{missing}'", "Name the shard set and the run directory")
    if predictions is not None:
        claim(predictions, overwrite=overwrite)
    if fresh:
        from seerctl.train.run import fresh_place

        output = fresh_place(output)
    if place.start == "here":
        return _train(loaded, data, output, init, predict, predictions, knn, output_format)
    arguments = ["pretrain", "--recipe", str(find(recipe)), "--data", data, "-o", str(output)]
    arguments += ["--init", str(init)] if init else []
    arguments += ["--predict", str(predict)] if predict else []
    arguments += ["--predictions", str(predictions)] if predictions else []
    arguments += [part for where in knn for part in ("--knn", str(where))]
    arguments += ["--overwrite"] if overwrite else []
    arguments += [part for override in set for part in ("--set", override)]
    arguments += ["--output-format", output_format] if output_format != "text" else []
    # An allocation without GPUs trains on CPUs; a login node without any submits for nodes that have them.
    gpus = gpus_here(loaded.run.device) > 0 if place.start == "srun" else loaded.run.device != "cpu"
    return start(place, arguments, output, slurm, gpus=gpus)


def _layout(recipe: Recipe, launcher: Launcher, nodes: int, per_node: int | None, dry_run: bool) -> Layout:
    from seerctl.train.launch import layout

    return layout(launcher, nodes, per_node, gpus_here(recipe.run.device), dry_run=dry_run)


def _train(
    recipe: Recipe, data: str, output: Path, init: Path | None, predict: Path | None, predictions: Path | None,
    knn: tuple[Path, ...], output_format: str,
) -> int:  # fmt: skip
    from seerctl.train.start import images_to_go, train

    def work() -> int:
        with Progress("pretrain", images_to_go(recipe, data, output)) as progress:
            done = train(
                recipe, data, output, init=init, progress=progress, predict=predict, predictions=predictions, knn=knn
            )
        _report(done, output, output_format)
        return 0

    return as_rank(work)


def _report(done: Summary, output: Path, output_format: str) -> None:
    rate = done.images / max(done.seconds, 1e-9)
    if done.images:
        say(f"steps {done.start:,} to {done.steps:,}, {done.images:,} images, {rate:,.0f} images/s: {done.weights}")
    else:
        say(f"{output}: trained to the last of its {done.steps:,} steps already: {done.weights}")
    result: dict[str, Any] = {**asdict(done), "weights": str(done.weights), "images_per_second": rate}
    if done.predicted is not None:
        result["predicted"]["path"] = str(done.predicted.path)
        value, low, high = (f"{100 * part:.2f}" for part in done.predicted.top1)
        say(f"top1 {value} % [{low}, {high}] of {done.predicted.labelled:,} labelled images: {done.predicted.path}")
    if output_format != "text" and os.environ.get("RANK", "0") == "0":
        emit(result, output_format, "")
