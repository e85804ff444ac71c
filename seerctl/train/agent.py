"""torchrun without its noise: the ranks report their own errors, so the agent's report of them would only repeat it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main() -> int:
    """`python -m seerctl.train.agent TORCHRUN-ARGUMENTS`: 0, 1 when a process failed, 143 when told to end."""
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    with contextlib.suppress(OSError, AttributeError):
        # Linux: when the process that started this one is killed, end the workers too.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    try:
        run(parse_args(sys.argv[1:]))  # type: ignore[no-untyped-call]
    except ChildFailedError:
        return 1
    except SignalException:
        return 143
    return 0


if __name__ == "__main__":
    sys.exit(main())
