"""Retrieval sheets: neighbours are the nearest by cosine, never the query itself, framed by their labels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity

from seerctl.errors import InputError
from seerctl.features.store import FeatureFile
from seerctl.probes.sheet import QUERY, RIGHT, WRONG, Row, nearest, sheet
from seerctl.shards.index import ShardSet
from tests.feature_files import pair, picture_shards


def test_neighbours_are_the_nearest_by_cosine(tmp_path: Path) -> None:
    train, test = pair(tmp_path, classes=3)
    with FeatureFile.open(test) as queries, FeatureFile.open(train) as index:
        rows = nearest(queries, index, "label", rows=6, columns=4)
        similar = cosine_similarity(queries.features(), index.features())
        keys = [key.decode() for key in queries.keys]
        labels = [file.columns["label"].texts() for file in (queries, index)]
        assert [row.label for row in rows] == ["c0", "c1", "c2"] * 2
        for row in rows:
            query = keys.index(row.query)
            best = np.argsort(-similar[query])[:4]
            assert row.found == tuple(index.keys[place].decode() for place in best)
            assert row.right == tuple(labels[1][place] == row.label for place in best)
        itself = nearest(queries, queries, "label", rows=3, columns=4)
        assert all(row.query not in row.found and len(row.found) == 4 for row in itself)
        assert {right for row in nearest(queries, index, None) for right in row.right} == {None}


def test_frames(tmp_path: Path) -> None:
    shards = picture_shards(tmp_path / "shards", 4)
    with ShardSet.open(shards) as opened:
        keys = [opened.read(place).key for place in range(4)]
    image = Image.open(io.BytesIO(sheet([Row(keys[0], "x", (keys[1], keys[2]), (True, False))], [shards]))).convert(
        "RGB"
    )
    step = image.height
    colours = [
        np.array(image.getpixel(place)) for place in ((1, step // 2), (step + 19, step // 2), (2 * step + 19, 2))
    ]
    for found, expected in zip(colours, (QUERY, RIGHT, WRONG), strict=True):
        wanted = [int(expected[at : at + 2], 16) for at in (1, 3, 5)]
        assert np.abs(found - wanted).max() < 40
    with pytest.raises(InputError, match="none of the pictures is here"):
        sheet([Row("0" * 16, "", (), ())], [shards])
