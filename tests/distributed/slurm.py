"""A real SLURM of two nodes on this machine: munged, slurmctld and two slurmd on loopback, as root."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=2000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=2000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no SLURM here, or None."""
    if os.geteuid() != 0:
        return "SLURM's daemons need root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"no {', '.join(absent)} (Debian: slurm-wlm munge)" if absent else None


@contextlib.contextmanager
def cluster(place: Path) -> Iterator[Path]:
    """Run it in `place`; the path of its slurm.conf, for $SLURM_CONF."""
    for name in ("munge", "state", "n1", "n2"):
        (place / name).mkdir(parents=True)
    key = place / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    configuration = place / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(place=place, ports=_free_ports(3)))
    files = {name: str(place / "munge" / name) for name in ("socket", "pid", "log", "seed")}
    commands = [
        ["munged", "--force", "--key-file", str(key), "--socket", files["socket"], "--pid-file", files["pid"],
         "--log-file", files["log"], "--seed-file", files["seed"]],
        ["slurmctld", "-f", str(configuration)],
        *(["slurmd", "-f", str(configuration), "-N", node] for node in ("n1", "n2")),
    ]  # fmt: skip
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        _wait_until_idle(configuration)
        yield configuration
        _cancel_all(configuration)
    finally:
        for name in ("n1.pid", "n2.pid", "slurmctld.pid", "munge/pid"):
            _stop(place / name)


def _cancel_all(configuration: Path, seconds: float = 30) -> None:
    """Leave no job behind, whatever a test did."""
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    subprocess.run(["scancel", "--user=root"], env=environment, check=False)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True, check=False)
        if not found.stdout.strip():
            return
        time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_until_idle(configuration: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False,
                               env={**os.environ, "SLURM_CONF": str(configuration)})  # fmt: skip
        if found.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    raise TimeoutError(f"SLURM did not come up: {found.stdout} {found.stderr}")


def _stop(pid_file: Path, seconds: float = 10) -> None:
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
