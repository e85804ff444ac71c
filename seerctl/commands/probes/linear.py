"""`seerctl probe linear`: a linear classifier on frozen features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import (
    device_option,
    logistic_options,
    pair_options,
    result_options,
    run,
    table_options,
)
from seerctl.console import Progress
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult


@click.command(cls=SeerCommand, examples=[
    "seerctl probe linear --train train.h5 --test test.h5 --target label -o linear.json",
    "seerctl probe linear --train train.h5 --test test.h5 --target label --l2 0.01 --predictions predictions.csv",
])  # fmt: skip
@pair_options
@logistic_options
@table_options
@device_option
@result_options
def linear(
    *, train: Path, test: Path, target: str, penalties: tuple[float, ...], validation: float, seed: int, device: str,
    scores: Path | None, **outputs: Any,
) -> None:  # fmt: skip
    """Logistic regression on standardised features, its penalty chosen on a part of the training rows.

    Metrics: top1, top5 and mean_per_class.
    """
    from seerctl.device import pick_device
    from seerctl.probes.classification import METRIC_NAMES
    from seerctl.probes.classifier import PENALTIES
    from seerctl.probes.linear import linear as fit
    from seerctl.probes.task import load_task

    chosen = penalties or PENALTIES

    def work() -> ProbeResult:
        where = str(pick_device(device))
        task = load_task(train, test, target)
        with Progress("linear", len(chosen) + 1, "fits") as progress:
            return fit(
                task, chosen, validation=validation, seed=seed, device=where, progress=progress, full=scores is not None
            )  # fmt: skip

    run("linear", work, METRIC_NAMES, scores=scores, **outputs)
