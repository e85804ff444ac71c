"""The command line in this process, with the exit codes and messages that a shell would see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from seerctl.cli import run


@dataclass(frozen=True)
class Done:
    """What a shell would have seen."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`cli("audit", "--fairness", ...)`, through the same function as the `seerctl` entry point."""

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Done(code, *capfd.readouterr())

    return call
