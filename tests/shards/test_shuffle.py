"""Shuffling at shard time: an order that depends on seed and keys alone, in bounded memory."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import EnvironmentFault, InputError
from seerctl.shards.index import ShardSet
from seerctl.shards.shuffle import Shuffle, Shuffler
from seerctl.shards.split import Split
from seerctl.shards.verify import verify
from seerctl.stream.records import encode_sample
from tests.streams import listing, numbered, shards_of, stream_of

SAMPLES = [(encode_sample(data, "jpg", meta)[0][:25].decode(), encode_sample(data, "jpg", meta)[0])
           for data, meta in numbered(range(400))]  # fmt: skip


def drained(directory: Path, memory: int, samples: list[tuple[str, bytes]] = SAMPLES, seed: int = 0) -> list[bytes]:
    shuffler = Shuffler(directory / "spill", Shuffle(seed).place(), memory)
    for key, raw in samples:
        shuffler.add(key, raw)
    found = list(shuffler.drain())
    assert list(directory.iterdir()) == []
    return found


def keys_of(directory: Path) -> list[str]:
    with ShardSet.open(directory) as shards:
        assert verify(shards) == []
        return [sample.key for sample in shards]


def test_the_order_is_that_of_keyed_hashes_whatever_the_memory(tmp_path: Path) -> None:
    def place(key: str) -> bytes:
        return hashlib.blake2b(key.encode(), digest_size=8, key=b"7").digest()

    wanted = [raw for _, raw in sorted(SAMPLES, key=lambda sample: place(sample[0]))]
    for memory in (1, 5_000, 60_000, 10**9):  # from many levels of files to none
        assert drained(tmp_path, memory, seed=7) == wanted
        assert drained(tmp_path, memory, SAMPLES[::-1], seed=7) == wanted
    assert drained(tmp_path, 10**9, seed=8) != wanted


def test_no_more_is_held_than_the_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    add = Shuffler.add

    def watched(self: Shuffler, key: str, raw: bytes) -> None:
        nonlocal most
        add(self, key, raw)
        most = max(most, sum(len(raw) for _, raw in self._held))

    monkeypatch.setattr(Shuffler, "add", watched)
    assert len(drained(tmp_path, 50_000)) == 400
    assert most <= 50_000


def test_every_order_of_few_samples_is_equally_likely() -> None:
    keys = [key for key, _ in SAMPLES[:4]]
    orders = Counter()  # type: Counter[tuple[str, ...]]
    for seed in range(4800):
        place = Shuffle(seed).place()
        orders[tuple(sorted(keys, key=place))] += 1
    assert len(orders) == math.factorial(4)
    chi2 = sum((orders[order] - 200) ** 2 / 200 for order in itertools.permutations(keys))
    assert chi2 < 49.7  # the 0.999 quantile with 23 degrees of freedom


def test_a_set_does_not_depend_on_how_its_samples_came(tmp_path: Path) -> None:
    one, two, whole = (stream_of(numbered(numbers)) for numbers in (range(150, 300), range(150), range(300)))
    for name, streams, memory in (("a", (whole,), 10**9), ("b", (one, two), 30_000), ("c", (one + two,), 1)):
        shards_of(tmp_path / name, *streams, maxcount=70, shuffle=Shuffle(1, memory))
    shards = {
        name: {file: data for file, data in listing(tmp_path / name).items() if file != "index.json"} for name in "abc"
    }
    assert shards["a"] == shards["b"] == shards["c"]
    assert len(shards["a"]) == 10
    shards_of(tmp_path / "plain", whole)
    assert keys_of(tmp_path / "a") != keys_of(tmp_path / "plain")
    assert sorted(keys_of(tmp_path / "a")) == sorted(keys_of(tmp_path / "plain"))
    assert index_of(tmp_path / "a")["shuffled"] == [{"seed": 1, "hash": "blake2b-64", "samples": 300}]
    assert index_of(tmp_path / "a")["columns"] == index_of(tmp_path / "plain")["columns"]


def index_of(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "index.json").read_text()))


def test_splits_and_sizes_go_with_it(tmp_path: Path) -> None:
    split = Split.parse("train=0.7,val=0.3")
    shards_of(tmp_path / "a", stream_of(numbered(range(300))), split=split, maxsize=20_000, shuffle=Shuffle(2, 40_000))
    shards_of(tmp_path / "b", stream_of(numbered(range(300))), split=split)
    for name in split.names:
        assert sorted(keys_of(tmp_path / "a" / name)) == sorted(keys_of(tmp_path / "b" / name))
        assert keys_of(tmp_path / "a" / name) != keys_of(tmp_path / "b" / name)
        assert all(shard["filesize"] <= 20_000 for shard in index_of(tmp_path / "a" / name)["shardlist"])


def test_what_is_appended_is_shuffled_by_itself(tmp_path: Path) -> None:
    shards_of(tmp_path / "set", stream_of(numbered(range(100))), maxcount=40, shuffle=Shuffle(1))
    before = listing(tmp_path / "set")
    shards_of(tmp_path / "set", stream_of(numbered(range(50, 200))), maxcount=40, shuffle=Shuffle(9), append=True)
    after = listing(tmp_path / "set")
    assert all(after[name] == data for name, data in before.items() if name != "index.json")
    shards_of(tmp_path / "new", stream_of(numbered(range(100, 200))), shuffle=Shuffle(9))
    assert keys_of(tmp_path / "set")[100:] == keys_of(tmp_path / "new")
    assert [run["samples"] for run in index_of(tmp_path / "set")["shuffled"]] == [100, 100]


def test_a_broken_stream_and_a_full_disk_leave_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stream_of(numbered(range(200)))
    with pytest.raises(InputError):
        shards_of(tmp_path / "set", whole[:-600], shuffle=Shuffle(0, 20_000))
    assert listing(tmp_path / "set")
    assert all(name.endswith(".partial") for name in listing(tmp_path / "set"))
    monkeypatch.setattr(Shuffler, "_spill", full)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        shards_of(tmp_path / "set", whole, shuffle=Shuffle(0, 20_000))
    monkeypatch.undo()
    shards_of(tmp_path / "set", whole, shuffle=Shuffle(0, 20_000))
    assert not [name for name in listing(tmp_path / "set") if name.endswith((".partial", ".tmp"))]
    assert len(keys_of(tmp_path / "set")) == 200


def full(self: Shuffler) -> None:
    raise EnvironmentFault("spill: the disk is full")


PEAK = r"""
import re, sys
from pathlib import Path
from seerctl.shards.setwriter import ShardOptions
from seerctl.shards.shuffle import Shuffle
from seerctl.shards.writer import write_shards
with open(sys.argv[1], "rb") as file:
    write_shards([("stream", file)], Path(sys.argv[2]), ShardOptions(shuffle=Shuffle(0, 8_000_000), maxcount=10**6))
# Of this process alone: ru_maxrss would count what its parent held when it was started.
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_ten_times_the_input_needs_no_more_memory(tmp_path: Path) -> None:
    peaks = []
    for factor in (1, 10):
        samples = [(data * 40, {**meta, "sha256": hashlib.sha256(data * 40).hexdigest()})
                   for data, meta in numbered(range(400 * factor))]  # fmt: skip
        stream = tmp_path / f"{factor}.tar"
        stream.write_bytes(stream_of(samples))
        done = subprocess.run([sys.executable, "-c", PEAK, stream, tmp_path / str(factor)], capture_output=True,
                              text=True, check=True)  # fmt: skip
        peaks.append(int(done.stdout))
    assert stream.stat().st_size > 80_000_000
    assert peaks[1] < 1.1 * peaks[0]
