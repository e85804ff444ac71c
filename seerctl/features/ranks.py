"""Several processes on one extraction, as torchrun starts them: who does what, and waiting for each other."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from seerctl.errors import EnvironmentFault, Saved
from seerctl.train.interface import name_interface
from seerctl.train.signals import stop_request

PATIENCE = timedelta(days=7)  # ranks finish hours apart; a rank that dies is torchrun's to notice


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `world`."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls) -> Ranks:
        """What torchrun wrote into RANK, WORLD_SIZE and LOCAL_RANK; one process without it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        try:
            return cls(*(int(os.environ[name]) for name in names)) if "WORLD_SIZE" in os.environ else cls()
        except (KeyError, ValueError):
            raise EnvironmentFault(
                f"extract: {', '.join(names)} have to be whole numbers", "Start it with torchrun, or unset them"
            ) from None

    def share(self, batches: int, rank: int | None = None) -> range:
        """The contiguous batches of a rank: whole ones, so that no result depends on the number of ranks."""
        rank = self.rank if rank is None else rank
        return range(batches * rank // self.world, batches * (rank + 1) // self.world)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Meet the others (over gloo), and leave together at the end of a block that ends well."""
        if self.world == 1:
            yield
            return
        try:
            name_interface()
            dist.init_process_group("gloo", timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise EnvironmentFault(f"extract: the ranks did not meet ({str(error).splitlines()[0]})") from None
        try:
            yield
        finally:
            dist.destroy_process_group()

    def agree(self, facts: Mapping[str, str]) -> None:
        """Nothing, if these are the same on every rank: what their parts are made of.

        Raises:
            EnvironmentFault: one has others than the first; the message names it and its node. On all ranks alike.
        """
        if self.world == 1:
            return
        found: list[Any] = [None] * self.world
        with self._leaving():
            dist.all_gather_object(found, (socket.gethostname(), dict(facts)))
        first, ours = found[0]
        for rank, (node, theirs) in enumerate(found):
            for name, value in ours.items():
                if theirs[name] != value:
                    other = f"{name} {theirs[name][:16]}"
                    raise EnvironmentFault(
                        f"extract: rank {rank} on {node} has {other}, rank 0 on {first} {value[:16]}",
                        "Give every node the same version, model and data",
                    )

    def wait(self) -> None:
        """Until every rank has come here.

        Raises:
            EnvironmentFault: one of them went away.
            Saved: it did because all were asked to.
        """
        if self.world > 1:
            with self._leaving():
                dist.barrier()

    def stop_if_asked(self) -> None:
        """Nothing, unless the launcher wants its processes to save and end.

        Raises:
            Saved: it does; whole chunks of rows are safe.
        """
        if reason := stop_request():
            raise Saved(f"extract: stopped by {reason}, what is written is kept", "Run the same command again to go on")

    @contextlib.contextmanager
    def _leaving(self) -> Iterator[None]:
        """Say why a meeting of all ranks failed."""
        try:
            yield
        except RuntimeError as error:
            self.stop_if_asked()
            raise EnvironmentFault(
                f"extract: another rank went away ({str(error).splitlines()[0]})", "Run the same command again"
            ) from None
