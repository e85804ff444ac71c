"""Every way a command can end badly: one exception class per documented exit code."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every subcommand; the table in the README is tested against this one."""

    DONE = 0
    BUG = 1
    USAGE = 2
    GATE = 3
    INPUT = 4
    REJECTS = 5
    INCONCLUSIVE = 6
    ENVIRONMENT = 7
    DIVERGED = 8
    SAVED = 75
    INTERRUPTED = 130
    PIPE = 141
    TERMINATED = 143


class SeerctlError(Exception):
    """An expected failure: `message` names the file and the fault, `hint` the next thing to try."""

    exit_code = ExitCode.BUG

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return one_line(f"{self.message}. {self.hint}" if self.hint else self.message)


class UsageError(SeerctlError):
    """Wrong arguments, a wrong recipe, policy or project file, or output that exists already."""

    exit_code = ExitCode.USAGE


class GateFailed(SeerctlError):
    """A gate said no (`audit`, `probe --min`), or a plan does not fit."""

    exit_code = ExitCode.GATE


class Inconclusive(SeerctlError):
    """A gate could not tell: nothing surely failed, but something may have."""

    exit_code = ExitCode.INCONCLUSIVE


class InputError(SeerctlError):
    """Input that is incomplete, corrupt or empty."""

    exit_code = ExitCode.INPUT


class RejectLimit(SeerctlError):
    """Done, but more samples were rejected than `--max-reject-rate` allows."""

    exit_code = ExitCode.REJECTS


class EnvironmentFault(SeerctlError):
    """The machine's fault: disk full, permission, network, a lost rank or a timeout."""

    exit_code = ExitCode.ENVIRONMENT


class Diverged(SeerctlError):
    """Training produced a non-finite number."""

    exit_code = ExitCode.DIVERGED


class Saved(SeerctlError):
    """Training saved a checkpoint after a signal: the same command goes on from there."""

    exit_code = ExitCode.SAVED


class Terminated(SeerctlError):
    """SIGTERM."""

    exit_code = ExitCode.TERMINATED


def one_line(text: str) -> str:
    """`text` with control characters escaped: names come from strangers, and a terminal obeys what it is sent."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint naming the closest known word, or all of them when none is close."""
    import difflib  # here: a millisecond that only mistakes need

    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(names)}"
