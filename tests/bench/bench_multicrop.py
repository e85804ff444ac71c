"""Multi-crop of SEER (2 x 160 + 4 x 96) from 500x375 JPEGs, one core, against lightly's SwaVTransform."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from lightly.transforms import SwaVTransform
from PIL import Image
from sklearn.datasets import load_sample_images

from seerctl.augment.config import AugmentConfig
from seerctl.augment.decode import to_rgb
from seerctl.augment.multicrop import MultiCrop
from tests.bench.measure import in_turn

IMAGES = 16


def jpegs() -> list[bytes]:
    """500x375 pictures cut from scikit-learn's two photographs, quality 90."""
    generator, pictures = np.random.default_rng(0), []
    for number in range(IMAGES):
        source = Image.fromarray(load_sample_images().images[number % 2])
        left, top = generator.integers(0, 640 - 500), generator.integers(0, 427 - 375)
        buffer = io.BytesIO()
        source.crop((left, top, left + 500, top + 375)).save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    return pictures


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    files = jpegs()
    peer_transform = SwaVTransform(
        crop_sizes=(160, 96), crop_counts=(2, 4), crop_min_scales=(0.14, 0.05), crop_max_scales=(1.0, 0.14)
    )
    indices, epochs = np.arange(IMAGES), np.zeros(IMAGES, dtype=np.int64)
    results = []
    for mode in ("exact", "fused", "device"):
        multicrop = MultiCrop(AugmentConfig(mode=mode), seed=0)
        ours, peer = in_turn(
            lambda multicrop=multicrop: multicrop.halves([to_rgb(data) for data in files], indices, epochs),
            lambda: [peer_transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in files],
            repeats=7,
            cpu=True,
        )
        part = ", what loader workers do of it" if mode == "device" else ""
        results.append(
            {
                "name": "multicrop" if mode == "fused" else f"multicrop_{mode}",
                "ours": IMAGES / ours, "peer": IMAGES / peer, "ratio": peer / ours, "unit": "images/s/core",
                "peer_name": "lightly SwaVTransform", "note": f"mode {mode}{part}, decoding included",
            }
        )  # fmt: skip
    return results
