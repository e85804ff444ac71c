"""Command lines, alone or piped into each other, that are killed at a chosen moment.

Every process is forked from one that has all modules, so that a kill falls into the work and not into imports. That one
also adopts whatever the killed leave running, and waits for it: processes that outlive their command are noticed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ZYGOTE = r"""
import ctypes, json, os, signal, sys, tempfile, time
import seerctl.commands.ingest, seerctl.commands.shard, seerctl.shards.drop, seerctl.shards.repair
import seerctl.shards.writer, seerctl.sources.decoders, seerctl.sources.ingest, seerctl.sources.known
import seerctl.sources.worker
from seerctl.cli import main

FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock", "mmap.__new__"}
PR_SET_CHILD_SUBREAPER = 36
tempfile.gettempdir()  # Python tries the directory once with a file of its own
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(number, order, pipe_in, pipe_out):
    child = os.fork()
    if child:
        return child
    os.setsid()
    standard = (pipe_in, pipe_out, os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    for place, descriptor in enumerate(standard):
        os.dup2(os.open(os.devnull, os.O_RDWR) if descriptor is None else descriptor, place)
    os.closerange(3, 100)
    touched, me, last = 0, os.getpid(), order["file"] if order["victim"] in (number, -1) else None

    def watch(event, arguments):
        nonlocal touched
        if event in FILES and os.getpid() == me:
            touched += 1
            if touched == last:
                os.kill(me, signal.SIGKILL)

    sys.addaudithook(watch)
    sys.argv = ["seerctl", *order["commands"][number]]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stdout.flush()
    last = None
    with open(f"{order['said']}.{number}", "w") as file:
        file.write(str(touched))
    os._exit(code)


def carry_out(order):
    count, before, children = len(order["commands"]), None, []
    started = time.monotonic()
    for number in range(count):
        reading, writing = os.pipe() if number + 1 < count else (None, None)
        children.append(start(number, order, before, writing))
        for descriptor in (before, writing):
            if descriptor is not None:
                os.close(descriptor)
        before = reading
    if order["after"] is not None:
        time.sleep(max(0.0, started + order["after"] - time.monotonic()))
        for number, child in enumerate(children):
            if order["victim"] in (number, -1):
                os.kill(child, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    seconds, deadline, left = time.monotonic() - started, time.monotonic() + 30, 1
    while left and time.monotonic() < deadline:
        try:
            left = 1 if os.waitpid(-1, os.WNOHANG)[0] else 2
        except ChildProcessError:
            left = 0
        if left == 2:
            time.sleep(0.005)
    return {"codes": codes, "seconds": seconds, "orphans": bool(left)}


print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(carry_out(json.loads(line))), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Kill:
    """When to kill which command of a pipeline (`victim`; -1 for all of them): after so many seconds, or at the
    `file`-th time that it opens, renames, removes or maps a file."""

    victim: int = 0
    after: float | None = None
    file: int | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """How each command of a pipeline ended (-9: killed), and how often each touched a file (0: killed)."""

    codes: tuple[int, ...]
    seconds: float
    touched: tuple[int, ...]
    said: str


class Runner:
    """Runs pipelines one after the other."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="zygote-")
        self.scratch = Path(self._place.name) / "tmp"  # the $TMPDIR of all commands
        self.scratch.mkdir()
        self._process = subprocess.Popen([sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, env={**os.environ, "TMPDIR": str(self.scratch)})  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def __call__(self, *arguments: object) -> int:
        """The exit code of one command, left alone."""
        return self.pipe([arguments]).codes[0]

    def pipe(self, commands: Sequence[Sequence[object]], kill: Kill | None = None) -> Ran:
        """Run commands, each writing into the next; nothing that they started is left running, nor files of theirs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said = Path(self._place.name) / "said"
        for path in said.parent.glob("said*"):
            path.unlink()
        kill = kill or Kill()
        order = {"commands": [[*map(str, command)] for command in commands], "said": str(said), "victim": kill.victim,
                 "after": kill.after, "file": kill.file}  # fmt: skip
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        counts = [said.with_name(f"said.{number}") for number in range(len(commands))]
        touched = tuple(int(path.read_text()) if path.is_file() else 0 for path in counts)
        assert not found["orphans"], commands
        assert list(self.scratch.iterdir()) == [], commands
        return Ran(tuple(found["codes"]), found["seconds"], touched, said.read_text() if said.is_file() else "")

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=30)
        self._place.cleanup()
