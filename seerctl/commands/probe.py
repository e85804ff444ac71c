"""`seerctl probe`: score frozen features, one subcommand a protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from seerctl.cli import PROBES, LazyGroup
from seerctl.console import Progress, emit, say
from seerctl.files import claim
from seerctl.options import SeerCommand, output_format, output_path, overwrite

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult
    from seerctl.probes.task import Task

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=LazyGroup, table=PROBES, context_settings={"help_option_names": ["-h", "--help"]})
def probe() -> None:
    """Score features: train on one feature file, test on another, report with intervals.

    \b
      seerctl probe knn --train train.h5 --test test.h5 --target label
      seerctl probe linear --train train.h5 --test test.h5 --target label --predictions predictions.csv
    """


def _options(function: F) -> F:
    """What every protocol takes."""
    for option in reversed([
        click.option("--train", type=click.Path(path_type=Path), required=True, metavar="A.h5",
                     help="Features to learn from."),
        click.option("--test", type=click.Path(path_type=Path), required=True, metavar="B.h5",
                     help="Features to score on, of the same model and layer."),
        click.option("--target", required=True, metavar="COLUMN", help="Metadata column with the classes."),
        output_path("Report as JSON.", required=False),
        click.option("--predictions", type=click.Path(path_type=Path), metavar="FILE",
                     help="Write the prediction for every test row (csv, jsonl, parquet), for 'audit'."),
        click.option("--scores", type=click.Path(path_type=Path), metavar="FILE",
                     help="Write the scores of every class for every test row (HDF5), for 'audit --scores'."),
        click.option("--min", "minima", multiple=True, metavar="METRIC=VALUE",
                     help="End with exit 3 when the metric is below the value (a fraction)."),
        click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu or cuda."),
        overwrite,
        output_format,
    ]):  # fmt: skip
        function = option(function)
    return function


@click.command(cls=SeerCommand, examples=[
    "seerctl probe knn --train train.h5 --test test.h5 --target label -o knn.json",
    "seerctl probe knn --train train.h5 --test test.h5 --target label --k 20 --min top1=0.5",
])  # fmt: skip
@_options
@click.option(
    "--k",
    "ks",
    type=click.IntRange(min=1),
    multiple=True,
    default=(10, 20, 100, 200),
    help="Neighbours; repeat for several. The headline top1 is that of 20 if named, else of the first.",
)
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), default=0.07,
              help="Votes weigh exp(similarity / temperature).")  # fmt: skip
def knn(*, ks: tuple[int, ...], temperature: float, device: str, scores: Path | None, **shared: Any) -> None:
    """Weighted k nearest neighbours by cosine: exact, no training.

    Metrics: top1, top5 and mean_per_class at the headline k, top1_k20 and so on for every k.
    """
    from seerctl.probes.knn import knn as run
    from seerctl.probes.knn import metric_names

    def work(task: Task, where: str) -> ProbeResult:
        with Progress("knn", len(task.test), "queries") as progress:
            return run(
                task, ks, temperature=temperature, device=where, progress=progress, full=scores is not None
            )  # fmt: skip

    _run("knn", metric_names(ks), work, device, scores=scores, **shared)


@click.command(cls=SeerCommand, examples=[
    "seerctl probe linear --train train.h5 --test test.h5 --target label -o linear.json",
    "seerctl probe linear --train train.h5 --test test.h5 --target label --l2 0.01 --predictions predictions.csv",
])  # fmt: skip
@_options
@click.option(
    "--l2",
    "penalties",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    show_default="seven from 1e-6 to 1",
    help="Penalty; repeat for a choice on held-out training rows.",
)
@click.option("--validation", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2,
              help="Share of the training rows held out for the choice.")  # fmt: skip
@click.option("--seed", type=int, default=0, help="Seed of the held-out part.")
def linear(
    *, penalties: tuple[float, ...], validation: float, seed: int, device: str, scores: Path | None, **shared: Any
) -> None:
    """Logistic regression on standardised features, its penalty chosen on a part of the training rows.

    Metrics: top1, top5 and mean_per_class.
    """
    from seerctl.probes.linear import METRIC_NAMES, PENALTIES
    from seerctl.probes.linear import linear as run

    chosen = penalties or PENALTIES

    def work(task: Task, where: str) -> ProbeResult:
        with Progress("linear", len(chosen) + 1, "fits") as progress:
            return run(
                task, chosen, validation=validation, seed=seed, device=where, progress=progress, full=scores is not None
            )  # fmt: skip

    _run("linear", METRIC_NAMES, work, device, scores=scores, **shared)


def _run(
    name: str, metrics: list[str], work: Callable[[Task, str], ProbeResult], device: str, *, train: Path, test: Path,
    target: str, output: Path | None, predictions: Path | None, scores: Path | None, minima: tuple[str, ...],
    overwrite: bool, output_format: str,
) -> None:  # fmt: skip
    from seerctl.device import pick_device
    from seerctl.predictions import write_predictions
    from seerctl.probes.report import check_minima, parse_minima, text_table, write_lineage
    from seerctl.probes.task import load_task
    from seerctl.tables import check_suffix

    demanded = parse_minima(minima, metrics)
    for path in (output, predictions, scores):
        if path is not None:
            claim(path, overwrite=overwrite)
    if predictions is not None:
        check_suffix(predictions)
    where = str(pick_device(device))
    result = work(load_task(train, test, target), where)
    if output is not None:
        result.save(output)
    if predictions is not None:
        write_predictions(predictions, result.predictions)
        write_lineage(predictions, result.report)
    if scores is not None:
        result.save_scores(scores)
    emit(result.report, output_format, text_table(result.report))
    top1 = result.report["metrics"]["top1"]
    say(
        f"probe {name}: top1 {100 * top1['value']:.2f} % of {top1['n']:,}" + (f", report in {output}" if output else "")
    )
    check_minima(result.report, demanded)
