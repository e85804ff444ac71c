"""`seerctl probe geo`: where on earth was it taken?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import (
    device_option,
    logistic_options,
    maximum_option,
    result_options,
    run,
    train_and_test,
)
from seerctl.console import Progress
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult


@click.command(cls=SeerCommand, examples=[
    "seerctl probe geo --train train.h5 --test test.h5 --mode nearest --latitude lat --longitude lon -o geo.json",
    "seerctl probe geo --train train.h5 --test test.h5 --latitude lat --longitude lon --least 2 --most 10",
])  # fmt: skip
@train_and_test
@click.option("--latitude", default="latitude", metavar="COLUMN", help="In degrees.")
@click.option("--longitude", default="longitude", metavar="COLUMN", help="In degrees.")
@click.option("--mode", type=click.Choice(["cells", "nearest"]), default="cells",
              help="Classify cells of the globe, or take the place of the most similar training picture.")  # fmt: skip
@click.option("--least", type=click.IntRange(min=1), default=50, help="Training pictures of a cell, at least.")
@click.option("--most", type=click.IntRange(min=1), default=1000, help="At most; cells with more are quartered.")
@logistic_options
@click.option("--places", type=click.Path(path_type=Path), metavar="FILE.csv",
              help="Write place, guess and distance of every test row.")  # fmt: skip
@device_option
@maximum_option
@result_options
def geo(
    *, train: Path, test: Path, latitude: str, longitude: str, mode: Any, least: int, most: int,
    penalties: tuple[float, ...], validation: float, seed: int, places: Path | None, device: str, **outputs: Any,
) -> None:  # fmt: skip
    """Geolocalisation: the share of guesses within 1, 25, 200, 750 and 2500 km, and the median error.

    Cells are those of S2, quartered where training pictures are many; a guess is the mean place of a cell's pictures.
    Metrics: acc_1km, acc_25km, acc_200km, acc_750km, acc_2500km, median_km (--max median_km=500).
    """
    from seerctl.device import pick_device
    from seerctl.probes.classifier import PENALTIES
    from seerctl.probes.geo import METRICS, load_geo
    from seerctl.probes.geo import geo as locate

    chosen = penalties or PENALTIES

    def work() -> ProbeResult:
        where = str(pick_device(device))
        task = load_geo(train, test, latitude, longitude)
        total = (len(task.test), "queries") if mode == "nearest" else (len(chosen) + 1, "fits")
        with Progress("geo", *total) as progress:
            result = locate(
                task, mode, chosen, least=least, most=most, validation=validation, seed=seed, device=where,
                progress=progress,
            )  # fmt: skip
        if places is not None:
            result.save_places(places)
        return result

    run("geo", work, METRICS, others=[places], numbers=["median_km"], **outputs)
