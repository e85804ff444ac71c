"""What the subcommands of `seerctl probe` share: groups of options, and how a result is written, printed and judged.

A protocol's command stacks the groups that it has use for and ends in one call of `run`:

    @click.command(cls=SeerCommand, examples=[...])
    @pair_options
    @table_options
    @device_option
    @result_options
    def protocol(*, train, test, target, device, scores, **outputs): ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from seerctl.console import emit, say
from seerctl.files import claim
from seerctl.options import output_format, output_path, overwrite

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult

F = TypeVar("F", bound=Callable[..., Any])


def stacked(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one decorator, shown in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def feature_file(name: str, help_text: str, **more: Any) -> Callable[[Any], Any]:
    """An option that names a feature file; required unless `more` says otherwise."""
    return click.option(name, type=click.Path(path_type=Path), **{"required": True, "metavar": "F.h5", **more},
                        help=help_text)  # fmt: skip


train_and_test = stacked(
    feature_file("--train", "Features to learn from.", metavar="A.h5"),
    feature_file("--test", "Features to score on, of the same model and layer.", metavar="B.h5"),
)

target_option = click.option("--target", required=True, metavar="COLUMN", help="Metadata column to be predicted.")

pair_options = stacked(train_and_test, target_option)

predictions_option = click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the prediction for every test row (csv, jsonl, parquet), for 'audit'.",
)

table_options = stacked(
    predictions_option,
    click.option("--scores", type=click.Path(path_type=Path), metavar="FILE",
                 help="Write the scores of every class for every test row (HDF5), for 'audit --scores'."),
)  # fmt: skip


def penalty_option(default: str) -> Callable[[Any], Any]:
    """`--l2`, once or several times; `default` says what is tried without it."""
    return click.option("--l2", "penalties", type=click.FloatRange(min=0, min_open=True), multiple=True,
                        show_default=default, help="Penalty; repeat for a choice on training rows.")  # fmt: skip


validation_option = click.option("--validation", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2,
                                 help="Share of the training rows held out for the choice.")  # fmt: skip
draws_option = click.option("--draws", type=click.IntRange(min=10), default=1000,
                            help="Bootstrap samples behind an interval.")  # fmt: skip
device_option = click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu or cuda.")
seed_option = click.option("--seed", type=int, default=0, help="Seed of every draw.")

logistic_options = stacked(penalty_option("seven from 1e-6 to 1"), validation_option, seed_option)

ranking_option = click.option("--rankings", type=click.Path(path_type=Path), metavar="FILE",
                              help="Write the first ten rows of every ranking (JSON lines).")  # fmt: skip

maximum_option = click.option("--max", "maxima", multiple=True, metavar="METRIC=VALUE",
                              help="End with exit 3 when the metric, an error, is above the value.")  # fmt: skip

result_options = stacked(
    output_path("Report as JSON.", required=False),
    click.option("--min", "minima", multiple=True, metavar="METRIC=VALUE",
                 help="End with exit 3 when the metric is below the value (a fraction)."),
    overwrite,
    output_format,
)  # fmt: skip


def run(
    name: str, work: Callable[[], ProbeResult], metrics: Sequence[str], *, output: Path | None,
    minima: tuple[str, ...], overwrite: bool, output_format: str, predictions: Path | None = None,
    scores: Path | None = None, others: Sequence[Path | None] = (), maxima: tuple[str, ...] = (),
    numbers: Sequence[str] = (),
) -> ProbeResult:  # fmt: skip
    """Check what is asked for, do the `work` of protocol `name`, write and print its result, then apply the gates.

    metrics: all that the protocol can report, the headline first; `numbers` are those that are no fractions. others:
    files that `work` itself writes, claimed here.

    Raises:
        UsageError: an unknown metric, output that exists, a table of an unknown kind. GateFailed: a gate said no.
    """
    from seerctl.probes.gates import Gates
    from seerctl.probes.report import text_table
    from seerctl.tables import check_suffix

    gates = Gates.parse(minima, maxima, metrics, numbers)
    for path in (output, predictions, scores, *others):
        if path is not None:
            claim(path, overwrite=overwrite)
    if predictions is not None:
        check_suffix(predictions)
    result = work()
    if predictions is not None:  # first: the report names the table
        result.save_predictions(predictions)
    if output is not None:
        result.save(output)
    if scores is not None:
        result.save_scores(scores)
    emit(result.report, output_format, text_table(result.report))
    say(f"probe {name}: {_headline(result.report, metrics)}" + (f", report in {output}" if output else ""))
    gates.check(result.report)
    return result


def _headline(report: dict[str, Any], metrics: Sequence[str]) -> str:
    from seerctl.probes.report import value_text

    name = next(name for name in (*metrics, *report["metrics"]) if name in report["metrics"])
    return f"{name} {value_text(report['metrics'][name])} of {report['metrics'][name]['n']:,}"
