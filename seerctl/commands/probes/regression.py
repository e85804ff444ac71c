"""`seerctl probe regression`: numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import (
    device_option,
    draws_option,
    maximum_option,
    penalty_option,
    predictions_option,
    result_options,
    run,
    seed_option,
    target_option,
    train_and_test,
    validation_option,
)
from seerctl.console import Progress
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult


@click.command(cls=SeerCommand, examples=[
    "seerctl probe regression --train train.h5 --test test.h5 --target count -o regression.json",
    "seerctl probe regression --train train.h5 --test test.h5 --target count --method classes --max mae=5",
])  # fmt: skip
@train_and_test
@target_option
@click.option("--method", type=click.Choice(["ridge", "classes"]), default="ridge",
              help="Ridge regression, or classification with each number as a class.")  # fmt: skip
@penalty_option("nine from 1e-6 to 100")
@validation_option
@seed_option
@draws_option
@predictions_option
@device_option
@maximum_option
@result_options
def regression(
    *, train: Path, test: Path, target: str, method: Any, penalties: tuple[float, ...], validation: float, seed: int,
    draws: int, device: str, **outputs: Any,
) -> None:  # fmt: skip
    """Counts, distances, angles and other numbers, by ridge regression or as classes.

    Ridge: the penalty is chosen by leaving each training row out in turn. Classes: VTAB's and SEER's way, the answer is
    the most probable number; its penalty is chosen on held-out training rows.

    Metrics: mae and rmse (for --max), r2, spearman; of whole numbers also top1 (rounded and right) and within_1.
    """
    from seerctl.device import pick_device
    from seerctl.probes import regression as library
    from seerctl.probes.targets import load_numbers

    def work() -> ProbeResult:
        where = str(pick_device(device))
        task = load_numbers(train, test, target)
        with Progress("regression", 1, "fits") as progress:
            return library.regression(
                task, method=method, penalties=penalties or library.PENALTIES, validation=validation, draws=draws,
                seed=seed, device=where, progress=progress,
            )  # fmt: skip

    run("regression", work, library.METRIC_NAMES, numbers=library.NUMBERS, **outputs)
