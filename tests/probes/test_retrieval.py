"""Retrieval: a revisited-Oxford case worked by hand, ground truth in every form, columns, whitening, bad input."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from seerctl.errors import InputError, UsageError
from seerctl.probes.registry import run_protocol
from seerctl.probes.retrieval import load_retrieval, retrieval
from seerctl.probes.truth import read_truth
from tests.feature_files import clouds, key, picture_shards, write_features

# Angles to the query at 0: the ranking of the index is a, b, c, d, e, f.
INDEX = "abcdef"
ANGLES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def by_angle(where: Path, angles: list[float], names: str, start: int) -> Path:
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 3
    return write_features(where, points, {"name": list(names)}, start=start)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return by_angle(tmp_path / "q.h5", [0.0, 0.7], "qr", 100), by_angle(tmp_path / "i.h5", ANGLES, INDEX, 0)


OWN = {
    "queries": [
        {"query": "q", "easy": ["b", "e"], "hard": ["d"], "junk": ["a"]},
        {"query": "r", "easy": [], "hard": ["f"]},
    ]
}
PUBLISHED = {
    "imlist": list(INDEX), "qimlist": ["q", "r"],
    "gnd": [{"easy": [1, 4], "hard": [3], "junk": [0], "bbx": [0, 0, 1, 1]}, {"easy": [], "hard": [5], "junk": []}],
}  # fmt: skip
TABLE = "query,image,grade\nq,b,easy\nq,e,easy\nq,d,hard\nq,a,junk\nr,f,hard\n"


@pytest.mark.parametrize("form", ["own", "list", "published", "csv"])
def test_a_small_oxford_by_hand(form: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    truth = tmp_path / ("gnd.csv" if form == "csv" else "gnd.json")
    values = {"own": OWN, "list": OWN["queries"], "published": PUBLISHED}
    truth.write_text(TABLE if form == "csv" else json.dumps(values[form]))
    task = load_retrieval(files[0], files[1], truth=truth, names="name")
    result = retrieval(task)
    found = {name: entry["value"] for name, entry in result.report["metrics"].items()}
    # q, easy: d is junk too; ranking b c e f: places 0 and 2. (1 + (1/2 + 2/3) / 2) / 2.
    # r has no easy positive and is left out.
    assert found["map_easy"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    # q, medium: ranking b c d e f: places 0, 2, 3; r: f is nearest to it.
    first = (1 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3
    assert found["map_medium"] == pytest.approx((first + 1) / 2)
    # q, hard: easy ones are junk; ranking c d f: place 1. (0 + 1/2) / 2.
    assert found["map_hard"] == pytest.approx((1 / 4 + 1) / 2)
    assert found["mp1_hard"] == pytest.approx(0.5)
    assert found["mp5_hard"] == pytest.approx((1 / 2 + 1) / 2)  # cut at the last positive: 1 of 2, 1 of 1
    assert result.report["queries"]["with_positives"] == {"easy": 1, "medium": 2, "hard": 2}
    assert all(m["low"] <= m["value"] <= m["high"] for m in result.report["metrics"].values())


def test_names_from_shard_sets(tmp_path: Path) -> None:
    shards = picture_shards(tmp_path / "set", 6)  # sources 0.jpg ... 5.jpg
    from seerctl.shards.index import ShardSet
    from seerctl.shards.metadata import read_sources

    with ShardSet.open(shards) as opened:
        sources = read_sources(opened)
    points, _ = clouds(6)
    from seerctl.features.writer import FeatureWriter, finish, part_of
    from tests.feature_files import header

    path = tmp_path / "f.h5"
    writer = FeatureWriter(part_of(path), header(), rows=6, dim=16, dtype="float32")
    writer.append(points, sorted(sources), [{}] * 6)
    writer.close()
    finish(path, [part_of(path)], header(), 6)
    truth = tmp_path / "gnd.json"
    truth.write_text(json.dumps([{"query": "3", "relevant": ["4.jpg", sorted(sources)[0]]}]))
    try:
        report = retrieval(load_retrieval(path, truth=truth, data=[str(shards)])).report
    except InputError:  # the first key happened to be that of 3 or 4
        raise AssertionError("names were not found") from None
    assert report["metrics"]["map"]["n"] == 1
    with pytest.raises(InputError, match=r"no row is called '3'.*--data"):
        load_retrieval(path, truth=truth)


def test_a_column_equals_scikit_learns_ranking(tmp_path: Path) -> None:
    points, labels = clouds(300, spread=2.5)
    file = write_features(tmp_path / "f.h5", points, {"label": labels})
    result = retrieval(load_retrieval(file, target="label"), full=True)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    names = np.array(labels)
    exact, hits = [], []
    for row in range(300):
        others = np.arange(300) != row  # never finds itself
        similarity = (unit @ unit[row])[others]
        right = names[others] == names[row]
        exact.append(average_precision_score(right, similarity))
        hits.append(right[np.argsort(-similarity)[:5]].any())
    metrics = result.report["metrics"]
    assert metrics["map"]["value"] == pytest.approx(np.mean(exact), abs=0.01)  # trapezoids, not steps
    assert metrics["r5"]["value"] == pytest.approx(np.mean(hits))
    assert metrics["map"]["n"] == 300
    first = result.rankings[0]
    assert first["query"] == key(0)
    assert len(first["found"]) == 10
    assert first["query"] not in {row["key"] for row in first["found"]}
    assert [row["relevant"] for row in first["found"]].count(True) > 3


def test_whitening_learnt_elsewhere_undoes_a_dominant_direction(tmp_path: Path) -> None:
    def made(name: str, seed: int, start: int) -> Path:
        points, labels = clouds(200, classes=5, seed=seed, spread=0.5)
        noise = np.random.default_rng(seed + 50).normal(size=(200, 1)).astype(np.float32)
        return write_features(tmp_path / name, np.hstack([points, 30 * noise]), {"label": labels}, start=start)

    files = {"test": made("q.h5", 1, 0), "train": made("i.h5", 2, 300)}
    plain = run_protocol("retrieval", files, "label")
    white = run_protocol("retrieval", {**files, "whiten": made("w.h5", 3, 600)}, "label", {"components": 5})
    assert white.report["metrics"]["map"]["value"] > plain.report["metrics"]["map"]["value"] + 0.1
    assert white.report["settings"]["whitening"] == {"components": 5, "asked": 5, "floor": 1e-5}
    assert white.report["whiten"]["rows"] == 200
    same = run_protocol("retrieval", {**files, "whiten": files["train"]}, "label")
    assert [w.split(":")[0] for w in same.report["warnings"]] == ["whitening", "whitening"]


def test_regions_are_vectors_of_their_own(tmp_path: Path) -> None:
    points, labels = clouds(60, dim=24)
    whole = write_features(tmp_path / "a.h5", points, {"label": labels})
    parts = write_features(tmp_path / "b.h5", points, {"label": labels}, regions=3)
    split = points.reshape(60, 3, 8)
    summed = (split / np.linalg.norm(split, axis=2, keepdims=True)).sum(1)
    by_hand = write_features(tmp_path / "c.h5", summed, {"label": labels})
    scores = [retrieval(load_retrieval(f, target="label")).report["metrics"] for f in (whole, parts, by_hand)]
    assert scores[1] == scores[2] != scores[0]


def test_distractors_stand_in_the_way(tmp_path: Path, files: tuple[Path, Path]) -> None:
    truth = tmp_path / "gnd.json"
    truth.write_text(json.dumps([{"query": "q", "relevant": ["a"]}]))
    crowd = by_angle(tmp_path / "d.h5", [0.05, 0.06, 0.9], "xyz", 50)
    task = load_retrieval(files[0], files[1], truth=truth, names="name", distractors=[crowd])
    result = retrieval(task)
    assert result.report["metrics"]["map"]["value"] == pytest.approx((0 + 1 / 3) / 2)
    assert result.report["index_rows"] == 9
    assert result.report["distractors"]["rows"] == 3


def _pickle(path: Path) -> Path:
    path.write_bytes(pickle.dumps(PUBLISHED))
    return path


def _text(value: Any) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("gnd.pkl", _pickle, "pickles run code and are not read. Convert it"),
        ("g.json", _text({"a": 1}), "no ground truth"),
        ("g.json", _text([]), "no queries"),
        ("g.json", _text([{"easy": []}]), "query 1 is not an object with a name"),
        ("g.json", _text([{"query": "q", "esay": []}]), "query 1 has 'esay'. Known: query, easy"),
        ("g.json", _text([{"query": "q", "easy": [3]}]), "'easy' of query 1 is not a list of names"),
        ("g.json", _text([{"query": "q", "easy": []}, {"query": "r", "relevant": []}]), "Use one of the two"),
        ("g.json", _text({**PUBLISHED, "imlist": ["a"]}), "query 'q' names places that 'imlist' (1) does not have"),
        ("g.json", _text({**PUBLISHED, "gnd": [{"easy": [-1]}, {}]}), "query 'q' names places"),
        ("g.json", _text({**PUBLISHED, "gnd": []}), "not lists that belong together"),
        ("g.csv", _text("query,image\nq,a\n"), "no column 'grade'"),
        ("g.csv", _text("query,image,grade\nq,a,good\n"), "the grade 'good' of query 'q'"),
        ("g.txt", _text("q a"), "not a format of tables"),
    ],
)
def test_bad_ground_truths(name: str, make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, UsageError)) as error:
        read_truth(make(tmp_path / name))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_input(files: tuple[Path, Path], tmp_path: Path) -> None:
    truth = tmp_path / "g.json"
    with pytest.raises(UsageError, match="either --truth FILE or --target"):
        load_retrieval(*files)
    with pytest.raises(InputError, match=r"g.json: no such file"):
        load_retrieval(*files, truth=truth)
    truth.write_text(json.dumps([{"query": "q", "relevant": []}]))
    with pytest.raises(InputError, match="no query has any relevant"):
        load_retrieval(*files, truth=truth, names="name")
    with pytest.raises(UsageError, match=r"no column 'nmae'. Did you mean 'name'"):
        load_retrieval(*files, truth=truth, names="nmae")
    with pytest.raises(InputError, match="no query has a 'name' that another row"):
        load_retrieval(*files, target="name")
    other = write_features(tmp_path / "o.h5", np.ones((3, 2), np.float32), {"name": list("abc")}, layer="res4")
    with pytest.raises(UsageError, match="its layer is"):
        load_retrieval(files[0], other, target="name")
    broken = write_features(tmp_path / "n.h5", np.full((3, 2), np.nan, np.float32), {"name": list("abc")})
    with pytest.raises(InputError, match=r"n.h5: some rows have non-finite"):
        load_retrieval(files[0], broken, target="name")
    with pytest.raises(UsageError, match="k has to be 1 or more"):
        retrieval(load_retrieval(files[1], by_angle(tmp_path / "x.h5", ANGLES, INDEX, 50), target="name"), [0])
