"""`seerctl probe ood`: a linear classifier on other distributions than it was learnt on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seerctl.commands.probes.shared import (
    device_option,
    feature_file,
    logistic_options,
    maximum_option,
    result_options,
    run,
)
from seerctl.console import Progress
from seerctl.files import claim
from seerctl.options import SeerCommand

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult


@click.command(cls=SeerCommand, examples=[
    "seerctl probe ood --train train.h5 --test test.h5 --shift fog=foggy.h5 --target label -o ood.json",
    "seerctl probe ood --train train.h5 --test test.h5 --shift foggy.h5 --target label --save fitted.safetensors",
])  # fmt: skip
@feature_file("--train", "Features to learn from.", required=False, metavar="A.h5")
@click.option("--probe", type=click.Path(path_type=Path), metavar="FILE",
              help="A classifier that --save wrote, instead of --train.")  # fmt: skip
@feature_file("--test", "Features of pictures like those of --train.", metavar="A2.h5")
@click.option("--shift", multiple=True, required=True, metavar="[NAME=]B.h5",
              help="Features of another distribution; repeat for several.")  # fmt: skip
@click.option("--target", required=True, metavar="COLUMN", help="Metadata column with the classes, or JSON lists.")
@click.option("--map", "maps", multiple=True, metavar="[NAME=]FILE",
              help="Class map of a set, or of all: JSON {label: class or list}, or a table label,class.")  # fmt: skip
@click.option("--models", type=click.Path(path_type=Path), metavar="FILE",
              help="Accuracies of five other models or more, clean,shifted[,shift], for effective_NAME.")  # fmt: skip
@click.option("--mask/--no-mask", default=True, help="Leave out classes that a set does not have.")
@logistic_options
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the classifier (safetensors), for --probe.")  # fmt: skip
@click.option("--predictions", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the predictions on A', and as FILE-NAME those on each set, for 'audit'.")  # fmt: skip
@device_option
@maximum_option
@result_options
def ood(
    *, penalties: tuple[float, ...], validation: float, seed: int, mask: bool, device: str, save: Path | None,
    predictions: Path | None, overwrite: bool, **options: Any,
) -> None:  # fmt: skip
    """Out of distribution: learn on A, score on A' (--test) and on other sets (--shift), with intervals.

    Metrics: top1 and top5 on A'; of each set top1_NAME, top5_NAME, drop_NAME (against A' with the same classes; row by
    row where the keys are those of A') and, with --models, effective_NAME: the accuracy above what the line of other
    models expects. A fine-tuned model is judged by 'audit --robustness' on its tables of predictions.
    """
    from seerctl.device import pick_device
    from seerctl.probes.classifier import PENALTIES, save_fitted
    from seerctl.probes.ood import METRICS, load_ood, new_tables
    from seerctl.probes.ood import ood as score

    for path in () if predictions is None else new_tables(predictions, options["shift"]):
        claim(path, overwrite=overwrite)
    loads = {name: options.pop(name) for name in ("train", "probe", "test", "shift", "target", "maps", "models")}
    chosen = penalties or PENALTIES

    def work() -> ProbeResult:
        where = str(pick_device(device))
        task = load_ood(**loads)
        with Progress("ood", len(chosen) + 1, "fits") as progress:
            result = score(
                task, chosen, validation=validation, seed=seed, mask=mask, device=where, progress=progress
            )  # fmt: skip
        if save is not None and result.fitted is not None:
            save_fitted(save, result.fitted)
        return result

    run("ood", work, METRICS, others=[save], predictions=predictions, overwrite=overwrite, **options)
