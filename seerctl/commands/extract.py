"""`seerctl extract`: frozen features of a shard set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seerctl.commands.slurmoptions import take_slurm
from seerctl.commands.starting import as_rank, gpus_here, launch_options, start, typed_again
from seerctl.console import Progress, say
from seerctl.options import SeerCommand, data, loads_code, output_path, overwrite


@click.command(cls=SeerCommand, examples=[
    "seerctl extract --model run/ --data shards/ -o features.h5",
    "seerctl extract --model torchvision:regnet_y_400mf --data shards/ --layer res4 --layer avgpool -o features/",
    "seerctl extract --model torchvision:resnet18 --data shards/ --layer res4:rmac --resize long=128 -o whole.h5",
    "seerctl extract --model run/ --data shards/test --tta -o features.npz",
    "seerctl extract --model run/ --data shards/test --corrupt fog:3 --corrupt noise:5 -o corrupted/",
    "seerctl extract --model my_model:make --trust-code --data shards/ -o features.h5",
])  # fmt: skip
@click.option(
    "--model",
    required=True,
    metavar="RUN|FILE|torchvision:NAME|timm:NAME",
    help="A run of 'pretrain', a model that 'convert' reads, or a library's (see above).",
)
@data
@output_path("Feature file; of several layers or corruptions a directory: <layer>.h5, <name>-<severity>.h5.")
@click.option("--format", "format", type=click.Choice(["h5", "npz", "parquet"]), default=None,
              show_default="by the name of the output, else h5", help="HDF5, NumPy's npz or Parquet.")  # fmt: skip
@click.option(
    "--layer",
    "layers",
    multiple=True,
    default=("avgpool",),
    metavar="LAYER[:POOL]",
    help="Layer and how its map is pooled (see above); repeat for several.",
)
@click.option("--size", type=click.IntRange(min=16), default=None, show_default="as trained, else 224", metavar="PX",
              help="Side of the centre crop.")  # fmt: skip
@click.option("--crop", type=click.FloatRange(0.1, 1), default=None,
              show_default="as trained, else 0.875; below 160 px 1",
              help="Fraction of the short side that the centre crop keeps.")  # fmt: skip
@click.option("--resize", metavar="long=PX", help="Show whole pictures, this long, instead of a crop (for retrieval).")
@click.option("--tta", is_flag=True, help="Write the mean of the features of each picture and of its mirror image.")
@click.option(
    "--corrupt",
    multiple=True,
    metavar="NAME:SEVERITY",
    help="Corrupt the pictures first: a name, a family or 'all', and 1 to 5; repeat for several.",
)
@click.option("--corrupt-seed", type=int, default=0, help="Seed of what is random in corruptions.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32",
              help="What the convolutions compute in.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", help="What the file holds.")
@click.option("--batch", type=click.IntRange(min=1), default=None, show_default="64, on a GPU 256; less if whole",
              help="Images at a time.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), default=None, show_default="by cores",
              help="On a CPU: threads, each encoding batches of its own. With a GPU: decoding processes.")  # fmt: skip
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu or cuda.")
@loads_code("--trust-code", is_flag=True, help="Let --model module:function run that code of yours.")
@overwrite
@launch_options
@click.pass_context
def extract(
    context: click.Context, /, *, model: str, data: str, output: Path, nodes: int, gpus_per_node: int | None,
    launcher: Any, **settings: Any,
) -> int:  # fmt: skip
    """Write the features of every sample, in the order of the index, with keys and metadata.

    A run that was stopped goes on when the same command is given again. Several processes, on one or more machines that
    share a file system, each take their own part of the set, and the first one checks and joins the parts.

    \b
    Models:
      run/ FILE                a run of 'pretrain', any file that 'convert' reads
      torchvision:NAME         random weights: the baseline to compare with
      torchvision:NAME@DEFAULT torchvision's weights (downloaded), torchvision:NAME@FILE those of a file
      timm:NAME[@FILE]         of timm, with the pictures it was trained on; timm:NAME@pretrained downloads
      module:function          with --trust-code: what your function() returns, a torch module or a function from
                               images (B, 3, S, S), normalised, to (B, D) or to a dictionary of layers; its attribute
                               'preprocess' may be a dictionary of size, crop, mean, std

    \b
    Layers: res2 to res5, avgpool (what a classifier reads), head (SwAV's projection); of models that are not ours
    also any submodule by its name (layer3.5, blocks.11). Poolings of its map, as res5:gem4:
      avg, max     mean (the default) and maximum over the map
      gem, gem4    generalised mean of power 3, 4 ...; 4 is SEER's
      rmac, rmac2  R-MAC of 3, 2 ... levels: regions' maxima of unit length, summed, of unit length
      regions      the regions of R-MAC unsummed, for whitening: 14 vectors a picture, the attribute 'regions' says so
      2x1, 1x2     means of a grid of rows x columns, as SEER's linear probes learn from
      cls          a transformer's class token

    \b
    Corruptions, after the crop, the same for the same sample on any machine of a kind:
      noise    gaussian_noise shot_noise impulse_noise speckle_noise
      blur     gaussian_blur defocus_blur glass_blur motion_blur zoom_blur
      weather  snow frost fog brightness spatter
      digital  contrast elastic_transform pixelate jpeg_compression saturate

    \b
    How robust a model is: clean and corrupted features, a probe of each, an audit of both.
      seerctl extract --model run/ --data shards/train -o train.h5
      seerctl extract --model run/ --data shards/test -o test.h5
      seerctl extract --model run/ --data shards/test --corrupt all:3 -o corrupted/
      for f in test.h5 corrupted/*.h5; do
        seerctl probe linear --train train.h5 --test $f --target label --predictions ${f%.h5}.csv
      done
      seerctl audit --robustness --predictions test.csv $(printf -- '--shifted %s ' corrupted/*.csv) --groups gender
    """
    from seerctl.train.allocation import adopt_task
    from seerctl.train.launch import layout

    slurm = take_slurm(settings)
    adopt_task()
    gpus = gpus_here(settings["device"])
    place = layout(launcher, nodes, gpus_per_node, gpus)
    if place.start != "here":
        # A login node without GPUs submits for nodes that have them.
        wanted = gpus > 0 if place.start == "srun" else settings["device"] != "cpu"
        return start(place, typed_again(context), output.with_name(f"{output.name}.job"), slurm, gpus=wanted)
    return as_rank(lambda: _extract(model, data, output, settings))


def _extract(model: str, data: str, output: Path, settings: dict[str, Any]) -> int:
    from seerctl.augment.corruptions import parse_corruptions
    from seerctl.features.extractor import Options
    from seerctl.features.extractor import extract as run
    from seerctl.shards.index import ShardSet

    views = len(parse_corruptions(settings["corrupt"])) or 1
    with Progress("extract", views * len(ShardSet.open(data))) as progress:
        done = run(model, data, output, Options(**settings), progress)
    if done is not None:
        resumed = f", {done.resumed:,} from before" if done.resumed else ""
        new = views * done.rows - done.resumed
        rows = f"{done.rows:,} rows" + (f" of {views} corruptions" if views > 1 else "")
        say(f"extract: {rows}{resumed}, {new / progress.seconds:,.0f} images/s, {output}")
    return 0
