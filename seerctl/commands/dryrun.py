"""`seerctl pretrain --dry-run`: its options and what it prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from seerctl.console import emit, say
from seerctl.errors import GateFailed, UsageError
from seerctl.files import claim

if TYPE_CHECKING:
    from seerctl.recipe import Recipe
    from seerctl.train.hardware import Gpu
    from seerctl.train.launch import Layout
    from seerctl.train.planner.cost import Cluster
    from seerctl.train.planner.plan import Data

F = TypeVar("F", bound=Callable[..., Any])
ASSUMED = "a100-40gb"  # where nothing says which GPU: that of SEER's 10B


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What `--dry-run` is told of machines and data that are not here."""

    gpu: str | None
    gpu_memory: str | None
    efficiency: float
    interconnect: float
    images: int | None
    image_bytes: float
    sweep: str | None
    picture: Path | None


def plan_options(function: F) -> F:
    """The options that only `--dry-run` reads, as one `PlanOptions`."""
    for option in reversed([
        click.option("--gpu", default=None, metavar="NAME", show_default=f"this machine's, else {ASSUMED}",
                     help="With --dry-run: the GPU to plan for, such as h100-80gb."),
        click.option("--gpu-memory", default=None, metavar="SIZE", help="With --dry-run: its memory, such as 24GB."),
        click.option("--efficiency", type=click.FloatRange(0, 1, min_open=True), default=0.4,
                     help="With --dry-run: the share of a GPU's peak that training reaches."),
        click.option("--interconnect", type=click.FloatRange(min=0, min_open=True), default=25.0, metavar="GB/S",
                     help="With --dry-run: what each GPU can send to other nodes."),
        click.option("--images", type=click.IntRange(min=1), default=None,
                     help="With --dry-run: images an epoch, where there is no --data yet."),
        click.option("--image-bytes", type=click.FloatRange(min=1), default=None, show_default="as --data, else 100000",
                     help="With --dry-run: bytes of a stored image."),
        click.option("--sweep", default=None, metavar="nodes=N,N,...",
                     help="With --dry-run: compare numbers of nodes, ways of sharding and of small crops."),
        click.option("--picture", type=click.Path(path_type=Path), default=None, metavar="FILE",
                     help="With --dry-run: draw the memory over the step (.svg, .png)."),
    ]):  # fmt: skip
        function = option(function)
    return function


def dry_run(
    recipe: Recipe, place: Layout, data: str | None, init: Path | None, output: Path | None, options: PlanOptions,
    output_format: str, *, overwrite: bool,
) -> int:  # fmt: skip
    """Print what `recipe` takes on the machines of `place`; exit 3 where it does not fit."""
    from seerctl.recipe import dump
    from seerctl.train.planner.picture import draw_memory, picture_form
    from seerctl.train.planner.plan import make_plan, remedy, sweep
    from seerctl.train.planner.text import plan_text, sweep_text
    from seerctl.train.start import sized

    recipe = sized(recipe, init)
    if options.picture is not None:
        picture_form(options.picture)
        claim(options.picture, overwrite=overwrite)
    known, sample_bytes = _known(recipe, data, output, options)
    cluster, accelerated = _cluster(recipe, place, options, sample_bytes)
    if options.sweep is not None:
        plans = []
        for one in sweep(recipe, cluster, known, _nodes(options.sweep)):
            say(f"{one.cluster.nodes} nodes: {one.values['verdict']}")
            plans.append(one)
        emit({"schema": "seer-sweep-1", "plans": [one.values for one in plans]}, output_format, sweep_text(plans))
        return 0
    if not accelerated:
        _refuse_at_once(recipe, place, known, output_format)
    plan = make_plan(recipe, cluster, known, accelerated=accelerated)
    if options.picture is not None:
        draw_memory(plan, options.picture)
    emit(plan.values, output_format, "\n".join([dump(recipe), plan_text(plan.values)]))
    if not plan.fits:
        hint = remedy(plan, known.classes, say) if accelerated else "Use a smaller batch, or a machine with more memory"
        raise GateFailed(plan.values["verdict"], hint)
    return 0


def _known(recipe: Recipe, data: str | None, output: Path | None, options: PlanOptions) -> tuple[Data, float]:
    """What the shard set and the place of the run say, and the bytes of one image."""
    from seerctl.files import free_bytes
    from seerctl.shards.index import ShardSet
    from seerctl.shards.remote.options import caching
    from seerctl.train.labels import labels_for
    from seerctl.train.planner.plan import Data

    free = free_bytes(output) if output is not None else None
    if data is None:
        return Data(options.images, 0, free), options.image_bytes or 100e3
    with caching(recipe.data.cache, recipe.data.cache_size):
        shards = ShardSet.open(data)
        labels = labels_for(recipe, shards)
    size = sum(shard["filesize"] for shard in shards.index["shardlist"]) / max(len(shards), 1)
    images = options.images or (len(shards) if labels is None else len(labels))
    return Data(images, 0 if labels is None else len(labels.classes), free), options.image_bytes or size


def _cluster(recipe: Recipe, place: Layout, options: PlanOptions, sample_bytes: float) -> tuple[Cluster, bool]:
    """The machines, and whether GPUs compute."""
    from dataclasses import replace

    from seerctl.device import pick_device
    from seerctl.train.estimate import available_bytes
    from seerctl.train.hardware import Gpu
    from seerctl.train.planner.cost import Cluster

    device = pick_device(recipe.run.device)
    accelerated = bool(options.gpu or options.gpu_memory or place.nodes > 1) or device.type == "cuda"
    if accelerated:
        gpu = _gpu(options, device.type == "cuda")
    else:
        gpu = Gpu("cpu", available_bytes(device, place.per_node), 0.0, 0.0)
    if options.gpu_memory:
        gpu = replace(gpu, memory=_bytes(options.gpu_memory))
    cluster = Cluster(place.nodes, place.per_node, gpu, options.efficiency, options.interconnect * 1e9, sample_bytes)
    return cluster, accelerated


def _gpu(options: PlanOptions, here: bool) -> Gpu:
    from seerctl.train.hardware import gpu_named, recognise

    if options.gpu is None and here:
        import torch

        found = torch.cuda.get_device_properties(0)
        known = recognise(found.name, found.total_memory)
        if known is not None:
            return known
    return gpu_named(options.gpu or ASSUMED)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:G|GB|GiB)\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"--gpu-memory {text}: not a size", "Write 24GB (as makers of GPUs count: 2^30 bytes each)")
    return int(float(found[1]) * (1 << 30))


def _nodes(text: str) -> list[int]:
    name, _, values = text.partition("=")
    counts = values.split(",")
    if name != "nodes" or not all(count.isascii() and count.isdigit() and int(count) > 0 for count in counts):
        raise UsageError(f"--sweep {text}: not a list of numbers of nodes", "Write --sweep nodes=8,16,62")
    return [int(count) for count in counts]


def _refuse_at_once(recipe: Recipe, place: Layout, known: Data, output_format: str) -> None:
    """On a CPU: what cannot hold even parameters and crops needs no trace."""
    from seerctl.device import pick_device
    from seerctl.train.estimate import plan, plan_text

    found = plan(recipe, place.nodes, place.per_node, pick_device(recipe.run.device), known.images, known.classes)
    if found["fits"] is False:
        emit(found, output_format, plan_text(found, recipe))
        raise GateFailed(found["verdict"], "Use more nodes or GPUs")
