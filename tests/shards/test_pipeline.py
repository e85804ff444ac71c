"""What training reads: the same steps for any number of loader workers, ranks that tile a step, users' stages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
from torch.utils.data import DataLoader

from seerctl.errors import InputError
from seerctl.shards.index import ShardSet
from seerctl.shards.pipeline import StepBatch, pipeline
from seerctl.shards.plan import ReadingPlan
from seerctl.shards.split import Split
from tests.streams import numbered, set_of, shards_of, stream_of


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[ShardSet]:
    with set_of(tmp_path, 50, maxcount=8) as opened:
        yield opened


def keys(batches: Iterable[StepBatch]) -> list[tuple[int, list[str]]]:
    return [(batch.step, [sample.key for sample in batch.samples]) for batch in batches]


def test_steps_follow_the_plan(shards: ShardSet) -> None:
    plan = ReadingPlan(len(shards), shards.sha256, 3)
    for step, batch in enumerate(itertools.islice(pipeline(shards, batch=8, seed=3), 20)):
        epochs, indices = plan.step(step, 8)
        assert batch.step == step
        np.testing.assert_array_equal(batch.epochs, epochs)
        np.testing.assert_array_equal(batch.indices, indices)
        assert [sample.key for sample in batch.samples] == [shards.read(int(index)).key for index in indices]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 2, 3, 4])
def test_any_number_of_loader_workers_gives_the_same_steps(shards: ShardSet, workers: int) -> None:
    wanted = keys(pipeline(shards, batch=8, seed=1, start=2, stop=11))
    assert [step for step, _ in wanted] == list(range(2, 11))
    loader = DataLoader(
        pipeline(shards, batch=8, seed=1, start=2, stop=11), batch_size=None, num_workers=workers,
        prefetch_factor=2 if workers else None,
    )  # fmt: skip
    assert keys(loader) == wanted


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_tile_a_step(shards: ShardSet, world: int) -> None:
    whole = keys(pipeline(shards, batch=8, seed=1, stop=9))
    parts = [keys(pipeline(shards, batch=8, seed=1, stop=9, rank=rank, world=world)) for rank in range(world)]
    assert [(step, [key for part in parts for key in part[step][1]]) for step, _ in whole] == whole


def test_starting_later_is_going_on(shards: ShardSet) -> None:
    assert keys(pipeline(shards, batch=8, seed=1, stop=15))[9:] == keys(
        pipeline(shards, batch=8, seed=1, start=9, stop=15)
    )


def test_users_add_stages(shards: ShardSet) -> None:
    def sizes(batches: Iterable[StepBatch]) -> Iterator[list[int]]:
        return ([len(sample.image) for sample in batch.samples] for batch in batches)

    made = pipeline(shards, batch=5, seed=0, stop=4, stages=[sizes])
    assert isinstance(made, webdataset.DataPipeline)
    made.append(lambda rows: (sum(row) for row in rows))
    sizes_of = {sample.key: len(sample.image) for sample in shards}
    assert list(made) == [
        sum(sizes_of[key] for key in row) for _, row in keys(pipeline(shards, batch=5, seed=0, stop=4))
    ]


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    with set_of(tmp_path, 12, maxcount=5) as shards:
        urls = [str(tmp_path / shard["url"]) for shard in shards.index["shardlist"]]
        found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8", only=["json"]))
        assert [(row["__key__"], row["jpg"], row["json"]) for row in found] == [
            (sample.key, sample.image, sample.meta) for sample in shards
        ]


def test_webdataset_reads_the_stream_itself(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(stream_of(numbered(range(4))))
    found = list(webdataset.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False))
    assert [row["jpg"] for row in found] == [data for data, _ in numbered(range(4))]


def test_damage_stops_it_by_name(shards: ShardSet) -> None:
    path = Path(shards.location) / "shard-000002.tar"
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with pytest.raises(InputError, match=r"shard-000002\.tar"):
        list(pipeline(shards, batch=10, seed=0, stop=5))


def test_wrong_numbers_are_refused(shards: ShardSet, tmp_path: Path) -> None:
    for wrong in ({"batch": 0}, {"batch": 9, "world": 2}, {"batch": 8, "rank": 1}, {"batch": 8, "start": -1}):
        with pytest.raises(ValueError, match=r"batch size|rank"):
            pipeline(shards, seed=0, **wrong)
    shards_of(tmp_path / "split", stream_of(numbered([0])), split=Split.parse("a=0.5,b=0.5"))
    sizes = {name: len(ShardSet.open(tmp_path / "split" / name)) for name in "ab"}
    assert sorted(sizes.values()) == [0, 1]
    with pytest.raises(InputError, match="empty"):
        pipeline(ShardSet.open(tmp_path / "split" / min(sizes, key=lambda name: sizes[name])), batch=1, seed=0)
