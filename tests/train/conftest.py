"""Fixtures of the training tests."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Messages of seerctl's logger, whatever a command line run before made of it."""
    monkeypatch.setattr(logging.getLogger("seerctl"), "propagate", True)
    caplog.set_level(logging.INFO, logger="seerctl")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "seerctl"]
