"""Several processes on one extraction, as torchrun starts them: who does what, and waiting for each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from seerctl.errors import EnvironmentFault

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
            dist.init_process_group("gloo", timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise EnvironmentFault(f"extract: the ranks did not meet ({str(error).splitlines()[0]})") from None
        try:
            yield
        finally:
            dist.destroy_process_group()

    def wait(self) -> None:
        """Until every rank has come here.

        Raises:
            EnvironmentFault: one of them went away.
        """
        if self.world == 1:
            return
        try:
            dist.barrier()
        except RuntimeError as error:
            raise EnvironmentFault(
                f"extract: another rank went away ({str(error).splitlines()[0]})", "Run the same command again"
            ) from None
