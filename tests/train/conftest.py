"""Fixtures of the training tests."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from seerctl.console import set_verbosity


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Lines that seerctl wrote to stderr since the last call, as without -v and -q."""
    set_verbosity(0)

    def lines() -> list[str]:
        return capsys.readouterr().err.splitlines()

    return lines


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Messages of seerctl's logger, whatever a command line run before made of it."""
    monkeypatch.setattr(logging.getLogger("seerctl"), "propagate", True)
    caplog.set_level(logging.INFO, logger="seerctl")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "seerctl"]
