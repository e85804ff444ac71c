"""SLURM: a script that people can read, one `srun` task per GPU, a requeue after every saved stop.

Outside an allocation `submit` writes the script into the run directory and hands it to `sbatch`; the job then runs the
same command inside its allocation, where `run_srun` starts the ranks. What happens in `RUN/slurm` belongs to SLURM's
side of a run: `ID.sh`, `ID.log`, what a rank reported, and the exit code of the job.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seerctl.errors import EnvironmentFault, ExitCode, UsageError
from seerctl.files import atomic_write, blame
from seerctl.train.allocation import HEAD
from seerctl.train.launch import OUTCOME, Layout, raise_reported, wait_for
from seerctl.train.run import SLURM_FOLDER
from seerctl.train.signals import STOP_FILE

REQUEUE_SECONDS = 180  # before the time limit: SIGUSR2, after which ranks save and the job is requeued
_FIRST_PORT, _PORTS = 20000, 10000
_POLL_SECONDS = 2.0
_DOUBTS = 4  # times that a job has to look ended in a row
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
_OURS = {"nodes", "ntasks-per-node", "output", "open-mode", "signal", "requeue", "job-name"}
_OPTION = re.compile(r"[a-z][a-z-]*")


@dataclass(frozen=True, slots=True)
class SlurmOptions:
    """What a site wants: `options` are long options of sbatch without their dashes, `container` a Pyxis image."""

    options: Mapping[str, str] = field(default_factory=dict)
    container: str | None = None
    wait: bool = True


def parse_options(pairs: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` pairs for sbatch.

    Raises:
        UsageError: not of that form, or an option that seerctl sets itself.
    """
    found = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        key = key.replace("_", "-")
        if not sign or not _OPTION.fullmatch(key) or not value or "\n" in value:
            raise UsageError(f"--slurm {pair}: not KEY=VALUE", "Write --slurm qos=high: a long option of sbatch")
        if key in _OURS:
            raise UsageError(f"--slurm {pair}: seerctl sets '{key}' itself", "See --nodes and --gpus-per-node")
        found[key] = value
    return found


def script(plan: Layout, arguments: Sequence[str], run: Path, options: SlurmOptions, *, gpus: bool) -> str:
    """The batch script of a run; it may be edited and submitted by hand."""
    lines = {
        "job-name": f"seerctl-{run.name}", "nodes": str(plan.nodes), "ntasks-per-node": str(plan.per_node),
        **({"gpus-per-node": str(plan.per_node)} if gpus else {}), **options.options,
        "output": str(run / SLURM_FOLDER / "%j.log"), "open-mode": "append", "signal": f"USR2@{REQUEUE_SECONDS}",
    }  # fmt: skip
    directives = [f"#SBATCH --{key}={shlex.quote(value)}" for key, value in lines.items()]
    command = shlex.join([sys.executable, "-m", "seerctl", *arguments])
    done = shlex.quote(str(run / SLURM_FOLDER)) + '/"$SLURM_JOB_ID".exit'
    return "\n".join([
        "#!/bin/bash", *directives, "#SBATCH --requeue", "",
        f"cd {shlex.quote(str(Path.cwd()))}",
        command,
        "code=$?",
        f"# {int(ExitCode.SAVED)}: a checkpoint was saved after a signal, such as SLURM's before the time limit. The "
        "job starts again and goes on.",
        # A requeue ends this script, and may end scontrol before it can say so.
        f'if [ "$code" -eq {int(ExitCode.SAVED)} ]; then scontrol requeue "$SLURM_JOB_ID"',
        "  SECONDS=0; while [ $SECONDS -lt 60 ]; do sleep 1; done; fi",
        f'echo "$code" >{done}.tmp && mv {done}.tmp {done}',
        'exit "$code"', "",
    ])  # fmt: skip


