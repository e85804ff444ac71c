"""A polite stop: signals and a stop file become a flag that the loop reads between steps."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType

STOP_FILE = "SEERCTL_STOP_FILE"  # set by the launcher: a file whose appearance asks every rank to save and end
_NAMES = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def stop_request() -> str | None:
    """What asks this process by the launcher's file to save and end, or None."""
    place = os.environ.get(STOP_FILE)
    if place is None or not os.path.exists(place):  # noqa: PTH110 - asked for after every step
        return None
    return Path(place).read_text(encoding="ascii").strip() or "a stop request"


class StopSignals:
    """While open, SIGTERM, SIGINT and SIGUSR2 set `reason`; a second SIGINT raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def reason(self) -> str | None:
        """Why to stop, or None to go on."""
        self._reason = self._reason or stop_request()
        return self._reason

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _NAMES}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self._reason is not None:
            raise KeyboardInterrupt
        self._reason = signal.Signals(number).name
