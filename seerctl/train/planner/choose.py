"""The blocks that a run recomputes in backward: the recipe's, or the least that fit a budget or the memory.

`python -m seerctl.train.planner.choose` answers a run that is in a process group already: its steps are traced in a
fake one, for which the run itself has no place.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from seerctl import errors
from seerctl.errors import EnvironmentFault, SeerctlError, UsageError
from seerctl.recipe import Recipe, resolved
from seerctl.train.estimate import available_bytes
from seerctl.train.hardware import GIB, GPUS, Gpu, recognise
from seerctl.train.parallel import computing_precision
from seerctl.train.planner.blocks import chain_of
from seerctl.train.planner.cost import MARGIN, Cluster
from seerctl.train.planner.recompute import Chain, Chunk, cost_of, peak_of, place
from seerctl.train.planner.trace import Traced, trace
from seerctl.train.world import World
from seerctl.typed import build

_TRIES = 4  # traces of plans, each for a budget that is smaller by what the one before had too much
_BACKWARD = 2  # times the forward pass


@dataclass(frozen=True, slots=True)
class Choice:
    """What is recomputed: `chunks` (first and last block), `recomputed` (the blocks by name), as which `mode`.

    `share`: of the operations of a step that are recomputation.
    """

    mode: str
    chunks: tuple[Chunk, ...]
    recomputed: tuple[str, ...]
    share: float

    def values(self) -> dict[str, Any]:
        """As plans and run.json show it."""
        return {
            "mode": self.mode, "chunks": [list(chunk) for chunk in self.chunks],
            "recomputed": list(self.recomputed), "recompute_flops_share": self.share,
        }  # fmt: skip


def choose(
    recipe: Recipe, cluster: Cluster, classes: int = 0, *, accelerated: bool = True
) -> tuple[Choice, Traced | None]:
    """What `recipe` recomputes on `cluster`, and its traced step where that was needed to know; no part is random.

    The least recomputation within `parallel.activation_budget`, or with which the traced peak leaves the margin of the
    cluster's memory: none at all where that fits, then chunks by dynamic programming, then every block. A budget that
    cannot be kept is refused under `dp` and means every block under `auto`.

    Raises:
        UsageError: the budget is less than any choice takes, or the batch does not divide over the ranks.
    """
    config = recipe.parallel
    device = torch.device("cpu")
    precision = "bf16" if accelerated and config.precision == "auto" else computing_precision(config, device)
    chain = chain_of(recipe, cluster.ranks, cluster.per_node, precision, classes)
    if config.activation_checkpointing in ("none", "block"):
        return choice_of(chain, each(chain) if config.activation_checkpointing == "block" else ()), None
    price = operations_per_byte(recipe, cluster)
    if config.activation_budget:
        found = place(chain, config.activation_budget * GIB, price)
        if found is None and config.activation_checkpointing == "dp":
            raise _too_little(config.activation_budget, chain, price)
        return choice_of(chain, each(chain) if found is None else found), None
    return _fitting(recipe, cluster, classes, chain, price, accelerated)


def _fitting(
    recipe: Recipe, cluster: Cluster, classes: int, chain: Chain, price: float, accelerated: bool
) -> tuple[Choice, Traced]:
    """The first that fits of nothing, chunks and every block; the last whether it fits or not."""

    def tried(chunks: Sequence[Chunk]) -> Traced:
        return trace(recipe, cluster.nodes, cluster.per_node, classes, accelerated=accelerated, chunks=chunks)

    limit = MARGIN * cluster.gpu.memory
    nothing = tried(())
    if nothing.peak.total <= limit:
        return choice_of(chain, ()), nothing
    budget = limit - (nothing.peak.total - peak_of(chain, ()))
    for _ in range(_TRIES):
        chunks = place(chain, budget, price)
        if chunks is None or chunks == each(chain):
            break
        traced = tried(chunks)
        if traced.peak.total <= limit:
            return choice_of(chain, chunks), traced
        budget = min(budget, peak_of(chain, chunks)) - (traced.peak.total - limit)
    return choice_of(chain, each(chain)), tried(each(chain))


def each(chain: Chain) -> tuple[Chunk, ...]:
    """Every block as a chunk of its own."""
    return tuple((number, number) for number in range(len(chain.blocks)))


def choice_of(chain: Chain, chunks: tuple[Chunk, ...]) -> Choice:
    """`chunks` of `chain` with their names and what they cost."""
    names = [one.name for first, last in chunks for one in chain.blocks[first : last + 1]]
    again, forward = cost_of(chain, chunks), sum(one.flops for one in chain.blocks)
    mode = "none" if not chunks else "block" if chunks == each(chain) else "dp"
    return Choice(mode, chunks, tuple(names), again / ((1 + _BACKWARD) * forward + again))


def operations_per_byte(recipe: Recipe, cluster: Cluster) -> float:
    """Operations that a GPU could do while it receives one byte of gathered parameters."""
    gpu = cluster.gpu if cluster.gpu.flops else GPUS["a100-40gb"]
    inside = recipe.parallel.shard == "node" or cluster.nodes == 1
    bandwidth = gpu.link if inside else min(gpu.link, cluster.interconnect)
    return gpu.flops * cluster.efficiency / bandwidth


def _too_little(budget: float, chain: Chain, price: float) -> UsageError:
    low, high = 0, peak_of(chain, each(chain))
    while high - low > GIB // 1000:
        middle = (low + high) // 2
        low, high = (low, middle) if place(chain, middle, price) is not None else (middle, high)
    return UsageError(
        f"parallel.activation_budget = {budget:g}: activations take at least {high / GIB:.3f} GiB of each rank",
        "Raise it, use more ranks, or set parallel.accumulate",
    )


def choose_here(recipe: Recipe, world: World, classes: int = 0) -> Choice:
    """What the run of `recipe` on `world` recomputes, in the memory of its GPU or its share of the machine's.

    Raises:
        UsageError: as `choose`.
        EnvironmentFault: the process that traces the steps broke down.
    """
    nodes, device = world.size // world.local_size, world.device
    exact = replace(recipe.parallel, precision=computing_precision(recipe.parallel, device))
    recipe = replace(recipe, parallel=exact)
    cluster, accelerated = Cluster(nodes, world.local_size, _gpu(world)), device.type != "cpu"
    if exact.activation_checkpointing in ("none", "block") or exact.activation_budget:
        return choose(recipe, cluster, classes, accelerated=accelerated)[0]
    question = {
        "recipe": resolved(recipe), "nodes": nodes, "per_node": world.local_size, "gpu": asdict(cluster.gpu),
        "classes": classes, "accelerated": accelerated,
    }  # fmt: skip
    command = [sys.executable, "-m", __spec__.name]
    done = subprocess.run(  # noqa: S603 - ourselves
        command, input=json.dumps(question), capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise EnvironmentFault(f"what to recompute could not be planned ({last or f'exit {done.returncode}'})",
                               'Set parallel.activation_checkpointing to "block" or "none"')  # fmt: skip
    answer = json.loads(done.stdout)
    if "fault" in answer:
        kind, message, hint = answer["fault"]
        raise getattr(errors, kind)(message, hint)
    chunks = tuple((first, last) for first, last in answer["chunks"])
    return Choice(answer["mode"], chunks, tuple(answer["recomputed"]), answer["recompute_flops_share"])


def _gpu(world: World) -> Gpu:
    """What is known of this process's GPU; of a CPU, its share of the memory."""
    if world.device.type != "cuda":
        return Gpu("cpu", available_bytes(world.device, world.local_size), 0.0, 0.0)
    found = torch.cuda.get_device_properties(world.device)
    known = recognise(found.name, found.total_memory)
    return replace(known, memory=found.total_memory) if known else Gpu(found.name, found.total_memory, 0.0, 0.0)


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What `choose` says to the `question` of `choose_here`, as plain values; `fault`: what it raises."""
    cluster = Cluster(question["nodes"], question["per_node"], Gpu(**question["gpu"]))
    try:
        recipe = build(Recipe, question["recipe"], "recipe")
        return choose(recipe, cluster, question["classes"], accelerated=question["accelerated"])[0].values()
    except SeerctlError as error:
        return {"fault": [type(error).__name__, error.message, error.hint]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))))
