"""`metrics.jsonl`: one JSON object a logged step, the truth about a run; and what its numbers mean in plain words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seerctl.files import blame, commit

# Beyond these, training has most likely collapsed; each is far from what healthy runs show.
UNIFORM_WITHIN = 0.005  # |loss / ln K - 1|: what uniform predictions cost; early losses lie above
LOW_SPREAD = 0.05  # feature_std: all projections point the same way
LOW_USE = 0.10  # prototype_entropy: a handful of prototypes takes all samples

SUSPICIOUS_ROWS = 5  # rows in a row that must look so before it is said


class Metrics:
    """Appends rows to a JSON-lines file, each on the disk's way before the next step begins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; a number that is not finite becomes null."""
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        with blame(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean, allow_nan=False) + "\n")

    def truncate(self, step: int) -> None:
        """Drop the rows after `step`, and a torn last one, so that no step stands twice after a resume."""
        kept: list[bytes] = []
        with blame(self.path):
            if not self.path.exists():
                return
            for line in self.path.read_bytes().splitlines(keepends=True):
                row_step = _step_of(line)
                if row_step is None or row_step > step:
                    break
                kept.append(line)
            temporary = self.path.with_name(self.path.name + ".tmp")
            temporary.write_bytes(b"".join(kept))
            commit(temporary, self.path)

    def rows(self) -> list[dict[str, Any]]:
        """All rows; none where there is no file yet."""
        with blame(self.path):
            if not self.path.exists():
                return []
            return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


def _step_of(line: bytes) -> int | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return None


def collapse(row: Mapping[str, Any]) -> str | None:
    """What a metrics row says about collapse, in plain words; None when it looks healthy."""
    remedy = "Lower loss.epsilon or optim.lr, freeze the prototypes longer, or use a larger batch"
    if abs(row["loss_over_ln_k"] - 1) < UNIFORM_WITHIN:
        return (
            f"step {row['step']}: the loss is {row['loss_over_ln_k']:.3f} of ln K: the model predicts all prototypes "
            f"alike, so nothing is learnt. {remedy}"
        )
    if row.get("feature_std", 1.0) < LOW_SPREAD:
        return (
            f"step {row['step']}: all images get nearly the same projection (spread {row['feature_std']:.3f} of 1): "
            f"the model has collapsed. {remedy}"
        )
    if row.get("prototype_entropy", 1.0) < LOW_USE:
        return (
            f"step {row['step']}: a few prototypes take all images (use {row['prototype_entropy']:.3f} of 1): "
            f"the model is collapsing. {remedy}"
        )
    return None
