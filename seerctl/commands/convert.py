"""`seerctl convert`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from seerctl.console import Progress, emit, say
from seerctl.options import SeerCommand, output_format, output_path, overwrite

if TYPE_CHECKING:
    from seerctl.model.convert import Converted, Target

EXAMPLES = (
    "seerctl convert test.h5 -o test.parquet",
    "seerctl convert run/ -o regnet_timm.safetensors --to timm --head drop",
    "seerctl convert run/ -o seer.torch --to vissl && seerctl convert seer.torch -o weights.safetensors",
)


@click.command(cls=SeerCommand, examples=EXAMPLES)
@click.argument("model", metavar="IN", type=click.Path(path_type=Path))
@output_path(
    "The file to write: .safetensors, or .pth, .pt, .torch, .bin as torch.save writes them; of features .npz, .parquet."
)
@click.option("--to", type=click.Choice(["seerctl", "torchvision", "vissl", "timm", "hf"]), default="seerctl",
              help="Whose names; seerctl: torchvision's under trunk. and head.")  # fmt: skip
@click.option("--head", type=click.Choice(["keep", "drop"]), default="keep",
              help="The head: SwAV's (seerctl and vissl have a place for it) or a classifier (all have).")  # fmt: skip
@overwrite
@output_format
def convert(
    model: Path,
    output: Path,
    to: str,
    head: Literal["keep", "drop"],
    overwrite: bool,
    output_format: str,
) -> None:
    """Rewrite a RegNet or ResNet under another library's names, or a feature file in another format, value by value.

    IN is recognised by its tensors' names and shapes: a checkpoint of VISSL (SEER's; consolidated, or the list of its
    shards or slices) or SwAV, a state dict of torchvision or timm, a model of Hugging Face, a file or a run of seerctl,
    or one of a run's checkpoints. No code in it is ever run. A safetensors file is written piece by piece: the model
    need not fit in memory.

    Features, an HDF5 file of 'extract', become npz (numpy.load) or Parquet (pandas.read_parquet), by the name of the
    output.
    """
    from seerctl.files import is_hdf5

    if is_hdf5(model):
        _convert_features(model, output, overwrite, output_format)
        return
    from seerctl.model.convert import convert as run

    with Progress("convert", unit="bytes") as progress:
        done = run(model, output, cast("Target", to), keep_head=head == "keep", overwrite=overwrite, progress=progress)
        say(f"convert: {done.tensors:,} tensors, {progress.done:,} bytes in {progress.seconds:,.1f} s: {output}")
    emit(asdict(done), output_format, _text(done))


def _convert_features(features: Path, output: Path, overwrite: bool, output_format: str) -> None:
    from seerctl.features.export import convert_features

    done = convert_features(features, output, overwrite=overwrite)
    say(f"convert: {done['rows']:,} rows of {done['dim']:,} values, {done['bytes']:,} bytes: {output}")
    emit(done, output_format, "\n".join(f"{name:<8} {value}" for name, value in done.items()))


def _text(done: Converted) -> str:
    widths, depths = ("/".join(map(str, part)) for part in (done.widths, done.depths))
    rows = {
        "read": f"{done.layout}: {done.input}",
        "model": f"{done.family} '{done.size}', widths {widths}, depths {depths}",
        "head": done.head,
        "parameters": f"{done.parameters:,}",
        "written": f"{done.to}: {done.output}, {done.bytes:,} bytes",
        "sha256": done.sha256,
    }
    return "\n".join(f"{name:<11} {value}" for name, value in rows.items())
