"""The processes of a run: who they are, what they compute on, and how they agree."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from seerctl.device import pick_device
from seerctl.errors import EnvironmentFault, SeerctlError
from seerctl.train.interface import name_interface
from seerctl.train.rollcall import RollCall

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """This process among all of a run; alone, it needs no process group. `group` (None: the default one) carries what
    the ranks say to each other.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: dist.ProcessGroup | None = None
    roll: RollCall | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def largest(self, values: Tensor) -> Tensor:
        """The elementwise maximum of `values` over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The elementwise mean of `values` over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values, group=self.group)
            values /= self.size
        return values

    def gather(self, value: T) -> list[T]:
        """The `value` of every rank, on every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def on_first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first rank, on all ranks; what it raises there is raised on all of them.

        Raises:
            SeerctlError: as raised on the first rank.
        """
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except SeerctlError as error:
                outcome[1] = portable(error)
        if self.size > 1:
            dist.broadcast_object_list(outcome, src=0, group=self.group)
        if outcome[1] is not None:
            raise rebuilt(outcome[1])
        result: T = outcome[0]
        return result

    def on_all(self, work: Callable[[], T]) -> T:
        """What `work` returns on each rank; what it raises on any of them is raised on all, with the node's name.

        Raises:
            SeerctlError: as raised on the lowest of those ranks.
        """
        fault, found = None, []
        try:
            found.append(work())
        except SeerctlError as error:
            fault = socket.gethostname(), portable(error)
        faults = [one for one in self.gather(fault) if one is not None]
        if faults:
            node, (kind, message, hint) = faults[0]
            raise kind(message if self.size == self.local_size else f"{message} (node {node})", hint)
        return found[0]


Fault = tuple[type[SeerctlError], str, str]


def portable(error: SeerctlError) -> Fault:
    """`error` as what another process can be sent: its documented class, message and hint."""
    kind = next(cls for cls in type(error).__mro__ if cls.__module__ == SeerctlError.__module__)
    return kind, error.message, error.hint


def rebuilt(fault: Fault) -> SeerctlError:
    """The error behind a `portable` one."""
    kind, message, hint = fault
    return kind(message, hint)


@contextlib.contextmanager
def join(device: Literal["auto", "cpu", "cuda"], timeout_minutes: float) -> Iterator[World]:
    """This process's `World`: from torchrun's environment (RANK, WORLD_SIZE, ...), else alone.

    A process group that the caller has already set up is used and left standing.

    Raises:
        EnvironmentFault: the other processes could not be reached within the timeout.
    """
    world = _from_environment(device)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if dist.is_initialized():
        yield world
        return
    # FSDP calls a collective by the name that torch 2.14 calls old, and every rank would say so.
    warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning)
    if world.device.type == "cpu":
        keep_memory()
    try:
        if "RANK" in os.environ:
            timeout = timedelta(minutes=timeout_minutes)
            name_interface()
            store, rank, size = next(rendezvous("env://", timeout=timeout))
            backend = _backend(world.device)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
            world = replace(world, roll=RollCall(store, rank, size))
    except dist.DistError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise EnvironmentFault(
            f"rank {world.rank} of {world.size} could not join the others at {address} ({error})",
            "Check that every node was started and that its port is reachable",
        ) from None
    try:
        yield world
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def group_of_one(device: torch.device) -> None:
    """A process group of this process alone, which sharding wants; nothing if there is a group already."""
    if not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(_backend(device), store=store, rank=0, world_size=1)


def _backend(device: torch.device) -> str:
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _from_environment(device: Literal["auto", "cpu", "cuda"]) -> World:
    def number(name: str, default: int) -> int:
        return int(os.environ.get(name, default))

    local_rank = number("LOCAL_RANK", 0)
    return World(
        rank=number("RANK", 0),
        size=number("WORLD_SIZE", 1),
        local_rank=local_rank,
        local_size=number("LOCAL_WORLD_SIZE", 1),
        device=pick_device(device, local_rank, shared=False),
    )


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on `device`: a CPU without the instructions takes longer with it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def keep_memory() -> None:
    """Let glibc keep what tensors free: a training step asks for the same sizes again, and page faults cost it 15 %."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no allocation by mmap, which munmap would return at once
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: do not shrink the heap
        mallopt(-2, 64 << 20)  # M_TOP_PAD: grow it in large steps
