"""`.nv-meta` for Megatron-Energon: what it reads, kept up to date by every change; and read by Energon itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

from seerctl.shards import energon
from seerctl.shards.drop import Entry, drop_samples
from seerctl.shards.index import ShardSet
from seerctl.shards.repair import repair_sets
from seerctl.shards.split import Split
from seerctl.shards.verify import verify
from tests.streams import numbered, shards_of, stream_of

yaml = pytest.importorskip("yaml")
SPLIT = Split.parse("train=0.6,val=0.4")


def counts(where: Path) -> dict[str, int]:
    found = json.loads((where / ".nv-meta" / ".info.json").read_text())
    assert set(found) == {"energon_version", "shard_counts"}  # its parser refuses other keys
    return dict(found["shard_counts"])


def parts(where: Path) -> dict[str, Any]:
    found = yaml.safe_load((where / ".nv-meta" / "split.yaml").read_text())
    assert found["exclude"] == []
    return dict(found["split_parts"])


def check(where: Path, *splits: str) -> None:
    """What the files say is what the indexes say."""
    told, named = counts(where), parts(where)
    for name in splits or ("",):
        with ShardSet.open(where / name) as shards:
            assert verify(shards) == []
            listed = {f"{name}/" * bool(name) + one["url"]: one["nsamples"] for one in shards.index["shardlist"]}
            assert named[name or "train"] == list(listed)
            assert listed.items() <= told.items()
    assert sorted(told) == sorted(name for part in named.values() for name in part)
    assert energon.stale(where) is None


def test_a_set_and_its_changes(tmp_path: Path) -> None:
    where = tmp_path / "set"
    shards_of(where, stream_of(numbered(range(20))), maxcount=6, energon=True)
    check(where)
    assert parts(where)["val"] == parts(where)["test"] == []
    assert yaml.safe_load((where / ".nv-meta" / "dataset.yaml").read_text()) == {
        "__module__": "megatron.energon", "__class__": "CrudeWebdataset",
    }  # fmt: skip
    (where / ".nv-meta" / "dataset.yaml").write_text("mine: true\n")
    shards_of(where, stream_of(numbered(range(15, 30))), maxcount=6, append=True)
    check(where)
    with ShardSet.open(where) as shards:
        key = shards.read(3).key
    drop_samples(where, [Entry("key", key)])
    check(where)
    (where / "shard-000001.tar").unlink()
    repair_sets(where, dry_run=False)
    check(where)
    assert (where / ".nv-meta" / "dataset.yaml").read_text() == "mine: true\n"
    shards_of(where, stream_of(numbered(range(4))), overwrite=True, energon=True)
    check(where)
    shards_of(where, stream_of(numbered(range(4))), overwrite=True)
    assert not (where / ".nv-meta").exists()


def test_splits_share_one(tmp_path: Path) -> None:
    shards_of(tmp_path, stream_of(numbered(range(40))), split=SPLIT, maxcount=6, energon=True)
    check(tmp_path, *SPLIT.names)
    assert not (tmp_path / "train" / ".nv-meta").exists()
    with ShardSet.open(tmp_path / "val") as shards:
        key = shards.read(0).key
    drop_samples(tmp_path / "val", [Entry("key", key)])
    check(tmp_path, *SPLIT.names)


def test_what_is_out_of_date_is_found_and_repaired(tmp_path: Path) -> None:
    shards_of(tmp_path, stream_of(numbered(range(20))), maxcount=6, energon=True)
    info = tmp_path / ".nv-meta" / ".info.json"
    for content in ("{}", "", '{"shard_counts": {"shard-000000.tar": 5}}'):
        info.write_text(content)
        with ShardSet.open(tmp_path) as shards:
            assert [str(fault) for fault in verify(shards)] == [
                ".nv-meta: .nv-meta/.info.json does not list the shards of the index"
            ]
        assert repair_sets(tmp_path, dry_run=False)[0].rebuilt == [".nv-meta"]
        check(tmp_path)


def test_that_of_others_is_left_alone(tmp_path: Path) -> None:
    shards_of(tmp_path, stream_of(numbered(range(9))))
    (tmp_path / ".nv-meta").mkdir()
    (tmp_path / ".nv-meta" / "split.yaml").write_text("split_parts: {}\n")
    shards_of(tmp_path, stream_of(numbered(range(9, 12))), append=True)
    assert (tmp_path / ".nv-meta" / "split.yaml").read_text() == "split_parts: {}\n"


READER = """
import hashlib, json, sys
from megatron.energon import Cooker, DefaultTaskEncoder, WorkerConfig, basic_sample_keys, get_loader
from megatron.energon import get_train_dataset, stateless

@stateless
def cook(sample):
    return {**basic_sample_keys(sample), "picture": sample["jpg"], "meta": sample["json"]}

class Task(DefaultTaskEncoder):
    cookers = [Cooker(cook)]
    decoder = None

dataset = get_train_dataset(
    sys.argv[1], split_part=sys.argv[2], worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
    batch_size=None, shuffle_buffer_size=None, max_samples_per_sequence=None, repeat=False, task_encoder=Task(),
)
rows = [[sample["__key__"], hashlib.sha256(sample["picture"]).hexdigest()] for sample in get_loader(dataset)]
print(json.dumps(sorted(rows)))
"""
# Without its dependencies on torch and numpy, which come from here, and those that only stores in the cloud need.
NEEDED = ["megatron-energon==7.4.1", "multi-storage-client", "braceexpand", "bitstring", "rapidyaml", "lmdb", "mfusepy",
          "xattr", "jsonpickle", "opentelemetry-api", "opentelemetry-sdk", "opentelemetry-semantic-conventions", "lark",
          "filetype", "importlib-metadata", "zipp", "prettytable", "wcwidth", "wcmatch", "bracex", "deprecation",
          "psutil", "fuse"]  # fmt: skip


@pytest.mark.slow
def test_energon_reads_every_sample(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", *NEEDED]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"Megatron-Energon cannot be installed: {installed.stderr[-300:]}")
    packages = next((tmp_path / "venv" / "lib").iterdir()) / "site-packages"
    (packages / "ours.pth").write_text(str(Path(numpy.__file__).parents[1]))
    shards_of(tmp_path / "one", stream_of(numbered(range(30))), maxcount=7, energon=True)
    shards_of(tmp_path / "two", stream_of(numbered(range(40))), maxcount=7, energon=True, split=SPLIT)
    for where, split, place in (("one", "train", ""), ("two", "train", "train"), ("two", "val", "val")):
        with ShardSet.open(tmp_path / where / place) as shards:
            wanted = sorted([sample.key, sample.meta["sha256"]] for sample in shards)
        done = subprocess.run([python, "-c", READER, tmp_path / where, split], capture_output=True, text=True,
                              check=True)  # fmt: skip
        assert json.loads(done.stdout.splitlines()[-1]) == wanted
