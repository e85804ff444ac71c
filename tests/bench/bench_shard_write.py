"""What an index costs while shards are written: `shard`'s writer against one that writes the same tars, nothing else.

Bar: no measurable cost. Both read the same checked stream (whose json `shard` has to parse anyway) and write the same
bytes, fsynced; the peer without hashes, offsets, counts, keys and index. A third number is what others do afterwards:
reading every shard again for its index. Processor seconds, in turn, so that other work disturbs both alike.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seerctl.shards.index import ShardSet
from seerctl.shards.scan import find_samples
from seerctl.shards.setwriter import ShardOptions, summary_of
from seerctl.shards.writer import write_shards
from seerctl.sources.ingest import IngestOptions, ingest
from seerctl.stream.reader import read_streams
from seerctl.stream.records import Record
from seerctl.stream.ustar import END
from tests.bench.measure import in_turn

DATA = Path(os.environ.get("SEERCTL_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
TINY = Path(os.environ.get("SEERCTL_BENCH_CIFAR_TAR") or "nowhere")  # cifar10_test.tar of ../shared/data
TURNS = 5
MAXCOUNT = 500


def run() -> list[dict[str, Any]]:
    results = []
    for name, source, turns in (("clothing", DATA / "clothing", TURNS), ("cifar", TINY, TURNS)):
        if source.exists():
            file = io.BytesIO()
            count = ingest([str(source)], file, IngestOptions(jobs=2)).samples
            results += _compare(name, file.getvalue(), count, turns)
    return results


def _compare(name: str, stream: bytes, count: int, turns: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("SEERCTL_BENCH_DIR")) as scratch:
        place = Path(scratch)
        ours = _afresh(place / "ours", lambda to: write_shards([("s", io.BytesIO(stream))], to, ShardOptions(
            maxcount=MAXCOUNT)))  # fmt: skip
        bare = _afresh(place / "bare", lambda to: _tars_alone(stream, to))
        with_index, without = in_turn(ours, bare, turns, cpu=True)
        again, _ = in_turn(lambda: _index_afterwards(place / "ours"), lambda: None, turns, cpu=True)
        same = [path.read_bytes() for path in sorted((place / "ours").glob("*.tar"))]
        assert same == [path.read_bytes() for path in sorted((place / "bare").glob("*.tar"))]
    each = 1e6 / count
    note = f"{count:,} samples, {len(stream) / 1e6:,.0f} MB; processor time"
    return [
        _row(f"shard_write_{name}", with_index * each, without * each, "tars alone", note),
        _row(f"index_after_{name}", max(with_index - without, 0.0) * each, again * each, "second pass", note),
    ]


def _afresh(place: Path, write: Callable[[Path], object]) -> Callable[[], None]:
    def work() -> None:
        shutil.rmtree(place, ignore_errors=True)
        write(place)

    return work


def _tars_alone(stream: bytes, place: Path) -> None:
    """The same shards, and nothing known of what is in them."""
    place.mkdir()
    file, count, number = None, 0, 0
    for item in read_streams(io.BytesIO(stream), "s"):
        if isinstance(item, Record):
            if file is None:
                file, count = (place / f"shard-{number:06d}.tar").open("wb", buffering=1 << 20), 0
            file.write(item.raw)
            count += 1
        if file is not None and (count == MAXCOUNT or not isinstance(item, Record)):
            file.write(END)
            file.flush()
            os.fsync(file.fileno())
            file.close()
            file, number = None, number + 1


def _index_afterwards(place: Path) -> None:
    """What the index says, from the shards alone: hashes, offsets, counts."""
    with ShardSet.open(place) as shards:
        for path in sorted(place.glob("*.tar")):
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")
                list(find_samples(file.fileno()))
        summary_of(shards)


def _row(name: str, ours: float, peer: float, peer_name: str, note: str) -> dict[str, Any]:
    return {"name": name, "ours": ours, "peer": peer, "ratio": peer / ours if ours else float("inf"),
            "unit": "us/sample", "peer_name": peer_name, "note": note}  # fmt: skip
