"""SwAV's small crops at their own size against padded ones, as in SEER's released recipe: forward and backward."""

from __future__ import annotations

from typing import Any

import torch

from seerctl.model.heads import SwAVHead, SwAVModel
from seerctl.model.sizes import SIZES
from seerctl.model.trunk import build_trunk
from seerctl.train.objectives.swav import SwAV
from tests.bench.measure import in_turn

BATCH = 8


def run() -> list[dict[str, Any]]:
    torch.manual_seed(0)
    size = SIZES["400mf"]
    model = SwAVModel(build_trunk(size), SwAVHead(size.widths[-1], (512, 128), 300))
    model = model.to(memory_format=torch.channels_last).train()
    crops = [torch.randn(count * BATCH, 3, pixels, pixels) for count, pixels in ((2, 160), (4, 96))]
    crops = [kind.contiguous(memory_format=torch.channels_last) for kind in crops]
    options = {"temperature": 0.1, "epsilon": 0.03, "iterations": 10, "freeze_prototypes": 0}
    own, pad = SwAV(**options), SwAV(**options, pad=True)  # type: ignore[arg-type]
    seconds, padded = in_turn(
        lambda: own.accumulate(model, crops, BATCH, measure=False),
        lambda: pad.accumulate(model, crops, BATCH, measure=False),
        repeats=5,
        cpu=True,
    )
    return [
        {
            "name": "small_crops", "ours": BATCH / seconds, "peer": BATCH / padded, "ratio": padded / seconds,
            "unit": "images/s of processor time", "peer_name": "small_crops = pad",
            "note": "RegNetY-400MF, 2 x 160 + 4 x 96 px, float32; 1.74 by the count of operations",
        }
    ]  # fmt: skip
