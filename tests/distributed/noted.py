"""`seerctl`, with notes: `python -m tests.distributed.noted ARGUMENTS` appends every step's keys to $NOTES."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from seerctl.train.data import CropBatch
from seerctl.train.trainer import Trainer


def note_keys(path: Path, rank: int, ranks: int, pause: float = 0.0) -> None:
    """From now on this process notes the keys of every step that it begins, and takes `pause` seconds more for it."""
    forward_backward = Trainer.forward_backward

    def noted(self: Trainer, batch: CropBatch) -> Any:
        time.sleep(pause)
        with path.open("a") as file:
            file.write(json.dumps({"step": batch.step, "rank": rank, "ranks": ranks, "keys": batch.keys}) + "\n")
        return forward_backward(self, batch)

    Trainer.forward_backward = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    from seerctl.cli import main

    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    note_keys(Path(os.environ["NOTES"]), rank, ranks, float(os.environ.get("PAUSE", "0")))
    main()
