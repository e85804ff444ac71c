"""A whole plan as plain values: does it fit, how long does it take, what would change that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from seerctl.errors import UsageError
from seerctl.recipe import Recipe, resolved
from seerctl.train.estimate import checkpoint_bytes
from seerctl.train.hardware import GIB, GPUS
from seerctl.train.optim import peak_lr
from seerctl.train.planner.choose import Choice, choose
from seerctl.train.planner.cost import DAY, MARGIN, Cluster, StepCost, loading, step_cost
from seerctl.train.planner.ledger import ACTIVATIONS, CROPS, TEMPORARY, Moment
from seerctl.train.planner.trace import Traced, trace
from seerctl.train.steps import total_steps

SCHEMA = "seer-plan-2"


@dataclass(frozen=True, slots=True)
class Data:
    """What is known of the data: images an epoch, classes of a supervised recipe, free bytes where checkpoints go."""

    images: int | None = None
    classes: int = 0
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan: the recipe, the machines it is for, the traced step, what that recomputes, and all as plain values."""

    recipe: Recipe
    cluster: Cluster
    traced: Traced
    choice: Choice
    values: dict[str, Any]

    @property
    def fits(self) -> bool:
        """Whether the peak leaves a GPU its margin."""
        return self.traced.peak.total <= MARGIN * self.cluster.gpu.memory


def make_plan(recipe: Recipe, cluster: Cluster, data: Data | None = None, *, accelerated: bool = True) -> Planned:
    """Trace a step of `recipe` on `cluster` and say what it takes; `accelerated`: false where CPUs compute.

    Raises:
        UsageError: the batch does not divide over the ranks, or the classes of a supervised recipe are not known.
    """
    data = data or Data()
    classes = data.classes or recipe.loss.classes
    if recipe.loss.objective == "supervised" and not classes:
        raise UsageError("how large the head is depends on the classes", "Pass --data SET, or --set loss.classes=N")
    choice, traced = choose(recipe, cluster, classes, accelerated=accelerated)
    if traced is None:
        place = cluster.nodes, cluster.per_node, classes
        traced = trace(recipe, *place, accelerated=accelerated, chunks=choice.chunks)
    planned = Planned(recipe, cluster, traced, choice, {})
    planned.values.update(_values(planned, data))
    return planned


