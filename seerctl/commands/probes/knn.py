"""`seerctl probe knn`: weighted k nearest neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import device_option, pair_options, result_options, run, table_options
from seerctl.console import Progress
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult


@click.command(cls=SeerCommand, examples=[
    "seerctl probe knn --train train.h5 --test test.h5 --target label -o knn.json",
    "seerctl probe knn --train train.h5 --test test.h5 --target label --k 20 --min top1=0.5",
])  # fmt: skip
@pair_options
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
@click.option("--similarity", type=click.Choice(["cosine", "dot"]), default="cosine",
              help="Of features scaled to length 1, or as they are.")  # fmt: skip
@table_options
@device_option
@result_options
def knn(
    *, train: Path, test: Path, target: str, ks: tuple[int, ...], temperature: float, similarity: Any, device: str,
    scores: Path | None, **outputs: Any,
) -> None:  # fmt: skip
    """Weighted k nearest neighbours by cosine: exact, no training.

    The defaults are DINOv2's rule; VISSL's is --k 200 --temperature 0.1 --similarity dot.

    Metrics: top1, top5 and mean_per_class at the headline k, top1_k20 and so on for every k.
    """
    from seerctl.device import pick_device
    from seerctl.probes.knn import knn as classify
    from seerctl.probes.knn import metric_names
    from seerctl.probes.task import load_task

    def work() -> ProbeResult:
        where = str(pick_device(device))
        task = load_task(train, test, target)
        with Progress("knn", len(task.test), "queries") as progress:
            return classify(
                task, ks, temperature=temperature, similarity=similarity, device=where, progress=progress,
                full=scores is not None,
            )  # fmt: skip

    run("knn", work, metric_names(ks), scores=scores, **outputs)
