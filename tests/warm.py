"""`seerctl` processes without their imports: a server that has imported everything forks one for each call.

A command needs 1 to 3 seconds of processor time to import torch and scikit-learn, and the examples start a hundred.
Here a stub named `seerctl` hands its arguments, directory, environment and open files to the server, which forks: the
command still has a process of its own, its streams, its exit code and a `main` that runs to its end. Tests of signals,
kills and start-up use the installed command.
"""

from __future__ import annotations

import array
import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent
# Runs before any site-packages: 15 ms a call.
STUB = """#!{python} -IS
import array, json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
files = array.array("i", [0, 1, 2])
server.sendmsg([len(asked).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
server.sendall(asked)
for file in files:
    os.close(file)
status = int(server.recv(16) or 9)
if os.WIFSIGNALED(status):
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.waitstatus_to_exitcode(status))
"""


class Warm:
    """A directory for PATH whose `seerctl` is forked from a process that has imported everything; `close` ends it."""

    def __init__(self, where: Path) -> None:
        self.bin = where / "bin"
        self.bin.mkdir(parents=True)
        # sun_path holds 107 bytes, and pytest's directories may be longer: an abstract address has no directory.
        self.address = f"\0seerctl-warm-{os.getpid()}-{where.stat().st_ino}"
        stub = self.bin / "seerctl"
        stub.write_text(STUB.format(python=sys.executable, address=self.address))
        stub.chmod(0o755)
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", self.address[1:]], cwd=REPOSITORY,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self.server.terminate()
        self.server.wait()


def serve(address: str) -> None:
    import sklearn.linear_model
    import torch
    import torchvision

    from seerctl import cli

    assert all((torch, torchvision, sklearn))  # imported for those who come after
    for module, _ in (*cli.COMMANDS.values(), *cli.PROBES.values()):
        __import__(module.partition(":")[0])
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("\0" + address)
    listening.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # handlers are not waited for
    gc.freeze()  # a collection in a child would copy every page
    print("ready", flush=True)
    while True:
        caller, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _handle(caller)
        caller.close()


def _handle(caller: socket.socket) -> None:
    """Fork the command, tell the caller how it ended; returns in no process but the command's, at its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, ancillary, _, _ = caller.recvmsg(4, socket.CMSG_SPACE(12))
    files = array.array("i")
    files.frombytes(ancillary[0][2])
    asked = bytearray()
    while len(asked) < int.from_bytes(head, "big"):
        asked += caller.recv(65536)
    child = os.fork()
    if child == 0:
        caller.close()
        _become(files, *json.loads(asked))
    for file in (*files, 0, 1, 2):
        os.close(file)  # a pipe ends when its last writer has closed it
    _, status = os.waitpid(child, 0)
    caller.sendall(str(status).encode())
    os._exit(0)


def _become(files: array.array[int], arguments: list[str], directory: str, environment: dict[str, Any]) -> NoReturn:
    from seerctl.cli import main

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = ["seerctl", *arguments]
    code: object = 0
    try:
        main()
    except SystemExit as finished:
        code = finished.code
    except BaseException:
        traceback.print_exc()
        code = 1
    # What the interpreter does at its end, but for taking a thousand modules apart.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    serve(sys.argv[1])
