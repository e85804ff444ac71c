"""Checkpoints beside the training: a thread writes a copy in host memory while the next steps are computed.

The ranks' threads talk over a process group of their own, so that nothing of theirs comes between the training's
collectives. One checkpoint is written at a time; the next waits for it.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from seerctl.errors import SeerctlError
from seerctl.recipe import CheckpointConfig
from seerctl.train import checkpoint
from seerctl.train.optim import local_part
from seerctl.train.world import World

_log = logging.getLogger("seerctl")


class Saver:
    """Writes the checkpoints of one run into `folder`; every rank makes the same calls in the same order.

    `saved`: the step of the newest one that was asked for.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, world: World) -> None:
        self.folder, self.config, self.world = folder, config, world
        self.saved = -1
        if config.background and world.size > 1:
            group = dist.new_group(backend="gloo")
            assert not isinstance(group, int)
            self.world = dataclasses.replace(world, group=group)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._copies: dict[str, Tensor] = {}

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep `tensors` as they are now as the checkpoint of `step`: when this returns, they may change.

        Raises:
            EnvironmentFault: as `wait`, for the one before, or for this one if it is not written in the background.
        """
        self.wait()
        self.saved = step
        if not self.config.background:
            self._write(step, tensors, facts)
            self.wait()
            return
        copies = self._copy(tensors)
        self._thread = threading.Thread(target=self._write, args=(step, copies, facts), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, *, last: bool = False) -> None:
        """Return when what was asked for is on the disk; a full disk is said and passed over if the recipe says so.

        `last`: the run ends without its result, so it is not passed over.

        Raises:
            EnvironmentFault: it could not be written; nothing stands under its final name.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is None:
            return
        self.saved = -1
        if isinstance(error, checkpoint.NoRoom) and self.config.on_full == "continue" and not last:
            if self.world.first:
                _log.warning("%s: training goes on without this checkpoint", error.message)
            return
        raise error

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let what is being written come to its end, unless the user or a lost rank cannot wait."""
        if self._thread is not None and (kind is None or issubclass(kind, SeerctlError)):
            self._thread.join()

    @property
    def failed(self) -> bool:
        """Whether this rank knows already that `wait` has something to say."""
        return self._error is not None

    def _write(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        config = self.config
        try:
            checkpoint.save(self.folder, step, tensors, facts, config.keep, self.world, config.keep_every)
        except Exception as error:  # of a thread nobody else would hear it
            self._error = error

    def _copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of each tensor in host memory of its own, which is taken once and used again."""
        pin = any(tensor.device.type == "cuda" for tensor in tensors.values())
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            local = local_part(tensor)
            if name not in self._copies:
                self._copies[name] = torch.empty_like(local, device="cpu", pin_memory=pin, requires_grad=False)
            copy = self._copies[name]
            with torch.no_grad():
                copy.copy_(local, non_blocking=True)
            found[name] = _like(tensor, copy) if isinstance(tensor, DTensor) else copy
        if pin:
            torch.cuda.synchronize()
        return found


def _like(tensor: DTensor, local: Tensor) -> Tensor:
    """`local` as this rank's part of a tensor sharded as `tensor`; `DTensor.from_local` would move it to the device."""
    return DTensor(local, tensor._spec, requires_grad=False)