def _values(planned: Planned, data: Data) -> dict[str, Any]:
    recipe, cluster, traced = planned.recipe, planned.cluster, planned.traced
    cost = step_cost(traced, cluster) if cluster.gpu.flops else None
    steps = recipe.schedule.steps or (total_steps(recipe, data.images) if data.images else None)
    one = checkpoint_bytes(recipe, traced.trunk + traced.head)
    return {
        "schema": SCHEMA, "size": recipe.model.size, "ranks": cluster.ranks, "nodes": cluster.nodes,
        "gpus_per_node": cluster.per_node,
        "params": {"trunk": traced.trunk, "head": traced.head, "total": traced.trunk + traced.head},
        "batch": {"global": recipe.data.batch, "per_rank": recipe.data.batch // cluster.ranks},
        "peak_lr": peak_lr(recipe.optim, recipe.data.batch),
        "memory": {
            "peak_bytes": traced.peak.total, "by_category": traced.peak.by_category,
            "host_bytes": traced.host, "gpu_bytes": cluster.gpu.memory, "usable_share": MARGIN,
        },
        "checkpointing": planned.choice.values(),
        "collectives": [asdict(collective) for collective in traced.collectives],
        "step": {"flops_per_rank": traced.flops} | _times(recipe, cost),
        "training": {
            "images": None if steps is None else steps * recipe.data.batch, "steps": steps,
            "days": None if steps is None or cost is None else steps * cost.seconds / DAY,
        },
        "loading_per_node": None if cost is None else loading(recipe, cost, cluster),
        "checkpoints": {"bytes": one, "kept": recipe.checkpoint.keep, "free_bytes": data.free,
                        "fit": None if data.free is None else data.free // one},
        "assumed": {
            "gpu": asdict(cluster.gpu), "efficiency": cluster.efficiency,
            "interconnect_bytes_per_second": cluster.interconnect, "sample_bytes": cluster.sample_bytes,
        },
        "fits": planned.fits, "fits_gib": fitting_sizes(traced.peak.total), "verdict": verdict(planned),
        "recipe": resolved(recipe),
    }  # fmt: skip


def _times(recipe: Recipe, cost: StepCost | None) -> dict[str, float | None]:
    if cost is None:  # the peak of this machine's processor is not known
        return {"seconds": None}
    return {
        "seconds": cost.seconds, "compute_seconds": cost.compute, "communication_seconds": cost.communication,
        "seconds_without_overlap": cost.no_overlap, "images_per_second": recipe.data.batch / cost.seconds,
    }  # fmt: skip


def fitting_sizes(peak: int) -> dict[str, bool]:
    """For each usual size of a GPU's memory in GiB, whether `peak` bytes leave it its margin."""
    sizes = sorted({gpu.memory for gpu in GPUS.values()})
    return {str(size // GIB): peak <= MARGIN * size for size in sizes}


def verdict(planned: Planned) -> str:
    """Whether it fits, in one line."""
    peak, memory = planned.traced.peak, planned.cluster.gpu.memory
    size = f"{memory / GIB:.3g} GB"
    if planned.fits:
        return f"fits {size}: yes, {peak.total / GIB:.1f} GiB and a margin of {1 - MARGIN:.0%}"
    most = sorted(peak.by_category.items(), key=lambda item: -item[1])[:3]
    listed = ", ".join(f"{count / GIB:.1f} {kind}" for kind, count in most)
    return f"fits {size}: no, {peak.total / GIB:.1f} GiB ({listed}) of {MARGIN * memory / GIB:.1f} GiB usable"


def remedy(planned: Planned, classes: int = 0, tell: Callable[[str], None] | None = None) -> str:
    """What makes a plan that does not fit fit, as a hint; only what a trace of its own confirms is promised."""
    words: list[str] = []
    cluster, peak = planned.cluster, planned.traced.peak
    for change, changed, larger in _changes(planned.recipe, cluster, peak):
        words.append(change)
        if tell is not None:
            tell(f"trying {change}")
        found = trace(changed, larger.nodes, larger.per_node, classes).peak
        peak = min(peak, found, key=lambda moment: moment.total)
        if found.total <= MARGIN * cluster.gpu.memory:
            return f"With {', '.join(words)} it fits: {found.total / GIB:.1f} GiB"
    needed = peak.total / MARGIN
    enough = min((gpu for gpu in GPUS.values() if gpu.memory >= needed), key=lambda gpu: gpu.memory, default=None)
    where = f"such as {enough.name}" if enough else "larger than any known here"
    return f"Checkpoints, sharding and nodes are not enough; take GPUs of {needed / GIB:.0f} GiB, {where}"


def _changes(recipe: Recipe, cluster: Cluster, peak: Moment) -> Iterator[tuple[str, Recipe, Cluster]]:
    """What could make a plan smaller, one on top of the other, the cheapest first: (in words, recipe, cluster)."""
    config = recipe.parallel
    if config.activation_checkpointing != "block":
        # Without a budget, auto and dp end with every block before they do not fit.
        changes = config.activation_checkpointing == "none" or config.activation_budget > 0
        recipe = replace(recipe, parallel=replace(config, activation_checkpointing="block", activation_budget=0.0))
        if changes:
            yield "parallel.activation_checkpointing=block", recipe, cluster
    if recipe.parallel.shard == "node" and cluster.nodes > 1:
        recipe = replace(recipe, parallel=replace(recipe.parallel, shard="world"))
        yield "parallel.shard=world", recipe, cluster
    if recipe.loss.objective == "swav" and recipe.loss.small_crops == "pad":
        recipe = replace(recipe, loss=replace(recipe.loss, small_crops="own"))
        yield "loss.small_crops=own", recipe, cluster
    for nodes in _more_nodes(recipe, cluster, peak):
        yield f"--nodes {nodes}", recipe, replace(cluster, nodes=nodes)


def _more_nodes(recipe: Recipe, cluster: Cluster, peak: Moment) -> Iterator[int]:
    """The least number of nodes on which what shrinks with a rank's part of the batch lets the rest fit, if any."""
    shrinking = sum(peak.by_category.get(kind, 0) for kind in (ACTIVATIONS, TEMPORARY, CROPS))
    room = MARGIN * cluster.gpu.memory - (peak.total - shrinking)
    for nodes in range(cluster.nodes + 1, recipe.data.batch // cluster.per_node + 1):
        if recipe.data.batch % (nodes * cluster.per_node) == 0 and shrinking * cluster.nodes / nodes <= room:
            yield nodes
            return


def sweep(recipe: Recipe, cluster: Cluster, data: Data, nodes: Sequence[int]) -> Iterator[Planned]:
    """The plan for each number of nodes, under each way of sharding and of small crops that the recipe allows."""
    several = recipe.loss.objective == "swav" and len(recipe.augment.crops) > 1
    ways: Sequence[Literal["own", "pad"]] = ("own", "pad") if several else (recipe.loss.small_crops,)
    shards: Sequence[Literal["world", "node"]] = ("world", "node")
    for count in nodes:
        for shard in shards[: min(count, 2)]:
            for way in ways:
                changed = replace(
                    recipe, parallel=replace(recipe.parallel, shard=shard), loss=replace(recipe.loss, small_crops=way)
                )
                yield make_plan(changed, replace(cluster, nodes=count), data)
