"""What people see: messages and progress on stderr, results on stdout, nothing else anywhere."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import BinaryIO, cast

import click

from seerctl.errors import UsageError

HEARTBEAT_SECONDS = 30.0
_PIPE_BYTES = 1 << 20  # what Linux grants without privileges

_log = logging.getLogger("seerctl")
_state = {"verbosity": 0}


class _Formatter(logging.Formatter):
    """`seerctl: message`, with the level only where it matters."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"seerctl: {level}{record.getMessage()}"


class _Handler(logging.Handler):
    """Writes through tqdm while a bar is up, so that messages and bars do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        tqdm = sys.modules.get("tqdm")
        if tqdm is not None and sys.stderr.isatty():
            tqdm.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


def set_verbosity(verbosity: int) -> None:
    """0 shows results of interest, -1 warnings only, -2 errors only, 1 and more details (`-v` minus `-q`)."""
    _state["verbosity"] = verbosity
    handler = _Handler()
    handler.setFormatter(_Formatter())
    _log.handlers[:] = [handler]
    _log.propagate = False
    levels = {-1: logging.WARNING, 0: logging.INFO}
    _log.setLevel(levels.get(verbosity, logging.DEBUG if verbosity > 0 else logging.ERROR))


def debugging() -> bool:
    """Whether errors show their traceback: `-vv` or SEERCTL_DEBUG=1."""
    return _state["verbosity"] >= 2 or os.environ.get("SEERCTL_DEBUG", "") not in ("", "0")


def error(message: str) -> None:
    """The one line of a failed command, shown at any verbosity."""
    _log.error(message)


def say(message: str) -> None:
    """One line on stderr, unless `-q`."""
    _log.info(message)


def warn(message: str) -> None:
    """One warning line on stderr, also under one `-q`."""
    _log.warning(message)


class Progress:
    """A tqdm bar on a terminal, a line every 30 s elsewhere, silence under `-q`: call it with how much more was done.

    Library functions take it as a plain `Callable[[int], None]`.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "images") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.started = self._spoke = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and _log.isEnabledFor(logging.INFO):
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=what, unit=f" {unit}", file=sys.stderr, leave=False, unit_scale=True)

    def __call__(self, amount: int = 1) -> None:
        self.done += amount
        if self._bar is not None:
            self._bar.update(amount)
            return
        now = time.monotonic()
        if now - self._spoke >= HEARTBEAT_SECONDS:
            self._spoke = now
            of = f" of {self.total:,}" if self.total else ""
            say(f"{self.what}: {self.done:,}{of} {self.unit}, {self.rate:,.0f}/s")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return self.done / self.seconds

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def emit(result: Mapping[str, object], output_format: str, text: str) -> None:
    """Print a result on stdout: `text` for people, one JSON object (`json`) or one JSON line (`jsonl`) for scripts."""
    if output_format == "text":
        click.echo(text)
    else:
        from seerctl.files import json_text

        click.echo(json_text(result, indent=2 if output_format == "json" else None))


@contextlib.contextmanager
def binary_stdout(command: str) -> Iterator[BinaryIO]:
    """Standard output for bytes, flushed at the end; what is written is written whole or raises.

    Raises:
        UsageError: it is a terminal.
    """
    if sys.stdout.isatty():
        raise UsageError(
            f"{command}: binary output to a terminal", f"Pipe it on ('{command} ... | ...') or pass -o FILE"
        )
    buffer = sys.stdout.buffer
    if not isinstance(buffer, io.RawIOBase):
        yield buffer
        buffer.flush()
        return
    # Unbuffered (python -u, PYTHONUNBUFFERED): a write may take a part, and says so by its return value only.
    stream = io.BufferedWriter(buffer)
    try:
        yield cast(BinaryIO, stream)
        stream.flush()
    finally:
        with contextlib.suppress(OSError):  # flush has said it
            stream.detach()


def binary_stdin(command: str) -> BinaryIO:
    """Standard input for bytes.

    Raises:
        UsageError: it is a terminal, or it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError(f"{command}: standard input is closed")
    if sys.stdin.isatty():
        raise UsageError(f"{command}: no input", f"Pipe something into it ('... | {command}') or name a file")
    _widen(sys.stdin.buffer)
    return sys.stdin.buffer


def _widen(pipe: BinaryIO) -> None:
    """Let a pipe hold more than 64 KiB, where the system does that: its two ends take turns less often."""
    import fcntl

    with contextlib.suppress(AttributeError, OSError, ValueError):  # no pipe, no file at all, or over a quota
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def silence_stdout() -> None:
    """Point stdout at /dev/null, so that the interpreter's last flush does not fail on a closed pipe."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
