"""What every node has to agree on before the long wait: versions, recipe, clock, a directory that all of them see."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from seerctl import __version__
from seerctl.errors import EnvironmentFault
from seerctl.files import free_bytes
from seerctl.recipe import Recipe, dump
from seerctl.shards.index import ShardSet
from seerctl.train.world import World

CLOCK_SECONDS = 60.0  # clocks may differ by: names of what a run writes and time limits hang on them
_LOOKS = 8  # samples that a node reads to see whether it can
_PATIENCE = 15.0  # seconds that a network file system may take to show a new file


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a run, as its first rank sees it."""

    name: str
    seerctl: str
    torch: str
    index_sha256: str
    recipe: str
    clock: float


_FACTS: dict[str, tuple[str, str]] = {
    "seerctl": ("seerctl", "Install the same version on every node"),
    "torch": ("torch", "Install the same version on every node"),
    "index_sha256": ("a shard set with index", "Give every node the same --data"),
    "recipe": ("another recipe", "Give every node the same --recipe and --set"),
}


def check_nodes(world: World, recipe: Recipe, index_sha256: str) -> None:
    """Nothing, if all nodes run the same versions on the same recipe and data, and their clocks agree.

    Raises:
        EnvironmentFault: one differs from the first; the message names it. On all ranks alike.
    """
    if world.size == 1:
        return
    world.gather(None)  # together: a node that took longer to start is not one whose clock is wrong
    mine = Node(socket.gethostname(), __version__, str(torch.__version__), index_sha256, dump(recipe), time.time())
    nodes = [node for node in world.gather(mine if world.local_rank == 0 else None) if node is not None]
    for node in nodes[1:]:
        compare(nodes[0], node)


def compare(first: Node, node: Node) -> None:
    """Raises EnvironmentFault where `node` differs from the `first` of a run."""
    mine, others = asdict(first), asdict(node)
    for key, (what, hint) in _FACTS.items():
        if mine[key] != others[key]:
            values = f" {others[key][:16]}, {first.name} has {mine[key][:16]}" if key != "recipe" else ""
            raise EnvironmentFault(f"node {node.name} has {what}{values}", hint)
    apart = node.clock - first.clock
    if abs(apart) > CLOCK_SECONDS:
        raise EnvironmentFault(
            f"the clock of node {node.name} is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} that of "
            f"{first.name}",
            "Synchronise the clocks (NTP)",
        )


def check_shared(world: World, place: Path, *, patience: float = _PATIENCE) -> None:
    """Nothing, if every node sees the file `place`, which the first rank wrote.

    Raises:
        EnvironmentFault: one does not: its checkpoints would be lost. On all ranks alike.
    """
    if world.size == world.local_size:
        return
    seen = _soon(lambda: _listed(place), patience)
    missing = [name for name in world.gather(None if seen else socket.gethostname()) if name is not None]
    if missing:
        raise EnvironmentFault(
            f"{place.parent}: node {missing[0]} does not see what the first node writes there",
            "The run directory has to lie on a file system that all nodes share",
        )


def check_readable(world: World, shards: ShardSet) -> None:
    """Nothing, if every node can read the set: a few samples between its first and its last.

    Raises:
        InputError: one cannot; the message names it. On all ranks alike.
    """
    if world.size == world.local_size or not len(shards):
        return

    def look() -> None:
        # Of its own: the files of `shards` are to be opened by the loader's processes.
        with ShardSet.open(shards.location) as opened:
            for number in range(_LOOKS if world.local_rank == 0 else 0):
                opened.read((len(opened) - 1) * number // (_LOOKS - 1))

    world.on_all(look)


def check_room(world: World, place: Path, checkpoint: int) -> None:
    """Nothing, if there is room for a checkpoint of so many bytes at `place`.

    Raises:
        EnvironmentFault: there is not.
    """

    def look() -> None:
        free = free_bytes(place)
        if free < checkpoint:
            raise EnvironmentFault(
                f"{place}: {free / 1e9:.1f} GB free, a checkpoint takes {checkpoint / 1e9:.1f} GB", "Make room first"
            )

    world.on_first(look)


def _listed(place: Path) -> bool:
    try:
        return place.name in os.listdir(place.parent)  # noqa: PTH208  # a listing is not served from a stale cache
    except OSError:
        return False


def _soon(look: Callable[[], bool], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
