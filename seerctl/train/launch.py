"""From one command to all processes of a run: this one, torchrun's on this machine, or the commands to type on each.

Children report through a file (`SEERCTL_OUTCOME`), because torchrun's exit code is not its workers'; they are asked to
stop through another (`SEERCTL_STOP_FILE`), because torchrun kills them 30 s after a signal and a checkpoint may take
longer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

from seerctl.errors import EnvironmentFault, ExitCode, SeerctlError, UsageError
from seerctl.train.allocation import has_sbatch, in_allocation
from seerctl.train.signals import STOP_FILE

Launcher = Literal["auto", "local", "torchrun", "slurm", "print"]
OUTCOME = "SEERCTL_OUTCOME"
GPUS_OF_A_NODE = 8  # assumed where several nodes are asked for and this machine has no GPU
PORT = 29500
_AGAIN = "Start again to go on from what was saved"


@dataclass(frozen=True, slots=True)
class Layout:
    """How many processes run where, and who starts them: nobody (this process), torchrun, SLURM, or the user."""

    nodes: int
    per_node: int
    start: Literal["here", "torchrun", "srun", "sbatch", "print"]

    @property
    def ranks(self) -> int:
        """All processes."""
        return self.nodes * self.per_node


def layout(launcher: Launcher, nodes: int, per_node: int | None, gpus: int, *, dry_run: bool = False) -> Layout:
    """What to start, from the options and the `gpus` of this machine.

    Raises:
        UsageError: several nodes without a way to reach them, or options that contradict each other.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        ranks, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return Layout(ranks // local, local, "here")
    count = per_node or gpus or (GPUS_OF_A_NODE if nodes > 1 else 1)
    if launcher == "print":
        return Layout(nodes, count, "print")
    slurm = _slurm(launcher, nodes * count, nodes)
    if slurm is not None and not dry_run:
        return Layout(nodes, count, slurm)
    if nodes > 1 and not dry_run:
        raise UsageError(
            f"--nodes {nodes}: this process is in no allocation of several nodes",
            "--launcher print shows the command to run on each of them",
        )
    if launcher == "local" and count > 1 and not dry_run:
        raise UsageError(f"--launcher local runs one process, not {count}", "Use --launcher torchrun")
    return Layout(nodes, count, "torchrun" if launcher == "torchrun" or count > 1 else "here")


def _slurm(launcher: Launcher, ranks: int, nodes: int) -> Literal["srun", "sbatch"] | None:
    """SLURM's way of starting, where it is asked for or is the way to go: one node runs where it is."""
    if launcher not in ("auto", "slurm"):
        return None
    if in_allocation() and (ranks > 1 or launcher == "slurm"):
        return "srun"
    if has_sbatch() and (nodes > 1 or launcher == "slurm"):
        return "sbatch"
    if launcher == "slurm":
        raise UsageError("--launcher slurm: there is no sbatch here", "Run it on a login node, or --launcher print")
    return None


def commands(plan: Layout, arguments: Sequence[str]) -> list[str]:
    """The shell command of every node, first node first; $HEAD stands for the first node's address.

    They are torchrun's in all but the exit code, which is the run's.
    """
    job = shlex.join(["-m", "seerctl", *arguments])
    torchrun = "python -m seerctl.train.torchrun"
    if plan.nodes == 1:
        return [f"{torchrun} --standalone --nproc-per-node {plan.per_node} {job}"]
    # Static: a c10d rendezvous takes itself for the host only by names that resolve, which addresses here may not.
    return [
        f"{torchrun} --nnodes {plan.nodes} --node-rank {node} --nproc-per-node {plan.per_node}"
        f' --master-addr "$HEAD" --master-port {PORT} {job}'
        for node in range(plan.nodes)
    ]


def run_torchrun(plan: Layout, arguments: Sequence[str]) -> None:
    """Run `seerctl ARGUMENTS` as `plan.per_node` processes of this machine and wait.

    Raises:
        SeerctlError: what a process reported (the class with its exit code); EnvironmentFault when one was lost.
    """
    run_agent(["--standalone", "--nproc-per-node", str(plan.per_node), "-m", "seerctl", *arguments])


def run_agent(arguments: Sequence[str]) -> None:
    """Run the processes that torchrun's `arguments` ask for on this machine and wait.

    Raises:
        SeerctlError: as `run_torchrun`.
    """
    with tempfile.TemporaryDirectory(prefix="seerctl-") as folder:
        outcome, stop = Path(folder) / "outcome.json", Path(folder) / "stop"
        environment = {**os.environ, OUTCOME: str(outcome), STOP_FILE: str(stop)}
        if "--standalone" in arguments:
            # A restarted worker must not read the old one's addresses. (A static rendezvous has no other store.)
            environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // _processes(arguments))))
        code = wait_for([sys.executable, "-m", "seerctl.train.agent", *arguments], environment, stop)
        raise_reported(outcome, Path(f"{outcome}.killed"), code)
    if code:
        raise EnvironmentFault("a process was lost", _AGAIN)


def _processes(arguments: Sequence[str]) -> int:
    """How many processes torchrun's `arguments` ask for on this node; 1 where they do not say it in digits."""
    found = re.search(r"--nproc[-_]per[-_]node[ =](\d+) ", " ".join(arguments) + " ")
    return max(1, int(found[1])) if found else 1


def wait_for(
    command: Sequence[str], environment: dict[str, str], stop: Path, watch: Callable[[str], None] | None = None
) -> int:
    """Run `command` and return its exit code; signals become the file `stop`, which asks its ranks to save and end.

    `watch` hears the lines of its standard error, which are passed on.
    """
    # A session of its own: signals of the terminal reach this process alone, which passes them on as a request.
    errors = subprocess.PIPE if watch else None
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=errors)  # noqa: S603 - our own
    listener = threading.Thread(target=_listen, args=(process.stderr, watch), daemon=True)
    if watch:
        listener.start()

    def ask(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and stop.exists():
            os.killpg(process.pid, signal.SIGKILL)
            raise KeyboardInterrupt
        stop.write_text(signal.Signals(number).name, encoding="ascii")

    names = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    before = {name: signal.signal(name, ask) for name in names}
    try:
        code = process.wait()
        if watch:
            listener.join(timeout=5)
        return code
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _listen(errors: IO[bytes], watch: Callable[[str], None]) -> None:
    for line in errors:
        sys.stderr.write(text := line.decode("utf-8", "replace"))
        sys.stderr.flush()
        watch(text)


def quiet_rank() -> None:
    """In a process of `run_agent`: outside the loop SIGTERM, which the agent sends to survivors, ends it at once.

    The command line's handler raises instead, and would do so in the middle of the interpreter's own end.
    """
    if OUTCOME in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def report_outcome(error: SeerctlError) -> bool:
    """Leave `error` for the process that started the ranks, the first of an attempt; False when nobody waits for it."""
    place = os.environ.get(OUTCOME)
    if place is None:
        return False
    report = {"exit_code": int(error.exit_code), "message": error.message, "hint": error.hint, "attempt": _attempt()}
    if _read(Path(place)).get("attempt", _attempt()) != _attempt():
        Path(place).unlink(missing_ok=True)
    with contextlib.suppress(FileExistsError), Path(place).open("x", encoding="utf-8") as file:
        json.dump(report, file)
    return True


def _attempt() -> str:
    """Which start of this process it is; torchrun's --max-restarts makes several."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def raise_reported(outcome: Path, killed: Path, code: int | None) -> None:
    """The cause of the end, if any is known: a killed rank before what the ranks that lost it say.

    `code`: what the processes ended with. With 0, what was reported of failures was mended by a restart; ranks that
    saved or diverged together end with 0.
    """
    report = _read(outcome)
    if code == 0 and report.get("exit_code") not in (ExitCode.SAVED, ExitCode.DIVERGED):
        return
    if killed.exists() and report.get("exit_code") in (None, ExitCode.ENVIRONMENT):
        first = killed.read_text(encoding="ascii").splitlines()[0]
        raise EnvironmentFault(first, _AGAIN)
    if report:

        class Reported(SeerctlError):
            exit_code = ExitCode(report["exit_code"])

        raise Reported(report["message"], report["hint"])


def _read(outcome: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(outcome.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none, or its writer was killed over it
        return {}
    return report
