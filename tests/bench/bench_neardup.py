"""Near-duplicate search over 1,000,000 hashes against the limit of 60 s and 2 GB; what is found of what was planted."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seerctl.shards.duplicates import NearIndex, near_pairs, popcount
from seerctl.shards.index import ShardSet
from seerctl.shards.perceptual import Hash64, hash_set, image_hash

COUNT, PLANTED = 1_000_000, 10_000
LIMIT_SECONDS, LIMIT_GIGABYTES = 60.0, 2.0
DATA = Path(os.environ.get("SEERCTL_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
CIFAR = Path(os.environ.get("SEERCTL_BENCH_CIFAR") or "nowhere")  # holds the shard sets train/ and test/


def flipped(values: Hash64, bits: int, generator: np.random.Generator) -> Hash64:
    """`values` with exactly `bits` different bits changed in each."""
    places = np.argsort(generator.random((len(values), 64)), axis=1)[:, :bits].astype(np.uint64)
    return values ^ (np.uint64(1) << places).sum(axis=1, dtype=np.uint64)


def uniform(count: int, generator: np.random.Generator) -> Hash64:
    """Independent random bits."""
    return generator.integers(0, 2**64, count, dtype=np.uint64)


def skewed(count: int, generator: np.random.Generator) -> Hash64:
    """As hashes of real pictures are: 3,000 clusters of Zipf sizes around which 10 to 30 % of the bits change, one
    picture in fifty the same, and one in fifty within two bits of one hash."""
    shares = 1.0 / np.arange(10, 3010)
    centres = uniform(3000, generator) & uniform(3000, generator)
    cluster = generator.choice(3000, count, p=shares / shares.sum())
    rate = generator.uniform(0.1, 0.3, count)
    noise = np.zeros(count, np.uint64)
    for bit in range(64):
        noise |= (generator.random(count) < rate).astype(np.uint64) << np.uint64(bit)
    values = centres[cluster] ^ noise
    same, close = count // 50, count // 25
    values[:same] = values[0]
    values[same:close] = flipped(np.full(close - same, values[same]), 2, generator)
    return np.asarray(generator.permutation(values))


def search(kind: str) -> dict[str, float]:
    """Seconds, gigabytes and pairs of one search, and the share found of pairs planted at exactly distance 4."""
    generator = np.random.default_rng(0)
    values = (uniform if kind == "uniform" else skewed)(COUNT - PLANTED, generator)
    originals = generator.choice(len(values), PLANTED, replace=False)
    values = np.concatenate((values, flipped(values[originals], 4, generator)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    pairs = near_pairs(values)
    seconds = time.perf_counter() - started
    codes = pairs.left * len(pairs.values) + pairs.right
    one, two = (np.searchsorted(pairs.values, part) for part in (values[originals], values[COUNT - PLANTED :]))
    planted = np.minimum(one, two) * len(pairs.values) + np.maximum(one, two)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "gigabytes": peak / 1e6, "before": before / 1e6, "pairs": pairs.count,
            "found": float(np.isin(planted, codes).mean())}  # fmt: skip


def run() -> list[dict[str, Any]]:
    results = []
    for kind in ("uniform", "skewed"):
        done = subprocess.run(
            [sys.executable, "-c", f"import json; from tests.bench.bench_neardup import search; "
             f"print(json.dumps(search('{kind}')))"], capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout)
        note = (f"{COUNT:,} hashes, {found['pairs']:,.0f} pairs, {100 * found['found']:.2f} % of {PLANTED:,} planted "
                f"at distance 4 found")  # fmt: skip
        results += [
            _result(f"neardup_{kind}", found["seconds"], LIMIT_SECONDS, "s", note),
            _result(f"neardup_{kind}_mem", found["gigabytes"], LIMIT_GIGABYTES, "GB", "peak of the whole process"),
        ]
        results.append(_result(f"nearindex_{kind}", *_one_by_one(kind), "us", "a hash, asked and added, 200,000 in"))
    if (DATA / "SOURCES.csv").is_file():
        results += _copies(sorted((DATA / "clothing").rglob("*.jpg")))
    if (CIFAR / "train" / "index.json").is_file():
        results += _cifar()
    return results


def _result(name: str, ours: float, limit: float, unit: str, note: str) -> dict[str, Any]:
    return {"name": name, "ours": ours, "peer": limit, "ratio": limit / ours if ours else 0.0, "unit": unit,
            "peer_name": "limit", "note": note}  # fmt: skip


def _one_by_one(kind: str) -> tuple[float, float]:
    values = (uniform if kind == "uniform" else skewed)(200_000, np.random.default_rng(1)).tolist()
    index = NearIndex()
    started = time.perf_counter()
    for value in values:
        if index.find(value) is None:
            index.add(value)
    return 1e6 * (time.perf_counter() - started) / len(values), 1000.0


def _copies(files: list[Path]) -> list[dict[str, Any]]:
    """The share of re-encoded and half-size copies within distance 4 of their originals, and other pairs as near."""
    results = []
    originals = np.array([image_hash(path.read_bytes()) or 0 for path in files], np.uint64)
    for name, quality, factor in (("q50", 50, 1), ("q75", 75, 1), ("q95", 95, 1), ("half", 90, 2), ("half_q50", 50, 2)):
        copies = np.array([image_hash(_copy(path, quality, factor)) or 0 for path in files], np.uint64)
        share = float((popcount(copies ^ originals) <= 4).mean())
        results.append(_result(f"copies_{name}", 100 * share, 100.0, "%", f"{len(files)} photographs of clothing"))
    wrong = near_pairs(originals).count
    results.append(_result("false_clothing", wrong, 1.0, "pairs", f"near pairs among {len(files)} photographs"))
    return results


def _copy(path: Path, quality: int, factor: int) -> bytes:
    file = io.BytesIO()
    with Image.open(path) as image:
        small = image if factor == 1 else image.resize((image.width // factor, image.height // factor))
        small.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _cifar() -> list[dict[str, Any]]:
    with ShardSet.open(CIFAR / "train") as train, ShardSet.open(CIFAR / "test") as test:
        started = time.perf_counter()
        one, two = hash_set(train), hash_set(test)
        rate = (len(train) + len(test)) / (time.perf_counter() - started)
    across = near_pairs(one, two)
    note = f"CIFAR-10 train against test: {len(across.nearest())} test pictures"
    return [
        _result("cifar_pairs", across.count, 1.0, "pairs", note),
        _result("hash_rate", rate, 1.0, "images/s", "CIFAR-10, all cores"),
    ]
