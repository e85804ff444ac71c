"""A training step with its data, one core: the trainer against lightly's transform, head and loss in a plain loop."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss import SwaVLoss
from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
from lightly.transforms import SwaVTransform
from PIL import Image
from torch import Tensor, nn

from seerctl.cli import run as seerctl
from seerctl.model.sizes import size_named
from seerctl.model.trunk import build_trunk
from seerctl.recipe import Recipe, load_recipe
from seerctl.shards.index import ShardSet
from seerctl.train.run import RunDirectory
from seerctl.train.trainer import Trainer
from seerctl.train.world import World, computes_in_bf16
from tests.bench.bench_multicrop import jpegs
from tests.bench.measure import in_turn

BATCH, HEAD, PROTOTYPES = 32, 512, 512
# The trunk of the CPU recipes, where data weighs most; one that is all convolutions, also with parallel.compile against
# the same loop: (size, repeats, settings of ours).
CASES = {
    "pico": ("pico", 5, ()),
    "400mf": ("400mf", 3, ()),
    "400mf_compiled": ("400mf", 3, ("parallel.compile=true",)),
}
BIG, SMALL = 96, 48
SETTINGS = (
    f"model.head=[{HEAD}, 128]", "model.head_batchnorm=true", f"model.prototypes={PROTOTYPES}",
    f"data.batch={BATCH}", "data.workers=0", "run.device=cpu", "schedule.steps=1000000",
    f"augment.crops=[{{size={BIG}, count=2, scale=[0.14, 1.0]}}, {{size={SMALL}, count=4, scale=[0.05, 0.14]}}]",
    "augment.brightness=0.8", "augment.contrast=0.8", "augment.saturation=0.8", "augment.hue=0.2", "augment.blur=0.5",
)  # fmt: skip


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    logging.getLogger("seerctl").setLevel(logging.ERROR)
    precision = "bf16" if computes_in_bf16(torch.device("cpu")) else "float32"
    results = []
    for name, (size, repeats, more) in CASES.items():
        recipe = load_recipe("nano", [f"model.size={size}", *SETTINGS, *more])
        with tempfile.TemporaryDirectory() as folder:
            ours, peer = in_turn(_ours(recipe, Path(folder)), _peer(recipe), repeats, cpu=True)
        results.append(
            {
                "name": f"train_step_{name}", "ours": BATCH / ours, "peer": BATCH / peer, "ratio": peer / ours,
                "unit": "images/s/core", "peer_name": "lightly in a plain loop",
                "note": f"2x{BIG} + 4x{SMALL} from 500x375 JPEGs, batch {BATCH}, both {precision}, channels last",
            }
        )  # fmt: skip
    return results


def _ours(recipe: Recipe, folder: Path) -> Callable[[], object]:
    """A step of the trainer on a shard set of the pictures."""
    (folder / "pictures").mkdir()
    for number, data in enumerate(jpegs()):
        (folder / "pictures" / f"{number}.jpg").write_bytes(data)
    assert seerctl(["-q", "ingest", str(folder / "pictures"), "-o", str(folder / "stream.tar")]) == 0
    assert seerctl(["-q", "shard", str(folder / "stream.tar"), "-o", str(folder / "shards")]) == 0
    trainer = Trainer(recipe, ShardSet.open(folder / "shards"), RunDirectory(folder / "run"), World())
    trainer.model.train()
    batches = trainer._batches()

    def step() -> None:
        trainer.update(trainer.forward_backward(next(batches)))

    return step


def _peer(recipe: Recipe) -> Callable[[], object]:
    """A step of lightly's SwAV example, with what a careful user adds: channels-last memory, bf16 where it is fast."""
    transform = SwaVTransform(
        crop_sizes=(BIG, SMALL), crop_counts=(2, 4), crop_min_scales=(0.14, 0.05), crop_max_scales=(1.0, 0.14)
    )
    size = size_named(recipe.model.size)
    parts = {
        "trunk": build_trunk(size),
        "head": SwaVProjectionHead(size.widths[-1], HEAD, 128),
        "prototypes": SwaVPrototypes(128, PROTOTYPES),
    }
    model = nn.ModuleDict(parts).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.optim.lr, weight_decay=recipe.optim.weight_decay)
    criterion, half = SwaVLoss(sinkhorn_epsilon=recipe.loss.epsilon), computes_in_bf16(torch.device("cpu"))
    batches = _batches(transform)

    def step() -> None:
        model["prototypes"].normalize()
        crops = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            projections = [model["head"](model["trunk"](torch.cat(kind))) for kind in (crops[:2], crops[2:])]
        scores = [model["prototypes"](F.normalize(kind.float(), dim=1)).split(BATCH) for kind in projections]
        optimizer.zero_grad()
        criterion(list(scores[0]), list(scores[1])).backward()
        optimizer.step()

    return step


def _batches(transform: Callable[[Image.Image], list[Tensor]]) -> Iterator[list[Tensor]]:
    """Endless batches of lightly's views, as its DataLoader collates them."""
    pictures = jpegs()

    class Views(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return BATCH

        def __getitem__(self, index: int) -> list[Tensor]:
            return transform(Image.open(io.BytesIO(pictures[index % len(pictures)])).convert("RGB"))

    loader = torch.utils.data.DataLoader(Views(), batch_size=BATCH, shuffle=True)
    while True:
        for crops in loader:
            yield [crop.contiguous(memory_format=torch.channels_last) for crop in crops]
