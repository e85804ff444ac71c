"""torchrun whose exit code is the run's: `python -m seerctl.train.torchrun TORCHRUN-ARGUMENTS`.

torchrun ends with 1 whatever its ranks ended with, and kills them 30 s after a signal, when a checkpoint may not yet be
written. What `seerctl pretrain --launcher print` prints is this.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from seerctl.errors import SeerctlError
from seerctl.train.launch import run_agent


def main(arguments: Sequence[str]) -> int:
    """Run the ranks of this node and wait: 0, or the documented exit code of what they reported, said in one line."""
    try:
        run_agent(arguments)
    except SeerctlError as error:
        sys.stderr.write(f"seerctl: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
