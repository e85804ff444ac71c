"""What a recipe needs before a byte of it is allocated: sizes from the meta device, memory from the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seerctl.errors import GateFailed, UsageError
from seerctl.recipe import Recipe, dump, resolved
from seerctl.train.optim import peak_lr
from seerctl.train.parallel import assemble
from seerctl.train.steps import check_batch, total_steps
from seerctl.train.world import World

_FLOAT = 4  # bytes: parameters, gradients and optimiser state are float32 under every precision


@dataclass(frozen=True, slots=True)
class Estimate:
    """Parameters of the model, and bytes that each rank holds in every step: its state and its part of the crops.

    A lower bound of the memory: activations, gathered parameters and buffers of collectives come on top.
    """

    trunk: int
    head: int
    parameters: int
    gradients: int
    optimizer: int
    crops: int

    @property
    def total(self) -> int:
        """Bytes a rank."""
        return self.parameters + self.gradients + self.optimizer + self.crops


def estimate(recipe: Recipe, nodes: int, per_node: int, classes: int = 0) -> Estimate:
    """What `recipe` takes on `nodes` times `per_node` ranks; rows are padded to divide over them, as FSDP does.

    `classes`: of a supervised recipe's data.
    """
    with torch.device("meta"):
        model = assemble(recipe.model, classes=classes)
    ranks = per_node if recipe.parallel.shard == "node" else nodes * per_node
    rows = sum(-(-p.shape[0] // ranks) * (p.numel() // p.shape[0]) for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    pixels = sum(crop.count * 3 * crop.size**2 for crop in recipe.augment.crops)
    return Estimate(
        trunk=sum(p.numel() for p in model.trunk.parameters()),
        head=sum(p.numel() for p in model.head.parameters()),
        parameters=rows * _FLOAT + buffers,
        gradients=rows * _FLOAT,
        optimizer=rows * _FLOAT * _copies(recipe),
        crops=-(-recipe.data.batch // (nodes * per_node)) * pixels * _FLOAT,
    )


def checkpoint_bytes(recipe: Recipe, parameters: int) -> int:
    """Bytes of one checkpoint of so many parameters: they and the optimiser's state, whatever the number of ranks."""
    return parameters * _FLOAT * (1 + _copies(recipe))


def _copies(recipe: Recipe) -> int:
    """How many numbers the optimiser keeps for each parameter."""
    return 2 if recipe.optim.name == "adamw" else int(recipe.optim.momentum > 0)


def available_bytes(device: torch.device, processes: int) -> int:
    """Memory that one of `processes` on this machine can still take: free on its GPU, or its share of the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_machine_available(), _cgroup_available()) // processes


def _machine_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 1 << 62


def _cgroup_available() -> int:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        return int(limit) - used if limit != "max" else 1 << 62
    except (OSError, ValueError):
        return 1 << 62


def check_fits(recipe: Recipe, world: World, classes: int = 0) -> None:
    """Nothing, if what `recipe` holds in every step fits where it is about to run; `classes` as in `estimate`.

    Raises:
        GateFailed: it does not; better said than found out by the kernel's out-of-memory killer.
    """
    needed = estimate(recipe, world.size // world.local_size, world.local_size, classes)
    available = available_bytes(world.device, world.local_size)
    if needed.total > available:
        raise GateFailed(too_large(recipe, needed, available, world.size), "Use more nodes or GPUs; --dry-run compares")


def plan(
    recipe: Recipe, nodes: int, per_node: int, device: torch.device, samples: int | None = None, classes: int = 0
) -> dict[str, Any]:
    """What `--dry-run` shows, as plain values; `fits` is None where the memory is another machine's.

    `samples` is how many images an epoch has, where it is known: then the steps are too. `classes` as in `estimate`.

    Raises:
        UsageError: the batch does not divide over the ranks, or the classes of a supervised recipe are not known.
    """
    ranks = nodes * per_node
    check_batch(recipe.data.batch, ranks)
    classes = classes or recipe.loss.classes
    if recipe.loss.objective == "supervised" and not classes:
        raise UsageError("how large the head is depends on the classes", "Pass --data SET, or --set loss.classes=N")
    needed = estimate(recipe, nodes, per_node, classes)
    available = available_bytes(device, per_node) if nodes == 1 else None
    steps = recipe.schedule.steps or (total_steps(recipe, samples) if samples else None)
    return {
        "schema": "seer-plan-1",
        "size": recipe.model.size,
        "ranks": ranks,
        "nodes": nodes,
        "gpus_per_node": per_node,
        "params": {"trunk": needed.trunk, "head": needed.head, "total": needed.trunk + needed.head},
        "batch": {"global": recipe.data.batch, "per_rank": recipe.data.batch // ranks},
        "steps": steps,
        "peak_lr": peak_lr(recipe.optim, recipe.data.batch),
        "state": {
            "bytes_per_rank": needed.total,
            "parameters": needed.parameters,
            "gradients": needed.gradients,
            "optimizer": needed.optimizer,
            "crops": needed.crops,
        },
        "available_bytes_per_rank": available,
        "fits": None if available is None else needed.total <= available,
        "verdict": _verdict(recipe, needed, available, ranks),
        "recipe": resolved(recipe),
    }


def plan_text(result: dict[str, Any], recipe: Recipe) -> str:
    """A `plan` for people: the resolved recipe, then what it takes."""
    params, batch, steps = result["params"], result["batch"], result["steps"]
    lines = [
        f"parameters  {params['total']:,} (trunk {params['trunk']:,}, head {params['head']:,})",
        f"ranks       {result['ranks']} ({result['nodes']} nodes of {result['gpus_per_node']})",
        f"batch       {batch['global']} ({batch['per_rank']} a rank), peak learning rate {result['peak_lr']:g}",
        f"steps       {steps if steps is not None else 'by the size of --data'}",
        f"memory      {result['verdict']}",
    ]
    return "\n".join([dump(recipe), *lines])


def _verdict(recipe: Recipe, needed: Estimate, available: int | None, ranks: int) -> str:
    if available is None:
        return f"state and crops take {gib(needed.total)} on each of {ranks} ranks; their memory is not known here"
    if needed.total > available:
        return too_large(recipe, needed, available, ranks)
    return f"state and crops take {gib(needed.total)} of {gib(available)} available to a rank; activations come on top"


def too_large(recipe: Recipe, needed: Estimate, available: int, ranks: int) -> str:
    """Why a recipe does not fit, in one line."""
    each = "this process" if ranks == 1 else f"each of {ranks} processes"
    return (
        f"model '{recipe.model.size}' ({(needed.trunk + needed.head) / 1e9:.2f} billion parameters) needs "
        f"{gib(needed.total)} for parameters, gradients, optimiser state and crops of {each}, "
        f"and {gib(available)} of memory is available"
    )


def gib(count: int) -> str:
    """`count` bytes for people."""
    return f"{count / 2**30:.2f} GiB"
