"""`seerctl probe lowshot`: few labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import device_option, pair_options, penalty_option, result_options, run, seed_option
from seerctl.console import Progress
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult


@click.command(cls=SeerCommand, examples=[
    "seerctl probe lowshot --train train.h5 --test test.h5 --target label --k 1 --k 4 -o lowshot.json",
    "seerctl probe lowshot --train train.h5 --test test.h5 --target label --share 0.1 --share 0.5 --samples 3",
])  # fmt: skip
@pair_options
@click.option("--k", "shots", type=click.IntRange(min=1), multiple=True,
              show_default="1, 2, 4, 8, 16, 32, 64, 96, unless --share is given",
              help="Training rows of each class; repeat for several.")  # fmt: skip
@click.option("--share", "shares", type=click.FloatRange(0, 1, min_open=True), multiple=True,
              help="Share of each class's training rows (0.01 is 1 %); repeat for several.")  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), default=5, help="Draws for each k and share.")
@penalty_option("five from 1e-4 to 1")
@seed_option
@device_option
@result_options
def lowshot(
    *, train: Path, test: Path, target: str, shots: tuple[int, ...], shares: tuple[float, ...], samples: int,
    penalties: tuple[float, ...], seed: int, device: str, **outputs: Any,
) -> None:  # fmt: skip
    """Logistic regression on a few rows of each class, several times: mean, spread and interval over the draws.

    Which rows are drawn depends on their keys and the seed alone, and the rows of a small k are among those of a larger
    one. The penalty is chosen by folds of the drawn rows, never on the test set.

    Metrics: top1_k4, mean_per_class_k4 and so on for each k; top1_1pct for a share of 0.01.
    """
    from seerctl.device import pick_device
    from seerctl.probes import lowshot as library
    from seerctl.probes.task import load_task

    drawn = shots or (() if shares else library.SHOTS)

    def work() -> ProbeResult:
        where = str(pick_device(device))
        task = load_task(train, test, target)
        with Progress("lowshot", samples * (len(drawn) + len(shares)), "fits") as progress:
            return library.lowshot(
                task, drawn, shares=shares, samples=samples, penalties=penalties or library.PENALTIES, seed=seed,
                device=where, progress=progress,
            )  # fmt: skip

    run("lowshot", work, library.metric_names(drawn, shares), **outputs)
