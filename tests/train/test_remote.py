"""Training on a shard set at a URL is training on the same set on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seerctl.shards.index import ShardSet
from seerctl.train.metrics import Metrics
from seerctl.train.start import train
from tests.training import make_labelled, small_recipe
from tests.webserver import serve_folder, serving


def losses(run: Path) -> list[Any]:
    return [(row["loss"], row.get("knn_top1")) for row in Metrics(run / "metrics.jsonl").rows()]


@pytest.mark.filterwarnings("ignore:This process", "ignore:This DataLoader will create")
def test_the_curve_is_that_of_the_set_on_disk(tmp_path: Path) -> None:
    shards = make_labelled(tmp_path)
    size = 1 + max(shard["filesize"] for shard in ShardSet.open(shards).index["shardlist"]) + 200
    options = ["watch.knn_every=2", "watch.knn_k=3", f"data.cache={tmp_path / 'cache'}", "schedule.steps=4"]
    train(small_recipe(*options), shards, tmp_path / "here", knn=[shards])
    with serving() as server:
        url = serve_folder(server, shards, "/set")
        recipe = small_recipe(*options, "data.workers=1", f"data.cache_size={size}")
        train(recipe, url, tmp_path / "there", knn=[Path(url)])
        assert losses(tmp_path / "there") == losses(tmp_path / "here")
        assert any("range" in headers for _, path, headers in server.asked if path.endswith(".tar"))
