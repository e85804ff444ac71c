"""Raw samples a second from shards: our reader against webdataset.WebDataset on the same files."""

from __future__ import annotations

import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import webdataset

from seerctl.shards.index import ShardSet
from seerctl.shards.reshard import read_set
from seerctl.shards.verify import verify
from tests.bench.measure import in_turn
from tests.pictures import draw
from tests.streams import meta_of, shards_of, stream_of

DATA = Path(os.environ.get("SEERCTL_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
CIFAR = os.environ.get("SEERCTL_BENCH_CIFAR")  # holds the shard sets train/ and test/
BAR = 4.0


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        results = _compare("photos", _photos(Path(folder) / "set"))
        results += _compare("cifar", Path(CIFAR) / "test") if CIFAR else _compare("tiny", _tiny(Path(folder) / "tiny"))
        return results


def _photos(where: Path) -> Path:
    """3,000 samples of photographs of clothing, each about three times under other names, or of drawings."""
    files = sorted((DATA / "clothing").rglob("*.jpg"))
    pictures = [path.read_bytes() for path in files] or [_encoded(number, 400, 300) for number in range(500)]
    return _set(where, [pictures[number % len(pictures)] for number in range(3000)])


def _tiny(where: Path) -> Path:
    return _set(where, [_encoded(number, 32, 32) for number in range(10_000)])


def _encoded(number: int, width: int, height: int) -> bytes:
    import io

    file = io.BytesIO()
    draw(number, width, height).save(file, "JPEG", quality=90)
    return file.getvalue()


def _set(where: Path, pictures: list[bytes]) -> Path:
    samples = ((data, meta_of(data, f"{number}.jpg", {"label": "x"})) for number, data in enumerate(pictures))
    shards_of(where, stream_of(samples), maxcount=1000)
    return where


def _compare(name: str, where: Path) -> list[dict[str, Any]]:
    with ShardSet.open(where) as shards:
        count = len(shards)
        tars = [str(shards.path.parent / entry["url"]) for entry in shards.index["shardlist"]]
        order = random.Random(0).sample(range(count), count)

        def plain() -> None:
            dataset = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
            assert sum(len(sample["jpg"]) > 0 for sample in dataset) == count

        def in_order() -> None:
            assert sum(len(sample.image) > 0 for sample in shards) == count

        def at_random() -> None:
            assert sum(len(shards.read(position).image) > 0 for position in order) == count

        def proven() -> None:
            assert sum(1 for _ in read_set(shards)) == count

        results = []
        for kind, ours in (("read", in_order), ("random", at_random), ("reshard", proven)):
            mine, theirs = in_turn(ours, plain, 3, cpu=True)
            results.append(_result(f"{kind}_{name}", count / mine, count / theirs, f"{count:,} samples, CPU time"))
        started = time.process_time()
        assert verify(shards) == []
        seconds = time.process_time() - started
        results.append(_result(f"verify_{name}", count / seconds, count / theirs, "every byte, all hashes, CPU time"))
        return results


def _result(name: str, ours: float, peer: float, note: str) -> dict[str, Any]:
    return {"name": name, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": "samples/s",
            "peer_name": "webdataset", "note": note}  # fmt: skip
