"""torchrun without its noise: ranks report their own errors, and this agent those of ranks that were killed."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from seerctl.train.launch import OUTCOME


def main() -> int:
    """`python -m seerctl.train.agent TORCHRUN-ARGUMENTS`: 0, 1 when a process failed, 143 when told to end.

    Where $SEERCTL_OUTCOME names a file, `FILE.killed` beside it gets one line a killed process: rank and signal.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    with contextlib.suppress(OSError, AttributeError):
        # Linux: when the process that started this one is killed, end the workers too.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    try:
        run(parse_args(sys.argv[1:]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _report_killed({rank: -failure.exitcode for rank, failure in error.failures.items() if failure.exitcode < 0})
        return 1
    except SignalException:
        return 143
    return 0


def _report_killed(signals: dict[int, int]) -> None:
    # The agent sends SIGTERM to the ranks that are left, and a collective that lost its peer may abort: consequences,
    # and the cause only where there is no other.
    secondary = (signal.SIGTERM, signal.SIGABRT)
    causes = {rank: number for rank, number in signals.items() if number not in secondary} or signals
    if causes and OUTCOME in os.environ:
        lines = [f"rank {rank} was killed by {signal.Signals(number).name}" for rank, number in sorted(causes.items())]
        Path(os.environ[OUTCOME] + ".killed").write_text("\n".join(lines), encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
