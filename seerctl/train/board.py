"""TensorBoard's view of a run: the numbers of `metrics.jsonl` as event files. Needs the `tensorboard` extra."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seerctl.errors import UsageError
from seerctl.files import blame


class Board:
    """Event files in `folder`, written anew from the `rows` that there are, then row by row."""

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        with blame(folder):
            shutil.rmtree(folder, ignore_errors=True)
            self._writer = _writer_class()(str(folder))
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a metrics row at its step."""
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Let go of the file."""
        self._writer.close()


def check_installed() -> None:
    """Nothing, if TensorBoard is there.

    Raises:
        UsageError: it is not.
    """
    _writer_class()


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - takes a second that few runs need
    except ImportError:
        raise UsageError(
            "watch.tensorboard needs the package tensorboard", "pip install 'seerctl[tensorboard]'"
        ) from None
    return SummaryWriter
