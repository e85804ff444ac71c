"""`seerctl probe copies`: are the originals of altered pictures found?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.retrieval import names_options, search_options
from seerctl.commands.probes.shared import feature_file, ranking_option, result_options, run
from seerctl.console import Progress
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult


@click.command(cls=SeerCommand, examples=[
    "seerctl probe copies --test foggy.h5 --train test.h5 --split corruption -o copies.json",
    "seerctl probe copies --test foggy.h5 --train test.h5 --data shards/test --per-original 1 --whiten train.h5",
])  # fmt: skip
@feature_file("--test", "Features of altered pictures; repeat for several.", multiple=True, metavar="Q.h5")
@feature_file("--train", "Features of the originals.")
@click.option("--target", metavar="COLUMN",
              help="Pictures with equal values are of one original; without it file numbers or keys tell.")  # fmt: skip
@click.option("--split", metavar="COLUMN", help="The kind of alteration; without it the directory or the file's name.")
@click.option("--per-original", type=click.IntRange(min=1), default=100,
              help="File numbers of one original: equal when divided by this.")  # fmt: skip
@names_options
@search_options(1024)
@ranking_option
@result_options
def copies(*, ks: tuple[int, ...], rankings: Path | None, overwrite: bool, **options: Any) -> None:
    """Copy detection as on Copydays: the originals of altered pictures among originals and distractors.

    What is a copy of what: equal values of --target; or, where file names are known (--names, --data), equal file
    numbers but for the last two digits; else equal keys, as views by 'extract --corrupt' have.
    Metrics: map, mp1, mp5, mp10 over all queries, and with the name of each split behind: map_strong, mp1_crops_10, ...
    Features of a layer such as res4:regions3 are whitened region by region, as SEER's were.
    """
    from seerctl.probes.copies import METRICS, load_copies
    from seerctl.probes.copies import copies as detect

    loads = {name: options.pop(name) for name in (
        "test", "train", "target", "split", "per_original", "whiten", "components", "distractors", "names", "data",
    )}  # fmt: skip

    def work() -> ProbeResult:
        task = load_copies(**loads)
        with Progress("copies", len(task.retrieval.queries), "queries") as progress:
            result = detect(task, ks, full=rankings is not None, progress=progress)
        if rankings is not None:
            result.save_rankings(rankings)
        return result

    run("copies", work, METRICS, others=[rankings], overwrite=overwrite, **options)
