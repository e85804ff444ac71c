"""From what a step takes to how long it takes, what it wants from storage, and what its checkpoints weigh."""

from __future__ import annotations

from dataclasses import dataclass

from seerctl.recipe import Recipe
from seerctl.train.hardware import Gpu
from seerctl.train.planner.operations import Collective
from seerctl.train.planner.trace import Traced

LATENCY = 50e-6  # seconds that a collective takes whatever its bytes, over nodes
MARGIN = 0.85  # of a GPU's memory: the rest is for its context, libraries' workspaces and fragmentation
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines of a plan, and what is assumed of them.

    `efficiency`: the share of a GPU's peak that convolutions reach. `interconnect`: bytes a second that each GPU can
    send to other nodes. `sample_bytes`: of one stored image.
    """

    nodes: int
    per_node: int
    gpu: Gpu
    efficiency: float = 0.4
    interconnect: float = 25e9
    sample_bytes: float = 100e3

    @property
    def ranks(self) -> int:
        """All GPUs."""
        return self.nodes * self.per_node


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of one step: of computing, of sending, and together.

    `seconds` lets sending hide behind computing wherever it can, `no_overlap` nowhere: the truth lies between.
    """

    compute: float
    communication: float

    @property
    def seconds(self) -> float:
        """With all sending hidden that fits behind computing."""
        return max(self.compute, self.communication)

    @property
    def no_overlap(self) -> float:
        """One after the other."""
        return self.compute + self.communication


def step_cost(traced: Traced, cluster: Cluster) -> StepCost:
    """Seconds of the traced step on `cluster`."""
    compute = traced.flops / (cluster.gpu.flops * cluster.efficiency)
    return StepCost(compute, sum(_seconds(one, cluster) for one in traced.collectives))


def _seconds(one: Collective, cluster: Cluster) -> float:
    # Groups of a node's ranks stay inside it (`World`'s ranks are numbered node by node); a ring over nodes is as
    # fast as its slowest link.
    inside = one.ranks <= cluster.per_node
    bandwidth = cluster.gpu.link if inside else min(cluster.gpu.link, cluster.interconnect)
    return one.bytes / bandwidth + one.count * (LATENCY / 5 if inside else LATENCY)


def loading(recipe: Recipe, cost: StepCost, cluster: Cluster) -> dict[str, float]:
    """What each node must read and decode so that its GPUs never wait."""
    images = recipe.data.batch / cost.seconds / cluster.nodes
    return {"images_per_second": images, "bytes_per_second": images * cluster.sample_bytes}
