"""Clusters: scikit-learn's measures, intervals that cover, prototypes by hand, dead ones, a sheet, bad input."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from sklearn import metrics as reference

from seerctl.errors import InputError, UsageError
from seerctl.probes.agreement import Table, agreement, matched
from seerctl.probes.clusters import PROTOTYPES, clusters, load_clusters, read_prototypes, sheet_rows
from seerctl.probes.registry import run_protocol
from seerctl.probes.sheet import sheet
from tests.feature_files import clouds, picture_shards, write_features


def noisy(n: int, seed: int, kinds: int = 6, clusters_: int = 9) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, kinds, n)
    codes = np.where(generator.random(n) < 0.5, labels, generator.integers(0, clusters_, n))
    return codes.astype(np.int64), labels.astype(np.int64)


@pytest.mark.parametrize("seed", range(3))
def test_measures_equal_scikit_learns(seed: int) -> None:
    codes, labels = noisy(400, seed)
    found = agreement(Table.of(codes, labels), replicates=60)
    assert float(found["nmi"].value) == pytest.approx(reference.normalized_mutual_info_score(labels, codes))
    assert float(found["ami"].value) == pytest.approx(reference.adjusted_mutual_info_score(labels, codes))
    assert float(found["ari"].value) == pytest.approx(reference.adjusted_rand_score(labels, codes))
    table = reference.cluster.contingency_matrix(labels, codes)
    assert float(found["purity"].value) == pytest.approx(table.max(0).sum() / 400)


def test_perfect_and_useless_clusters() -> None:
    labels = np.repeat(np.arange(4), 25)
    perfect = agreement(Table.of((labels + 1) % 4, labels), replicates=60)
    assert [float(one.value) for one in perfect.values()] == pytest.approx([1, 1, 1, 1])
    assert matched((labels + 1) % 4, labels) == 100
    one = agreement(Table.of(np.zeros(100, np.int64), labels), replicates=60)
    assert [float(one[name].value) for name in ("nmi", "ami", "ari", "purity")] == pytest.approx([0, 0, 0, 0.25])
    alone = agreement(Table.of(np.arange(100), labels), replicates=60)
    assert float(alone["purity"].value) == 1.0
    assert float(alone["nmi"].value) > 0.4
    assert float(alone["ami"].value) == pytest.approx(0, abs=1e-9)


def test_intervals_cover_the_whole_population() -> None:
    codes, labels = noisy(100_000, 5)
    truth = {name: float(one.value) for name, one in agreement(Table.of(codes, labels), replicates=50).items()}
    inside = dict.fromkeys(truth, 0)
    for draw in range(60):
        rows = np.random.default_rng(draw).integers(0, 100_000, 800)
        for name, one in agreement(Table.of(codes[rows], labels[rows]), replicates=100, seed=draw).items():
            inside[name] += int(one.low <= truth[name] <= one.high)
    assert min(inside.values()) >= 48  # of 60, nominally 57


@pytest.fixture
def head(tmp_path: Path) -> tuple[Path, Path]:
    """Features around four directions, and a run whose prototypes are these, and two that nothing is near."""
    points, labels = clouds(200, classes=4, dim=8, spread=0.4)
    centres = np.random.default_rng(99).normal(size=(4, 8))
    weights = np.concatenate([centres * 3, -20 * centres[:2]]).astype(np.float32)
    (tmp_path / "run").mkdir()
    save_file({PROTOTYPES: weights, "trunk.x": np.ones(1, np.float32)}, tmp_path / "run" / "weights.safetensors")
    return write_features(tmp_path / "head.h5", points, {"label": labels}), tmp_path / "run"


def test_prototypes(head: tuple[Path, Path]) -> None:
    task = load_clusters(head[0], "label", head[1])
    result = clusters(task)
    report = result.report
    assert report["settings"]["method"] == "prototypes"
    assert report["settings"]["clusters"] == 6
    assert report["metrics"]["nmi"]["value"] > 0.95
    used = np.array([row["n"] for row in report["clusters"]])
    share = used / used.sum()
    assert report["metrics"]["use"]["value"] == pytest.approx(-(share * np.log(share)).sum() / np.log(6))
    assert report["metrics"]["dead"]["value"] == pytest.approx((6 - len(used)) / 6)
    assert len(used) < 6
    assert "not the weights that" in report["warnings"][0]
    code, rows = result.members[0]
    unit = task.test.features / np.linalg.norm(task.test.features, axis=1, keepdims=True)
    assert task.prototypes is not None
    closeness = unit[rows] @ task.prototypes[code]
    assert (np.diff(closeness) <= 1e-6).all()  # nearest first


def test_weights_in_half_precision_are_read(tmp_path: Path) -> None:
    save_torch({PROTOTYPES: torch.eye(3, 4, dtype=torch.bfloat16)}, tmp_path / "w.safetensors")
    np.testing.assert_allclose(read_prototypes(tmp_path / "w.safetensors"), np.eye(3, 4))


def test_kmeans_and_scores(tmp_path: Path) -> None:
    points, labels = clouds(240, classes=4, spread=0.5)
    file = write_features(tmp_path / "f.h5", points, {"label": labels})
    report = run_protocol("clusters", {"test": file}, "label").report
    assert report["settings"]["method"] == "kmeans"
    assert report["metrics"]["matched"]["value"] > 0.95
    assert "use" not in report["metrics"]
    scores = np.eye(4, dtype=np.float32)[[int(label[1:]) for label in labels]]
    named = write_features(tmp_path / "s.h5", scores, {"label": labels})
    found = run_protocol("clusters", {"test": named}, "label", {"method": "scores"}).report["metrics"]
    assert found["nmi"]["value"] == pytest.approx(1.0)
    assert found["dead"]["value"] == 0.0


def test_a_sheet_of_what_clusters_hold(tmp_path: Path) -> None:
    shards = picture_shards(tmp_path / "set", 12)
    from seerctl.features.writer import FeatureWriter, finish, part_of
    from seerctl.shards.index import ShardSet
    from seerctl.shards.metadata import read_keys
    from tests.feature_files import header

    with ShardSet.open(shards) as opened:
        keys = [key.decode() for key in read_keys(opened)]
    points, labels = clouds(12)
    path = tmp_path / "f.h5"
    writer = FeatureWriter(part_of(path), header(), rows=12, dim=16, dtype="float32")
    writer.append(points, keys, [{"label": label} for label in labels])
    writer.close()
    finish(path, [part_of(path)], header(), 12)
    task = load_clusters(path, "label")
    result = clusters(task, replicates=60)
    rows = sheet_rows(task, result)
    assert sum(1 + len(row.found) for row in rows) == 12
    picture = Image.open(io.BytesIO(sheet(rows, [shards])))
    assert picture.height == 84 * len(rows)


def test_bad_input(head: tuple[Path, Path], tmp_path: Path) -> None:
    file, run = head
    one = write_features(tmp_path / "one.h5", np.ones((4, 8), np.float32), {"label": ["a"] * 4})
    with pytest.raises(InputError, match="a single class in 'label'"):
        load_clusters(one, "label")
    with pytest.raises(InputError, match="no such file"):
        load_clusters(file, "label", tmp_path / "nothing")
    save_file({"trunk.x": np.ones(1, np.float32)}, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match="no prototypes in it"):
        load_clusters(file, "label", tmp_path / "bare.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"\x80\x04junk")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_clusters(file, "label", tmp_path / "junk.safetensors")
    wide = write_features(tmp_path / "wide.h5", np.ones((4, 9), np.float32), {"label": list("abab")})
    with pytest.raises(UsageError, match=r"prototypes of 8 values.*--layer head"):
        load_clusters(wide, "label", run)
    task = load_clusters(file, "label")
    with pytest.raises(UsageError, match="no prototypes"):
        clusters(task, "prototypes")
    with pytest.raises(UsageError, match="into 900 clusters"):
        clusters(task, k=900)
    with pytest.raises(UsageError, match="Leave out --k"):
        clusters(load_clusters(file, "label", run), k=3)
