"""`ingest --engine ray`: the same batches, examined by actors on a Ray cluster, in the same order, to the same bytes.

Each actor keeps a process of its own (`outpost`) with a pool of one worker: what an image may cost, and how a worker
that crashes, hangs or grows is killed and replaced, is as on one machine. Paths must mean the same files on every node.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from seerctl.errors import EnvironmentFault, UsageError
from seerctl.sources.check import CheckOptions
from seerctl.sources.item import Item
from seerctl.sources.outpost import encode_plan
from seerctl.sources.pool import WINDOW_BYTES, Outcome, group_items, outcome_of
from seerctl.sources.transform import Treatment
from seerctl.sources.worker import FRAME, Limits, pack_batch

_AHEAD = 3  # batches in the hands of each actor
_STORE_BYTES = 1 << 28  # of a cluster that we start ourselves


class Outpost:
    """A Ray actor: hands batches to its process, and its answers back."""

    def __init__(self, plan: bytes) -> None:
        command = [sys.executable, "-m", "seerctl.sources.outpost"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603  (ours)
        self._send(FRAME.pack(len(plan), 0) + plan)

    def examine(self, request: bytes) -> tuple[bytes, bytes]:
        """The answer to one batch: JSON, and the data that belongs to it."""
        self._send(request)
        length, size = FRAME.unpack(self._receive(FRAME.size))
        return self._receive(length), self._receive(size)

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _receive(self, count: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(count)
        if len(data) < count:
            raise RuntimeError(f"the process of an actor ended with {self._process.wait()}")
        return data


@dataclass(slots=True)
class _Sent:
    items: list[Item]
    bytes: int
    actor: int
    answer: Any  # a reference of Ray's


class RayPool:
    """As `Pool`, on a Ray cluster: the one of $RAY_ADDRESS or this machine, or one started here on 127.0.0.1.

    jobs: actors of one CPU each; 0: as many as the cluster has CPUs.

    Raises:
        UsageError: Ray is not installed.
        EnvironmentFault: the cluster cannot be reached.
    """

    def __init__(self, jobs: int, options: CheckOptions, limits: Limits, treatment: Treatment) -> None:
        self._ray = _import_ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _connect(self._ray, jobs)
        cpus = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        plan = encode_plan(options, limits, treatment)
        remote = self._ray.remote(num_cpus=1, max_restarts=2, max_task_retries=2)(Outpost)
        self._actors = [remote.remote(plan) for _ in range(min(jobs or cpus, cpus))]

    def run(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """Examine `items` and yield what came of them, batch by batch, in their order.

        Raises:
            EnvironmentFault: actors are lost, or workers die before they can begin.
        """
        groups = group_items(items)
        waiting: deque[_Sent] = deque()
        while self._feed(groups, waiting):
            first = waiting.popleft()
            try:
                text, data = self._ray.get(first.answer)
            except self._ray.exceptions.RayError as error:
                words = str(error).strip().splitlines() or [type(error).__name__]
                raise EnvironmentFault(f"ingest: Ray lost a batch ({words[-1]})", "Look at 'ray status'") from None
            yield _understood(first.items, json.loads(text), data)

    def _feed(self, groups: Iterator[list[Item]], waiting: deque[_Sent]) -> bool:
        """Send batches ahead, each to the actor with the fewest; False when nothing is waited for."""
        while len(waiting) < _AHEAD * len(self._actors) and sum(one.bytes for one in waiting) < WINDOW_BYTES:
            group = next(groups, None)
            if group is None:
                break
            busy = [sum(one.actor == number for one in waiting) for number in range(len(self._actors))]
            actor = busy.index(min(busy))
            answer = self._actors[actor].examine.remote(b"".join(pack_batch(group)))
            waiting.append(_Sent(group, sum(item.size for item in group), actor, answer))
        return bool(waiting)

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()
        if self._ours:
            self._ray.shutdown()

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _understood(items: list[Item], answer: dict[str, Any], data: bytes) -> Outcome:
    if "usage" in answer:
        raise UsageError(*answer["usage"])
    if "environment" in answer:
        raise EnvironmentFault(*answer["environment"])
    if "bug" in answer:
        raise RuntimeError(f"on a Ray node:\n{answer['bug']}")
    return outcome_of(items, answer, memoryview(data))


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        import ray  # noqa: PLC0415  (a second, that only this engine needs)
    except ImportError:
        raise UsageError("--engine ray: Ray is not installed", "Run pip install 'seerctl[ray]'") from None
    return ray


def _connect(ray: Any, jobs: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS") or "auto", **quiet)
        return
    except ConnectionError as error:
        if os.environ.get("RAY_ADDRESS"):
            raise EnvironmentFault(f"--engine ray: {error}", "Check $RAY_ADDRESS") from None
    ray.init(
        address="local", num_cpus=jobs or len(os.sched_getaffinity(0)), include_dashboard=False,
        object_store_memory=_STORE_BYTES, _node_ip_address="127.0.0.1", **quiet,
    )  # fmt: skip
