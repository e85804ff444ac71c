"""Who is still there once a collective has failed: the survivors sign a list, and who has not is the cause."""

from __future__ import annotations

import os
import socket
import threading
import time
from datetime import timedelta

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

_PATIENCE = 5.0  # seconds between the first rank that notices and the last
_ANSWER = 5.0  # seconds in which the store answers, or its host is gone
_NAMED = 4  # ranks that a message names


class RollCall:
    """Every rank's node, and who of `size` ranks has noticed a loss, in the store that the ranks met by."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store = PrefixStore("seerctl-roll", store)
        self._store.set(f"node/{rank}", socket.gethostname())

    def missing(self, patience: float = _PATIENCE) -> str:
        """This rank has lost somebody: whom, as in "rank 1 on node b"; empty when all others have noticed as well.

        Takes `patience` seconds, and a few more when the store does not answer.
        """
        found = [f"rank 0 or the way to it (its store at {self._place()} does not answer)"]
        # A store whose host has stopped never answers, and its client has no timeout for that.
        asking = threading.Thread(target=lambda: found.__setitem__(slice(None), self._ask(patience)), daemon=True)
        asking.start()
        asking.join(patience + _ANSWER)
        return ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")

    def _ask(self, patience: float) -> list[str]:
        try:
            self._store.set_timeout(timedelta(seconds=_ANSWER))
            self._store.set(f"lost/{self.rank}", "1")
            time.sleep(patience)  # also keeps the store alive, where this rank hosts it
            gone = [rank for rank in range(self.size) if not self._store.check([f"lost/{rank}"])]
            return [f"rank {rank} on {self._store.get(f'node/{rank}').decode()}" for rank in gone]
        except DistError:
            return [f"rank 0 or the way to it (its store at {self._place()} is gone)"]

    @staticmethod
    def _place() -> str:
        return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
