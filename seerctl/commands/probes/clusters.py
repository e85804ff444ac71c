"""`seerctl probe clusters`: do clusters or prototypes agree with labels, and are all of them used?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import feature_file, maximum_option, result_options, run, seed_option
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult


@click.command(cls=SeerCommand, examples=[
    "seerctl probe clusters --test train.h5 --target label -o clusters.json",
    "seerctl probe clusters --test head.h5 --target label --prototypes run/ --sheet prototypes.png --data shards/train",
])  # fmt: skip
@feature_file("--test", "Features to cluster.")
@click.option("--target", required=True, metavar="COLUMN", help="Metadata column with the classes to compare with.")
@click.option("--method", type=click.Choice(["auto", "kmeans", "prototypes", "scores"]), default="auto",
              help="prototypes: features of --layer head; scores: the largest feature names the cluster.")  # fmt: skip
@click.option("--prototypes", type=click.Path(path_type=Path), metavar="RUN",
              help="Run directory, or weights.safetensors, with SwAV's prototypes.")  # fmt: skip
@click.option("--k", type=click.IntRange(min=2), show_default="number of classes", help="Clusters of k-means.")
@click.option("--replicates", type=click.IntRange(min=50), default=500, help="Samples drawn for the intervals.")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="FILE.png",
              help="Draw the nearest pictures of the 20 most used clusters, a row each; needs --data.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), multiple=True, metavar="SET",
              help="Shard set with the pictures; repeat for several.")  # fmt: skip
@seed_option
@maximum_option
@result_options
def clusters(
    *, test: Path, target: str, method: Any, prototypes: Path | None, k: int | None, replicates: int,
    sheet: Path | None, data: tuple[Path, ...], seed: int, **outputs: Any,
) -> None:  # fmt: skip
    """Agreement of clusters with labels: nmi, ami, ari, purity; use of prototypes, and a sheet of what they hold.

    nmi grows with the number of clusters whatever they hold, ami does not. With as many clusters as classes also
    matched: the accuracy under the best naming. Of prototypes and scores also use (the entropy of their use over its
    maximum) and dead (the share that no picture is nearest to). On the sheet a blue frame has the cluster's most
    frequent label.
    """
    from seerctl.errors import UsageError
    from seerctl.files import atomic_write
    from seerctl.probes.clusters import METRICS, load_clusters, sheet_rows
    from seerctl.probes.clusters import clusters as compare
    from seerctl.probes.sheet import sheet as draw

    if (sheet is None) != (not data):
        raise UsageError("clusters: a sheet needs pictures", "Pass both --sheet FILE.png and --data SET")

    def work() -> ProbeResult:
        task = load_clusters(test, target, prototypes)
        result = compare(task, method, k=k, replicates=replicates, seed=seed)
        if sheet is not None:
            image = draw(sheet_rows(task, result), data)
            with atomic_write(sheet) as file:
                file.write(image)
        return result

    run("clusters", work, METRICS, others=[sheet], **outputs)