def submit(plan: Layout, arguments: Sequence[str], run: Path, options: SlurmOptions, *, gpus: bool) -> str:
    """Write the script of a run into its directory and submit it; the number of the job.

    Raises:
        EnvironmentFault: sbatch refused it.
    """
    run = run.absolute()
    folder = run / SLURM_FOLDER
    with blame(folder):
        folder.mkdir(parents=True, exist_ok=True)
    text = script(plan, arguments, run, options, gpus=gpus)
    draft = folder / "job.sh"
    with atomic_write(draft, "w") as file:
        file.write(text)
    done = subprocess.run(["sbatch", "--parsable", str(draft)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"exit {done.returncode}"
        raise EnvironmentFault(f"sbatch did not take {draft}: {why}", "Set --partition, --account or --slurm KEY=VALUE")
    job = done.stdout.strip().partition(";")[0]
    draft.rename(folder / f"{job}.sh")
    return job


def follow(job: str, run: Path, tell: Callable[[str], None], poll: float = _POLL_SECONDS) -> None:
    """Wait until a job has ended, passing on what it logs.

    Raises:
        SeerctlError: what a rank reported, with its exit code; EnvironmentFault when the job ended otherwise.
    """
    folder = run.absolute() / SLURM_FOLDER
    log, ended = folder / f"{job}.log", folder / f"{job}.exit"
    seen = doubts = 0
    while True:
        state = _state(job)
        # The script's own word is certain; a job that is being requeued may look cancelled for a moment.
        doubts = doubts + 1 if state in _ENDED or state is None else 0
        over = ended.exists() or doubts > _DOUBTS
        seen = _pass_on(log, seen, tell)
        if over:
            break
        time.sleep(poll)
    code = int(ended.read_text(encoding="ascii")) if ended.exists() else None
    if code == 0:
        return
    outcome = folder / f"{job}.outcome"
    raise_reported(outcome, Path(f"{outcome}.killed"), code)
    how = f"exit {code}" if code is not None else (state or "it is gone").lower().replace("_", " ")
    raise EnvironmentFault(f"SLURM job {job} ended without a result ({how})", f"See {log}; start again to go on")


def _state(job: str) -> str | None:
    """What SLURM says of a job; None when it does not know it any more."""
    done = subprocess.run(["scontrol", "show", "job", job, "-o"], capture_output=True, text=True, check=False)  # noqa: S603, S607
    found = re.search(r"\bJobState=(\w+)", done.stdout)
    if found is None and "Invalid job id" not in done.stderr:
        return "UNKNOWN"  # the controller does not answer just now
    return found[1] if found else None


def _pass_on(log: Path, seen: int, tell: Callable[[str], None]) -> int:
    """Tell the whole lines of `log` behind byte `seen`; where the next ones begin."""
    if not log.exists():
        return seen
    with log.open("rb") as file:
        file.seek(seen)
        *lines, _ = file.read().split(b"\n")
    for line in lines:
        tell(line.decode("utf-8", "replace"))
    return seen + sum(len(line) + 1 for line in lines)


def run_srun(plan: Layout, arguments: Sequence[str], run: Path, options: SlurmOptions, *, gpus: bool) -> None:
    """Inside an allocation: run `seerctl ARGUMENTS` as one task per GPU and wait.

    Raises:
        UsageError: the allocation has fewer nodes.
        SeerctlError: what a task reported; EnvironmentFault when one was lost.
    """
    here = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if plan.nodes > here:
        raise UsageError(f"--nodes {plan.nodes}: the allocation has {here}", "Ask SLURM for more, or use fewer")
    job = os.environ["SLURM_JOB_ID"]
    folder = run.absolute() / SLURM_FOLDER
    with blame(folder):
        folder.mkdir(parents=True, exist_ok=True)
    outcome, stop = folder / f"{job}.outcome", folder / f"{job}.stop"
    killed = Path(f"{outcome}.killed")
    for left in (outcome, stop, killed):  # of the job's life before a requeue
        left.unlink(missing_ok=True)
    environment = {**os.environ, OUTCOME: str(outcome), STOP_FILE: str(stop), HEAD: f"{_first_node()}:{_port(job)}"}
    watch = _Losses(killed)
    code = wait_for([*_srun(plan, options, gpus=gpus), *arguments], environment, stop, watch)
    raise_reported(outcome, killed, code)
    if code:
        raise EnvironmentFault(f"srun ended with exit {code}", "Start again to go on from what was saved")


def _srun(plan: Layout, options: SlurmOptions, *, gpus: bool) -> list[str]:
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")  # srun does not take it over since SLURM 22.05
    return [
        "srun", f"--nodes={plan.nodes}", f"--ntasks-per-node={plan.per_node}", "--kill-on-bad-exit=1",
        *([f"--cpus-per-task={cpus}"] if cpus else []),
        *([f"--gpus-per-node={plan.per_node}", "--gpu-bind=none"] if gpus else []),
        *([f"--container-image={options.container}"] if options.container else []),
        "python" if options.container else sys.executable, "-m", "seerctl",
    ]  # fmt: skip


class _Losses:
    """Reads srun's own complaints for tasks that were killed, and leaves them where `raise_reported` looks."""

    _LINE = re.compile(r"srun: error: (\S+): tasks? ([\d,-]+): (Killed|Segmentation fault|Out Of Memory|Bus error)")

    def __init__(self, place: Path) -> None:
        self._place = place

    def __call__(self, line: str) -> None:
        """One line of standard error."""
        found = self._LINE.search(line)
        if found and not self._place.exists():
            self._place.write_text(f"rank {found[2]} on {found[1]} was lost ({found[3]})", encoding="ascii")


def _first_node() -> str:
    """The address of the allocation's first node, where rank 0 runs."""
    names = os.environ.get("SLURM_JOB_NODELIST", "")
    first = _scontrol("show", "hostnames", names).split("\n", 1)[0]
    address = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", first, "-o"))
    return address[1] if address else first


def _scontrol(*arguments: str) -> str:
    done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode:
        raise EnvironmentFault(f"scontrol {shlex.join(arguments)}: {' '.join(done.stderr.split())}",
                               "Is this allocation still alive?")  # fmt: skip
    return done.stdout


def _port(job: str) -> int:
    """A port that jobs beside this one on the same node do not use, nor anybody else here, where rank 0 will run."""
    for attempt in range(_PORTS):
        port = _FIRST_PORT + (int(job) + attempt) % _PORTS
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise EnvironmentFault("no port is free for the first rank", "Ask for another node")
