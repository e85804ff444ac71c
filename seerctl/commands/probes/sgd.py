"""`seerctl probe sgd`: SEER's linear probe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import (
    device_option,
    feature_file,
    result_options,
    run,
    seed_option,
    table_options,
    target_option,
    validation_option,
)
from seerctl.console import Progress
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult


@click.command(cls=SeerCommand, examples=[
    "seerctl probe sgd --train train.h5 --test test.h5 --target label --epochs 5 --milestone 3 -o sgd.json",
    "seerctl probe sgd --train train.h5 --test test.h5 --target label --lr 0.01 --head plain --cosine --epochs 5",
])  # fmt: skip
@feature_file("--train", "Features to learn from; again for another layer of the same rows.", metavar="A.h5",
              multiple=True)  # fmt: skip
@feature_file("--test", "Features to score on, one for each --train.", metavar="B.h5", multiple=True)
@target_option
@click.option("--lr", "rates", type=click.FloatRange(min=0, min_open=True), multiple=True,
              show_default="six from 0.001 to 0.3",
              help="Learning rate per 256 rows; repeat for a choice on held-out training rows.")  # fmt: skip
@click.option("--head", "heads", type=click.Choice(["batchnorm", "plain"]), multiple=True, default=("batchnorm",),
              help="BatchNorm and Linear, or Linear alone; repeat to try both.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), default=28, help="Passes over the training rows.")
@click.option("--milestone", "milestones", type=click.IntRange(min=1), multiple=True, default=(8, 16, 24),
              help="Epoch after which the rate is divided by 10; repeat.")  # fmt: skip
@click.option("--cosine", is_flag=True, help="Let the rate fall by a cosine instead of milestones.")
@click.option("--batch", type=click.IntRange(min=2), default=256, help="Rows of a step.")
@click.option("--weight-decay", type=click.FloatRange(min=0), default=5e-4, help="Of the Linear, not of BatchNorm.")
@validation_option
@seed_option
@table_options
@device_option
@result_options
def sgd(
    *, train: tuple[Path, ...], test: tuple[Path, ...], target: str, rates: tuple[float, ...], heads: tuple[Any, ...],
    epochs: int, device: str, scores: Path | None, minima: tuple[str, ...], output: Path | None,
    predictions: Path | None, overwrite: bool, output_format: str, **settings: Any,
) -> None:  # fmt: skip
    """SEER's linear probe: heads trained by SGD, every rate, head and layer in one pass.

    The defaults are those of SEER (28 epochs, rate divided by 10 after 8, 16 and 24, weight decay 5e-4), but the
    features were extracted once: there are no random crops and flips. Of several candidates the best on held-out
    training rows is trained again on all of them. Exceptions of single data sets are options: Places205 --epochs 14
    --milestone 4 --milestone 8 --milestone 12; iNaturalist 2018 84 and 24, 48, 72; PCam --lr 0.003 --cosine.

    Metrics: top1, top5 and mean_per_class.
    """
    from seerctl.device import pick_device
    from seerctl.probes.classification import METRIC_NAMES
    from seerctl.probes.layers import load_layers
    from seerctl.probes.sgd import RATES
    from seerctl.probes.sgd import sgd as fit

    def work() -> ProbeResult:
        where = str(pick_device(device))
        task = load_layers(train, test, target)
        with Progress("sgd", 2 * epochs, "epochs") as progress:
            return fit(
                task, rates or RATES, heads=heads, epochs=epochs, device=where, progress=progress,
                full=scores is not None, **settings,
            )  # fmt: skip

    run(
        "sgd", work, METRIC_NAMES, output=output, predictions=predictions, scores=scores, minima=minima,
        overwrite=overwrite, output_format=output_format,
    )  # fmt: skip
