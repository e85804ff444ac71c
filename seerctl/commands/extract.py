"""`seerctl extract`: frozen features of a shard set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seerctl.console import Progress, say
from seerctl.options import SeerCommand, data, output_path, overwrite


@click.command(cls=SeerCommand, examples=[
    "seerctl extract --model run/ --data shards/ -o features.h5",
    "seerctl extract --model torchvision:regnet_y_400mf --data shards/ --layer res4 --layer avgpool -o features/",
])  # fmt: skip
@click.option(
    "--model",
    required=True,
    metavar="RUN|FILE|torchvision:NAME",
    help="A run of 'pretrain', a safetensors file, or a RegNetY of torchvision (@FILE or @DEFAULT: weights).",
)
@data
@output_path("Feature file (HDF5); with several layers a directory for <layer>.h5.")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    default=("avgpool",),
    metavar="L",
    help="res2, res3, res4, res5 (average-pooled), avgpool, or head (SwAV projection); repeat for several.",
)
@click.option("--size", type=click.IntRange(min=16), default=None, show_default="as trained, else 224", metavar="PX",
              help="Side of the centre crop.")  # fmt: skip
@click.option("--crop", type=click.FloatRange(0.1, 1), default=None, show_default="0.875; below 160 px 1",
              help="Fraction of the short side that the centre crop keeps.")  # fmt: skip
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32",
              help="What the convolutions compute in.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", help="What the file holds.")
@click.option("--batch", type=click.IntRange(min=1), default=None, show_default="64; on a GPU 256",
              help="Images at a time.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), default=None, show_default="by cores",
              help="On a CPU: threads, each encoding batches of its own. With a GPU: decoding processes.")  # fmt: skip
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu or cuda.")
@overwrite
def extract(*, model: str, data: str, output: Path, **settings: Any) -> None:
    """Write the features of every sample, in the order of the index, with keys and metadata.

    A run that was stopped goes on when the same command is given again. Under torchrun each rank takes its own part of
    the set, and the first one joins the parts.
    """
    from seerctl.features.extractor import Options
    from seerctl.features.extractor import extract as run
    from seerctl.shards.index import ShardSet

    with Progress("extract", len(ShardSet.open(data))) as progress:
        done = run(model, data, output, Options(**settings), progress)
    if done is not None:
        resumed = f", {done.resumed:,} from before" if done.resumed else ""
        new = done.rows - done.resumed
        say(f"extract: {done.rows:,} rows{resumed}, {new / progress.seconds:,.0f} images/s, {output}")
