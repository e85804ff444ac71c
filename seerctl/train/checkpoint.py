"""Checkpoints that are whole or absent: torch DCP, written aside, summed, renamed; any world size loads them.

`RUN/checkpoints/step-00001000/` holds DCP's files, `state.json` (step and what the run was) and `sums.json` (SHA-256 of
every other file). A directory without its sums, or with other bytes than they say, is passed over on resume.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from seerctl.errors import EnvironmentFault, InputError, SeerctlError
from seerctl.files import blame, commit, environment_fault, read_json, sha256_file, write_json
from seerctl.train.world import World

_NAME = re.compile(r"step-(\d{8,})")
_SUMS, _STATE = "sums.json", "state.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_log = logging.getLogger("seerctl")


class NoRoom(EnvironmentFault):
    """A checkpoint that the disk, or the quota, has no room for."""


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of a training state under one flat name; the tensors themselves, so that loading fills them."""
    found = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"optim.{name}.{key}"] = value
    return found


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    keep: int,
    world: World,
    keep_every: int = 0,
) -> Path:
    """Write the checkpoint of `step` (updates done) on all ranks together, then drop all but the newest `keep`.

    Those of every `keep_every` steps stay too.

    Raises:
        EnvironmentFault: it could not be written (`NoRoom`: disk full); nothing stands under its final name.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{final.name}.tmp"
    failure: SeerctlError | None = None
    sums: dict[str, str] = {}
    try:
        world.on_first(lambda: _fresh(temporary))
        _write(temporary, tensors, world)
        sums = _sums_of_rank(temporary, world)
    except (CheckpointException, OSError, RuntimeError, SeerctlError) as error:
        failure = None if _of_others(error, world) else _fault(error, final)
    _raise_any(failure, temporary, world)
    merged = {name: digest for part in world.gather(sums) for name, digest in part.items()}
    try:
        world.on_first(lambda: _seal(temporary, final, merged, {**facts, "step": step}))
    except SeerctlError as error:
        failure = _fault(error, final)
    _raise_any(failure, temporary, world)
    world.on_first(lambda: _prune(folder, keep, keep_every))
    return final


def _raise_any(failure: SeerctlError | None, temporary: Path, world: World) -> None:
    """The first rank's failure on all ranks, once what was written is gone again."""
    where = f" (rank {world.rank} on {socket.gethostname()})" if world.size > 1 else ""
    mine = None if failure is None else (f"{failure.message}{where}", isinstance(failure, NoRoom))
    failures = [found for found in world.gather(mine) if found]
    if failures:
        world.on_first(lambda: shutil.rmtree(temporary, ignore_errors=True))
        kind = NoRoom if any(full for _, full in failures) else EnvironmentFault
        raise kind(failures[0][0], "Free space or change the permissions, then start again to go on")


def _fresh(temporary: Path) -> None:
    with blame(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)


def _write(temporary: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    # One file a rank, of threads none: the writer's threads would compete with the training's.
    writer = FileSystemWriter(temporary, single_file_per_rank=True, sync_files=True, thread_count=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is no mistake
        dcp_save(dict(tensors), storage_writer=writer, process_group=world.group, no_dist=world.size == 1)


def _sums_of_rank(temporary: Path, world: World) -> dict[str, str]:
    # Each rank hashes what it wrote itself; DCP calls the files of rank r `__r_0.distcp`, and rank 0 writes .metadata.
    mine = list(temporary.glob(f"__{world.rank}_*.distcp"))
    return {path.name: sha256_file(path) for path in [*mine, *([temporary / ".metadata"] if world.first else [])]}


def _of_others(error: BaseException, world: World) -> bool:
    """Whether only other ranks failed, of which DCP tells all: they say themselves what happened to them."""
    failures = getattr(error, "failures", {})
    return bool(failures) and world.rank not in failures and all(rank in range(world.size) for rank in failures)


def _fault(error: BaseException, where: Path) -> SeerctlError:
    causes = [error, error.__cause__, *getattr(error, "failures", {}).values()]
    for cause in causes:
        cause = cause[0] if isinstance(cause, tuple) else cause
        if isinstance(cause, OSError) and (fault := environment_fault(cause, where)):
            return NoRoom(fault.message, fault.hint) if cause.errno in _FULL else fault
    if isinstance(error, SeerctlError):
        return error
    text = str(error).strip().splitlines()
    return EnvironmentFault(f"{where}: could not be written ({text[-1] if text else type(error).__name__})")


def _seal(temporary: Path, final: Path, sums: dict[str, str], facts: dict[str, Any]) -> None:
    write_json(temporary / _STATE, facts)
    sums[_STATE] = sha256_file(temporary / _STATE)
    write_json(temporary / _SUMS, sums)
    if final.exists():  # left by a run that died between the rename and its next step
        with blame(final):
            shutil.rmtree(final)
    commit(temporary, final)


def _prune(folder: Path, keep: int, keep_every: int) -> None:
    for path in checkpoints(folder)[:-keep]:
        if not keep_every or step_of(path) % keep_every:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in `folder`, oldest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix("step-"))


def newest(folder: Path, world: World) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose bytes are what was written, and its facts; damaged ones are named and passed over."""
    for path in reversed(world.on_first(lambda: checkpoints(folder))):
        facts, fault = _verified(path, world)
        if fault is None:
            return path, facts
        if world.first:
            _log.warning("%s: passed over, %s", path, fault)
    return None


def _verified(path: Path, world: World) -> tuple[dict[str, Any], str | None]:
    """The facts of a checkpoint and None, or what is wrong with it; the ranks share the reading."""
    fault: str | None = None
    facts: dict[str, Any] = {}
    try:
        sums = read_json(path / _SUMS)
        for index, (name, digest) in enumerate(sorted(sums.items())):
            if index % world.size == world.rank and (fault is None) and sha256_file(path / name) != digest:
                fault = f"{name} is not what was written"
        facts = read_json(path / _STATE)
    except FileNotFoundError as error:
        fault = f"{Path(error.filename).name} is missing"
    except (SeerctlError, OSError, AttributeError, TypeError) as error:
        fault = str(error)
    return facts, next((found for found in world.gather(fault) if found), None)


def load(path: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Fill `tensors` in place from the checkpoint at `path`, whatever number of ranks wrote it.

    Raises:
        InputError: it holds other tensors than this model's.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp_load(dict(tensors), storage_reader=FileSystemReader(path), no_dist=world.size == 1)
    except (CheckpointException, RuntimeError, ValueError, KeyError) as error:
        text = str(error).strip().splitlines()
        raise InputError(
            f"{path}: does not fit this model ({text[-1] if text else type(error).__name__})",
            "Pass --fresh to start over",
        ) from None
