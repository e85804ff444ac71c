"""`seerctl probe retrieval`: mean average precision of rankings by cosine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import F, feature_file, ranking_option, result_options, run, stacked
from seerctl.console import Progress
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult

names_options = stacked(
    click.option("--names", metavar="COLUMN", help="Metadata column with the file names, where they are needed."),
    click.option("--data", type=click.Path(path_type=Path), multiple=True, metavar="SET",
                 help="Shard set that knows the file names by key; repeat for several."),
)  # fmt: skip


def search_options(components: int) -> Callable[[F], F]:
    """What is searched among, and the whitening before it."""
    return stacked(
        feature_file("--distractors", "Features of pictures that no query is after; repeat for several.",
                     required=False, multiple=True),
        feature_file("--whiten", "Features of other pictures to learn PCA whitening on.", required=False),
        click.option("--components", type=click.IntRange(min=1), default=components, help="Of the whitening."),
        click.option("--k", "ks", type=click.IntRange(min=1), multiple=True, default=(1, 5, 10),
                     help="Precision at k; repeat for several."),
    )  # fmt: skip


@click.command(cls=SeerCommand, examples=[
    "seerctl probe retrieval --test test.h5 --train train.h5 --target label -o retrieval.json",
    "seerctl probe retrieval --test train.h5 --truth truth.json --data shards/train --whiten test.h5",
])  # fmt: skip
@feature_file("--test", "Features of the queries.", metavar="Q.h5")
@feature_file("--train", "Features of the index; without it the queries are searched among themselves.",
              required=False)  # fmt: skip
@click.option("--target", metavar="COLUMN", help="Index rows with the query's value of this column are relevant.")
@click.option("--truth", type=click.Path(path_type=Path), metavar="FILE",
              help="Ground truth: JSON with easy, hard and junk lists, or a table query,image,grade.")  # fmt: skip
@names_options
@search_options(512)
@ranking_option
@result_options
def retrieval(*, ks: tuple[int, ...], rankings: Path | None, overwrite: bool, **options: Any) -> None:
    """Instance retrieval by cosine: mAP and mP@k by the rule of the revisited Oxford and Paris sets.

    With --truth: map_easy, map_medium, map_hard, mp10_medium, ... (JSON as published, converted from the pickle, is
    read as it stands). With --target: map, mp1, mp5, mp10, and r1, r5, r10 (a relevant row among the first k).
    Features of a layer such as res4:regions3 are whitened region by region.
    """
    from seerctl.probes.retrieval import METRICS, load_retrieval
    from seerctl.probes.retrieval import retrieval as rank

    loads = {name: options.pop(name) for name in (
        "test", "train", "target", "truth", "whiten", "components", "distractors", "names", "data")}  # fmt: skip

    def work() -> ProbeResult:
        task = load_retrieval(**loads)
        with Progress("retrieval", len(task.queries), "queries") as progress:
            result = rank(task, ks, full=rankings is not None, progress=progress)
        if rankings is not None:
            result.save_rankings(rankings)
        return result

    run("retrieval", work, METRICS, others=[rankings], overwrite=overwrite, **options)
