"""Leakage: planted copies are found, counted by kind, and taken out of the score."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seerctl.audit.leakage import COSINE, METRICS, audit_leakage
from seerctl.audit.policy import SuiteCheck
from seerctl.audit.suite import Finding, SuiteResult
from seerctl.errors import InputError, UsageError
from seerctl.features.writer import FeatureWriter, finish, part_of
from seerctl.shards.index import ShardSet
from seerctl.stats import newcombe
from tests.feature_files import header
from tests.pictures import draw
from tests.streams import meta_of, shards_of, stream_of

Picture = tuple[bytes, dict[str, Any]]


def picture(number: int, source: str, label: str = "a", quality: int = 90, half: bool = False, **more: str) -> Picture:
    image = draw(number, 160, 120)
    file = io.BytesIO()
    (image.resize((80, 60)) if half else image).save(file, "JPEG", quality=quality)
    return file.getvalue(), meta_of(file.getvalue(), source, {"label": label, **more})


def make(where: Path, pictures: list[Picture]) -> Path:
    shards_of(where, stream_of(pictures), maxcount=16)
    return where


def check(metric: str, **fields: Any) -> SuiteCheck:
    return SuiteCheck(metric, "leakage", metric, op="<=", threshold=0.0, **fields)


def only(result: SuiteResult) -> Finding:
    assert len(result.findings) == 1
    return result.findings[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """40 training and 30 test pictures; of the test ones 0-2 are the same bytes, 3-7 copies, 8 a copy labelled b."""
    where = tmp_path_factory.mktemp("sets")
    train = [picture(n, f"train/{n}.jpg", side="xy"[n % 2]) for n in range(40)]
    test = [picture(n, f"test/{n}.jpg", side="left") for n in range(3)]
    test += [picture(n, f"test/{n}.jpg", quality=60, half=n > 5, side="right") for n in range(3, 8)]
    test += [picture(8, "test/8.jpg", "b", 70, side="right")]
    test += [picture(n, f"test/{n}.jpg", "b", side="left") for n in range(100, 120)]
    test += [picture(100, "test/again.jpg", "b", 55, side="left")]
    return make(where / "train", train), make(where / "test", test)


def features(where: Path, data: Path, rows: np.ndarray, **changes: Any) -> Path:
    with ShardSet.open(data) as shards:
        made = header(**{"index_sha256": shards.sha256, **changes})
        writer = FeatureWriter(part_of(where), made, rows=len(shards), dim=rows.shape[1])
        writer.append(rows.astype(np.float32), [s.key for s in shards], [s.meta["columns"] for s in shards])
        writer.close()
        finish(where, [part_of(where)], made, len(shards))
    return where


def predictions(where: Path, data: Path, wrong: set[int], extra: str | None = None) -> Path:
    """A table on the set in which the rows `wrong` are wrong."""
    with ShardSet.open(data) as shards, where.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "label", "prediction"])
        for row, sample in enumerate(shards):
            label = sample.meta["columns"]["label"]
            writer.writerow([sample.key, label, {"a": "b", "b": "a"}[label] if row in wrong else label])
        if extra is not None:
            writer.writerow([extra, "a", "a"])
    return where


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("exact_count", 3), ("near_count", 9), ("leaked_count", 9), ("label_conflicts", 1), ("exact", 0.1),
        ("near", 0.3), ("leaked", 0.3), ("repeats", 2 / 30), ("train_repeats", 0.0),
    ],
)  # fmt: skip
def test_planted_copies_are_counted(pair: tuple[Path, Path], metric: str, value: float) -> None:
    finding = only(audit_leakage(*pair, [check(metric)], jobs=1))
    assert finding.value == pytest.approx(value)
    assert finding.interval is None
    assert finding.reason is None
    assert finding.n == (40 if metric == "train_repeats" else 30)


def test_evidence_names_both_samples_and_their_sources(pair: tuple[Path, Path]) -> None:
    result = audit_leakage(*pair, [check("leaked")], jobs=1)
    pairs = only(result).evidence["pairs"]
    assert {(p["test_source"], p["train_source"], p["kind"]) for p in pairs} == {
        (f"test/{n}.jpg", f"train/{n}.jpg", "exact" if n < 3 else "near") for n in range(9)
    }
    with ShardSet.open(pair[1]) as test:
        keys = [sample.key for sample in test]
    assert {p["test"] for p in pairs} == set(keys[:9])
    assert result.data["counts"]["near"] == 9
    assert len(result.data["pairs"]) == 9
    conflict = only(audit_leakage(*pair, [check("label_conflicts")], jobs=1)).evidence["pairs"]
    assert [(p["test_label"], p["train_label"]) for p in conflict] == [("b", "a")]
    repeats = only(audit_leakage(*pair, [check("repeats")], jobs=1)).evidence["pairs"]
    assert [(p["one_source"], p["two_source"]) for p in repeats] == [("test/100.jpg", "test/again.jpg")]


def test_groups_are_columns_of_the_test_set(pair: tuple[Path, Path]) -> None:
    found = audit_leakage(*pair, [check("near_count", groups=("side", "side*label"))], jobs=1).findings
    assert {tuple(f.group.values()): (f.value, f.n) for f in found} == {
        ("left",): (3, 24), ("right",): (6, 6), ("left", "a"): (3, 3), ("left", "b"): (0, 21), ("right", "a"): (5, 5),
        ("right", "b"): (1, 1),
    }  # fmt: skip
    with pytest.raises(UsageError, match="no column 'sid'"):
        audit_leakage(*pair, [check("near", groups=("sid",))], jobs=1)


def test_the_score_without_leaked_samples(pair: tuple[Path, Path], tmp_path: Path) -> None:
    table = predictions(tmp_path / "p.csv", pair[1], {8, 10, 11, 12, 13, 14, 15})
    result = audit_leakage(*pair, [check("score_gain")], predictions=table, jobs=1)
    finding = only(result)
    assert finding.value == pytest.approx(23 / 30 - 15 / 21)  # 8 of 9 leaked ones right, 15 of 21 others
    assert finding.interval is not None
    limits = newcombe(8, 9, 15, 21)
    assert finding.interval(0.05) == pytest.approx((0.3 * limits.low, 0.3 * limits.high))
    assert finding.evidence["accuracy_without"] == pytest.approx(15 / 21)
    table_rows = {row[0]: row[1:3] for row in result.tables[1].rows}
    assert table_rows["all"] == (30, pytest.approx(23 / 30))
    assert table_rows["without the same bytes"] == (27, pytest.approx(20 / 27))
    assert result.charts[0].labels[0] == "all"
    assert result.inputs["predictions"]["rows"] == 30


def test_what_cannot_be_measured_says_why(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for metric, reason in (
        ("score_gain", "no predictions"),
        ("similar", "no features"),
        ("similar_count", "no features"),
    ):
        finding = only(audit_leakage(*pair, [check(metric)], jobs=1))
        assert finding.reason is not None
        assert reason in finding.reason
    plain = make(
        tmp_path / "plain", [(data, {**meta, "columns": {}}) for data, meta in [picture(1, "x"), picture(2, "y")]]
    )
    assert "column 'label'" in str(only(audit_leakage(pair[0], plain, [check("label_conflicts")], jobs=1)).reason)
    everything = only(
        audit_leakage(pair[0], plain, [check("score_gain")], predictions=labelled(tmp_path / "q.csv", plain), jobs=1)
    )
    assert "no row is left" in str(everything.reason)


def labelled(where: Path, data: Path) -> Path:
    with ShardSet.open(data) as shards:
        where.write_text("key,label,prediction\n" + "".join(f"{sample.key},a,a\n" for sample in shards))
    return where


def test_features_find_what_hashes_do_not(pair: tuple[Path, Path], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    train, test = generator.normal(size=(40, 32)) + 5.0, generator.normal(size=(30, 32)) + 5.0
    test[:9] = train[:9] + 0.01 * generator.normal(size=(9, 32))
    test[20] = train[30] + 0.01 * generator.normal(size=32)
    files = [
        features(tmp_path / f"{n}.h5", data, rows) for n, data, rows in zip("ab", pair, (train, test), strict=True)
    ]
    checks = [check("similar_count"), check("leaked_count", at=0.9), check("similar", at=-1.0), check("leaked_count")]
    result = audit_leakage(*pair, checks, features=files, jobs=1)
    assert [finding.value for finding in result.findings] == [10, 10, 1.0, 9]
    (alone,) = [p for p in result.data["pairs"] if p["kind"] == "similar"]
    assert alone["train_source"] == "train/30.jpg"
    assert alone["cosine"] > COSINE
    assert "distance" not in alone
    assert [entry["path"] for entry in result.inputs["features"]] == [str(file) for file in files]


def test_files_of_another_set_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    train, test = (features(tmp_path / f"{n}.h5", data, np.ones((size, 4))) for n, data, size in
                   (("a", pair[0], 40), ("b", pair[1], 30)))  # fmt: skip
    with pytest.raises(InputError, match="features of another set"):
        audit_leakage(*pair, [], features=[test, train], jobs=1)
    stale = features(tmp_path / "c.h5", pair[1], np.ones((30, 4)), index_sha256="0" * 64)
    with pytest.raises(InputError, match="features of another set"):
        audit_leakage(*pair, [], features=[train, stale], jobs=1)
    layer = features(tmp_path / "d.h5", pair[1], np.ones((30, 4)), layer="res4")
    with pytest.raises(InputError, match="its layer is not that of"):
        audit_leakage(*pair, [], features=[train, layer], jobs=1)
    wide = features(tmp_path / "e.h5", pair[1], np.ones((30, 5)))
    with pytest.raises(InputError, match="5 dimensions"):
        audit_leakage(*pair, [], features=[train, wide], jobs=1)
    with pytest.raises(UsageError, match="1 feature file"):
        audit_leakage(*pair, [], features=[train], jobs=1)
    with pytest.raises(InputError, match="not of the test set"):
        audit_leakage(*pair, [], predictions=predictions(tmp_path / "p.csv", pair[1], set(), "stranger"), jobs=1)
    with pytest.raises(InputError, match="not of the test set"):
        audit_leakage(*pair, [], predictions=predictions(tmp_path / "q.csv", pair[0], set()), jobs=1)


def test_sets_that_are_none_or_damaged_are_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is the training set"):
        audit_leakage(pair[0], pair[0], [], jobs=1)
    with pytest.raises(InputError, match="no such shard set"):
        audit_leakage(pair[0], tmp_path / "nowhere", [], jobs=1)
    where = make(tmp_path / "set", [picture(n, f"{n}.jpg") for n in range(20)])
    (where / "shard-000001.tar").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"shard-000001\.tar"):
        audit_leakage(pair[0], where, [], jobs=1)


def test_flat_and_broken_pictures_count_by_their_bytes_alone(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 200, 200)).save(file, "PNG")
    flat = file.getvalue()
    train = make(tmp_path / "train", [(flat, meta_of(flat, "w.png")), (b"broken", meta_of(b"broken", "x.jpg"))])
    test = make(tmp_path / "test", [(flat, meta_of(flat, "y.png")), (b"other", meta_of(b"other", "z.jpg"))])
    result = audit_leakage(train, test, [check("near_count")], jobs=1)
    assert only(result).value == 1
    assert (result.data["counts"]["test"]["flat"], result.data["counts"]["test"]["unreadable"]) == (1, 1)


def test_every_metric_has_a_title_and_can_be_asked_for(pair: tuple[Path, Path]) -> None:
    found = audit_leakage(*pair, [check(metric) for metric in METRICS], jobs=1).findings
    assert [finding.metric for finding in found] == list(METRICS)
    assert all(finding.reason or np.isfinite(finding.value) for finding in found)


@pytest.mark.data
def test_planted_copies_of_photographs(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "clothing" / "validation").rglob("*.jpg"))
    train = [(data, meta_of(data, path.name)) for path in files[:120] for data in (path.read_bytes(),)]
    test = [(data, meta_of(data, path.name)) for path in files[120:160] for data in (path.read_bytes(),)]
    for place, path in enumerate(files[:30]):
        with Image.open(path) as image:
            file = io.BytesIO()
            scale = 1 + place % 2
            image.resize((image.width // scale, image.height // scale)).save(
                file, "JPEG", quality=(50, 75, 95)[place % 3]
            )
            test.append((file.getvalue(), meta_of(file.getvalue(), f"copy of {path.name}")))
    result = audit_leakage(
        make(tmp_path / "train", train), make(tmp_path / "test", test), [check("near_count")], jobs=2
    )
    assert only(result).value == 30
    assert all(p["test_source"] == f"copy of {p['train_source']}" for p in result.data["pairs"])


def test_features_of_a_weak_model_accuse_nobody(tmp_path: Path) -> None:
    """All alike: the default threshold rises above what samples of other labels reach; a planted copy stays above."""
    sets = [make(tmp_path / name, [picture(start + n, f"{name}{n}.jpg", "ab"[n % 2]) for n in range(40)])
            for name, start in (("train", 0), ("test", 200))]  # fmt: skip
    generator = np.random.default_rng(1)
    direction = generator.normal(size=16) * generator.choice([-9.0, 9.0], (80, 1))
    rows = direction + generator.normal(size=(80, 16))
    rows[40] = rows[0]
    files = [features(tmp_path / f"{n}.h5", sets[n], rows[40 * n : 40 * n + 40]) for n in (0, 1)]
    result = audit_leakage(*sets, [check("similar_count"), check("similar_count", at=COSINE)], features=files, jobs=1)
    default, plain = (finding.value for finding in result.findings)
    assert 1 <= default <= 5
    assert plain > 30
    assert result.data["cosine"] > COSINE
