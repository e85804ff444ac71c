"""CIFAR-10 in the same minutes on the same cores: kNN top-1 of recipe `cifar` against lightly's SwAV (slow: name it).

    python -m tests.bench learning                 20 minutes each, seed 0
    BENCH_MINUTES=5 BENCH_SEEDS=0,1,2 python -m tests.bench learning

The same RegNetY and the same kNN for both. lightly's settings are the best of those tried with it: two 64-pixel crops,
Adam 1e-3 with a cosine, batch 256, 512 prototypes, epsilon 0.05; six crops or SGD stayed where the untrained trunk is.
Needs the CIFAR-10 tar of the test data (SEERCTL_TEST_DATA).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
MINUTES = float(os.environ.get("BENCH_MINUTES", "20"))
SEEDS = [int(seed) for seed in os.environ.get("BENCH_SEEDS", "0").split(",")]
SLOW = True
CALIBRATION = 150  # steps whose speed says how many fit into the minutes


def run() -> list[dict[str, Any]]:
    data = Path(os.environ.get("SEERCTL_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(data / "cifar10" / "cifar10.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        for split in ("train", "test"):
            tar = folder / f"cifar10_{split}.tar"
            _seerctl("ingest", tar, "-o", folder / f"{split}.stream")
            _seerctl("shard", folder / f"{split}.stream", "-o", folder / split)
        return [_compare(folder, seed) for seed in SEEDS]


def _compare(folder: Path, seed: int) -> dict[str, Any]:
    ours = _ours(folder, seed)
    theirs = folder / f"peer-{seed}"
    subprocess.run([sys.executable, "-m", "tests.bench.bench_learning", folder, str(seed), theirs], check=True)
    mine, peer = _knn(folder, ours), _knn(folder, theirs)
    return {
        "name": f"learning_{seed}", "ours": 100 * mine, "peer": 100 * peer, "ratio": mine / peer, "unit": "% kNN top-1",
        "peer_name": "lightly SwAV", "note": f"CIFAR-10, {MINUTES:g} minutes each, k 20, T 0.07, 10,000 test images",
    }  # fmt: skip


def _ours(folder: Path, seed: int) -> Path:
    """The recipe with as many steps as fit into the minutes, by the speed of its first ones."""
    trial, run_ = folder / f"trial-{seed}", folder / f"ours-{seed}"
    common = ["pretrain", "--recipe", "cifar", "--data", folder / "train", "--set", f"run.seed={seed}"]
    _seerctl(*common, "-o", trial, "--set", f"schedule.steps={CALIBRATION}")
    rows = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
    speed = sorted(row["images_per_second"] for row in rows)[len(rows) // 2]
    started = time.monotonic()
    _seerctl(*common, "-o", run_, "--set", f"schedule.steps={int(0.97 * speed * MINUTES * 60 / _batch())}")
    minutes = (time.monotonic() - started) / 60
    assert minutes < 1.1 * MINUTES, f"ours took {minutes:.1f} minutes: the machine was not the same all the time"
    return run_


def _batch() -> int:
    from seerctl.recipe import load_recipe

    return load_recipe("cifar").data.batch


def _knn(folder: Path, model: Path) -> float:
    for split in ("train", "test"):
        _seerctl("extract", "--model", model, "--data", folder / split, "-o", model / f"{split}.h5")
    report = model / "knn.json"
    features = ["--train", model / "train.h5", "--test", model / "test.h5"]
    _seerctl("probe", "knn", *features, "--target", "label", "--k", "20", "-o", report)
    return float(json.loads(report.read_text())["metrics"]["top1"]["value"])


def _seerctl(*arguments: object) -> None:
    command = [Path(sys.executable).with_name("seerctl"), "-q", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def peer(folder: Path, seed: int, output: Path) -> None:
    """Train with lightly's loss, head and transform in a plain loop until the minutes are over; write our weights."""
    import torch
    import torch.nn.functional as F
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
    from lightly.transforms import SwaVTransform
    from torch import nn

    from seerctl.model.sizes import size_named
    from seerctl.model.trunk import build_trunk
    from seerctl.model.weights import save_weights
    from seerctl.recipe import load_recipe
    from seerctl.train.world import computes_in_bf16

    torch.manual_seed(seed)
    size = size_named(load_recipe("cifar").model.size)
    model = nn.ModuleDict(
        {
            "trunk": build_trunk(size),
            "head": SwaVProjectionHead(size.widths[-1], 512, 128),
            "prototypes": SwaVPrototypes(128, 512),
        }
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
    criterion = SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.05, sinkhorn_iterations=3)
    transform = SwaVTransform(
        crop_sizes=(64,), crop_counts=(2,), crop_min_scales=(0.2,), crop_max_scales=(1.0,),
        cj_strength=0.5, gaussian_blur=0.0,
    )  # fmt: skip
    half = computes_in_bf16(torch.device("cpu"))
    step, started = 0, time.monotonic()
    for step, crops in enumerate(_batches(folder / "cifar10_train.tar", transform)):
        share = (time.monotonic() - started) / (60 * MINUTES)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * share))
        model["prototypes"].normalize()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            projections = model["head"](model["trunk"](torch.cat(crops).contiguous(memory_format=torch.channels_last)))
        scores = model["prototypes"](F.normalize(projections.float(), dim=1)).chunk(2)
        optimizer.zero_grad()
        criterion(list(scores), []).backward()
        if step < 100:  # SwAV's first steps leave the prototypes alone
            model["prototypes"].zero_grad()
        optimizer.step()
    print(f"lightly: {step * 256:,} images", file=sys.stderr)
    state = {f"trunk.{name}": value.contiguous() for name, value in model["trunk"].state_dict().items()}
    output.mkdir()
    save_weights(output / "weights.safetensors", state, {"size": load_recipe("cifar").model.size, "crop_size": "64"})


def _batches(tar: Path, transform: Any) -> Any:
    """Endless batches of lightly's views of the pictures in `tar`, made by two loader processes."""
    import io

    import torch
    from PIL import Image

    with tarfile.open(tar) as archive:
        pictures = [archive.extractfile(member).read() for member in archive if member.isfile()]  # type: ignore[union-attr]

    class Views(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.open(io.BytesIO(pictures[index])).convert("RGB"))

    loader = torch.utils.data.DataLoader(
        Views(), batch_size=256, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    while True:
        yield from loader


if __name__ == "__main__":
    peer(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
