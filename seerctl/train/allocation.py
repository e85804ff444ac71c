"""Where this process stands with SLURM: at its door, inside an allocation, or one task of a job step."""

from __future__ import annotations

import os
import shutil

HEAD = "SEERCTL_HEAD"  # host:port of the first rank, for the tasks that srun starts


def has_sbatch() -> bool:
    """Whether jobs can be submitted from here."""
    return shutil.which("sbatch") is not None


def in_allocation() -> bool:
    """Whether this process runs inside an allocation, where `srun` starts tasks."""
    return "SLURM_JOB_ID" in os.environ and HEAD not in os.environ and shutil.which("srun") is not None


def adopt_task() -> None:
    """In a task of `run_srun`: torchrun's environment from SLURM's; nothing anywhere else."""
    if HEAD not in os.environ or "RANK" in os.environ:
        return
    host, _, port = os.environ[HEAD].rpartition(":")
    tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NNODES"])
    os.environ.update(
        RANK=os.environ["SLURM_PROCID"], WORLD_SIZE=str(tasks), LOCAL_RANK=os.environ["SLURM_LOCALID"],
        LOCAL_WORLD_SIZE=str(tasks // nodes), MASTER_ADDR=host, MASTER_PORT=port,
    )  # fmt: skip
