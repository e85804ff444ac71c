"""`seerctl probe svm` and `seerctl probe multilabel`: several labels a row, scored by average precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import (
    F,
    device_option,
    draws_option,
    penalty_option,
    result_options,
    run,
    seed_option,
    stacked,
    table_options,
    train_and_test,
    validation_option,
)
from seerctl.console import Progress
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult


label_options = stacked(
    train_and_test,
    click.option("--target", "targets", required=True, multiple=True, metavar="COLUMN",
                 help='Column with the labels, as JSON lists (["cat", "dog"]) or single names; repeat for several.'),
    click.option("--ignore", metavar="COLUMN", help="Column with a list of classes that do not count in the row."),
    click.option("--negatives", metavar="COLUMN",
                 help="Column with a list of classes known to be absent; all others are unknown."),
)  # fmt: skip


def rule_option(default: str) -> Callable[[F], F]:
    """`--rule`: how average precision is defined."""
    return click.option("--rule", type=click.Choice(["area", "voc", "voc11"]), default=default,
                        help="Average precision as scikit-learn's, as VOC's since 2010, or by 11 points.")  # fmt: skip


@click.command(cls=SeerCommand, examples=[
    "seerctl probe svm --train train.h5 --test test.h5 --target label -o svm.json",
    "seerctl probe svm --train train.h5 --test test.h5 --target label --cost 0.1 --cost 1 --k 2 --k 4 --samples 2",
])  # fmt: skip
@label_options
@click.option("--cost", "costs", type=click.FloatRange(min=0, min_open=True), multiple=True,
              show_default="eleven from 0.01 to 1000", help="Cost C of the SVM; repeat for a choice.")  # fmt: skip
@click.option("--costs-2019", is_flag=True, help="Choose from 1e-7, 1e-6, ..., 100, as the paper of 2019.")
@click.option("--folds", type=click.IntRange(min=2), default=3, help="Folds of the training rows for the choice.")
@click.option("--ignored-in-training", is_flag=True,
              help="Leave ignored rows out of the training too; VISSL takes them for negatives.")  # fmt: skip
@rule_option("voc")
@click.option("--k", "shots", type=click.IntRange(min=1), multiple=True,
              help="Low-shot: positives of each class to learn from; repeat for several.")  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), default=5, help="Low-shot: draws for each k.")
@seed_option
@draws_option
@table_options
@device_option
@result_options
def svm(
    *, train: Path, test: Path, targets: tuple[str, ...], ignore: str | None, negatives: str | None,
    costs: tuple[float, ...], costs_2019: bool, folds: int, ignored_in_training: bool, rule: Any,
    shots: tuple[int, ...], samples: int, seed: int, draws: int, device: str, scores: Path | None, **outputs: Any,
) -> None:  # fmt: skip
    """The VOC07 protocol: a linear SVM for each class on L2-normalised features, its cost chosen by AP over folds.

    With --k the low-shot protocol: k positives and k (classes - 1) negatives of each class, mean and spread of the
    draws. The cost is chosen on training rows there too, where VISSL takes the one that is best on the test set.

    Metrics: map, or map_k4 and so on.
    """
    from seerctl.device import pick_device
    from seerctl.errors import UsageError
    from seerctl.probes import svm as library
    from seerctl.probes.targets import load_labels

    if shots and (outputs["predictions"] or scores):
        raise UsageError("svm: low-shot SVMs are many, they write no predictions or scores", "Leave out --k")
    if costs and costs_2019:
        raise UsageError("svm: --cost and --costs-2019 exclude each other")
    chosen = costs or (library.COSTS_2019 if costs_2019 else library.COSTS)

    def work() -> ProbeResult:
        where = str(pick_device(device))
        task = load_labels(train, test, targets, ignore=ignore, negatives=negatives)
        with Progress("svm", len(shots) * samples or folds + 1, "fits") as progress:
            return library.svm(
                task, chosen, folds=folds, rule=rule, ignored_in_training=ignored_in_training, shots=shots,
                samples=samples, draws=draws, seed=seed, device=where, progress=progress, full=scores is not None,
            )  # fmt: skip

    run("svm", work, library.metric_names(shots), scores=scores, **outputs)


@click.command(cls=SeerCommand, examples=[
    "seerctl probe multilabel --train train.h5 --test test.h5 --target gender --target age -o multilabel.json",
    "seerctl probe multilabel --train train.h5 --test test.h5 --target label --l2 0.01 --predictions labels.csv",
])  # fmt: skip
@label_options
@penalty_option("seven from 1e-6 to 1")
@validation_option
@rule_option("area")
@seed_option
@draws_option
@table_options
@device_option
@result_options
def multilabel(
    *, train: Path, test: Path, targets: tuple[str, ...], ignore: str | None, negatives: str | None,
    penalties: tuple[float, ...], device: str, scores: Path | None, validation: float, rule: Any, seed: int,
    draws: int, **outputs: Any,
) -> None:  # fmt: skip
    """Several labels a row: a logistic regression for each class, its penalty chosen by AP on held-out training rows.

    Metrics: map, the mean of the classes' average precision; per_class in the report has each class's own.
    """
    from seerctl.device import pick_device
    from seerctl.probes.classifier import PENALTIES
    from seerctl.probes.labelscores import METRIC_NAMES
    from seerctl.probes.multilabel import multilabel as fit
    from seerctl.probes.targets import load_labels

    def work() -> ProbeResult:
        where = str(pick_device(device))
        task = load_labels(train, test, targets, ignore=ignore, negatives=negatives)
        with Progress("multilabel", 2, "fits") as progress:
            return fit(
                task, penalties or PENALTIES, validation=validation, rule=rule, draws=draws, seed=seed, device=where,
                progress=progress, full=scores is not None,
            )  # fmt: skip

    run("multilabel", work, METRIC_NAMES, scores=scores, **outputs)
